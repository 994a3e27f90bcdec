"""Arrays in .npy and .npz files, read a few rows at a time and never unpickled."""

from __future__ import annotations

import math
import os
import struct
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from toolkit.base.errors import DataError
from toolkit.base.files import file_state
from toolkit.base.reading import FileKind, open_regular, reading, require_regular
from toolkit.base.types import Array

ARRAYS = FileKind("it cannot be read", DataError, "write the file again with numpy.savez")
_LOCAL_HEADER = 30
_ENCRYPTED = 0x1
_KINDS = "?biufcSUV"
_VERSIONS = ((1, 0), (2, 0), (3, 0))
_MOST_RANK, _MOST_SIZE = 64, 1 << 48
_CHUNK = 1 << 20
_HELD = 64 << 20
_AHEAD = 128 << 10
"""Bytes that are read at once where rows are smaller, as many as Linux reads ahead: one row after another would open
the file for each."""
_BOMB_BYTES, _BOMB_RATIO = 4 << 30, 100
_verified: set[tuple[int, ...]] = set()


@dataclass(frozen=True)
class Layout:
    """The header of an .npy file, checked against the size of the file.

    Attributes:
        shape: of the array.
        dtype: as stored, possibly big-endian.
        fortran: whether the values are in Fortran (column-major) order.
        start: bytes before the first value.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    start: int

    @property
    def row(self) -> int:
        """Bytes of one row along axis 0."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


class Archive:
    """A zip file that is kept open and reopened only if the file changes: opening it reads its whole directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state: tuple[int, ...] = ()
        self._opened: zipfile.ZipFile | None = None

    def member(self, info: zipfile.ZipInfo) -> IO[bytes]:
        """A stream of a member's decompressed bytes."""
        state = file_state(self._path.stat())
        if self._opened is None or state != self._state:
            self._opened, self._state = zipfile.ZipFile(self._path), state
        return self._opened.open(info)

    def verify(self, info: zipfile.ZipInfo) -> None:
        """Check a member's CRC, once per state of the file."""
        key = (*file_state(self._path.stat()), info.header_offset, info.CRC)
        if key not in _verified:
            with self.member(info) as stream:
                # zipfile compares the CRC on the last read
                while stream.read(_CHUNK):
                    pass
            _verified.add(key)


@dataclass(frozen=True)
class Member:
    """One array of a zip archive.

    Attributes:
        archive: the archive that holds it.
        info: the archive's entry for it.
        place: byte offset of its content in the file; None if it is compressed.
    """

    archive: Archive
    info: zipfile.ZipInfo
    place: int | None


class Stored:
    """One array in a file. Rows of uncompressed arrays are read directly from their offset in the file, small rows
    together with those that follow, for as long as the file stays as it is.

    Files are not memory-mapped, since the operating system may count pages of a mapped file as memory of the process.
    Rows of large compressed members are decompressed one after another; small members, and arrays in Fortran order, are
    read whole when first needed. The CRC of an archive's member is checked before its first values are read.

    Attributes:
        shape: of the whole array.
        dtype: as stored.
    """

    def __init__(self, path: Path, where: str, layout: Layout, member: Member | None = None) -> None:
        self.shape, self.dtype = layout.shape, layout.dtype
        self._path, self._where, self._layout, self._member = path, where, layout, member
        self._held: Array | None = None
        self._ahead: tuple[tuple[int, ...], int, Array] | None = None
        self._stream: Any = None

    def rows(self, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop`` (exclusive) along axis 0, in native byte order.

        Raises:
            DataError: the file ends too early or is broken.
        """
        plain = self._member is None or self._member.place is not None
        if self._layout.fortran or (not plain and math.prod(self.shape) * self._layout.dtype.itemsize <= _HELD):
            if self._held is None:
                self._held = self._whole()
            return self._held[start:stop]
        count = max(0, min(stop, self.shape[0]) - start)
        if plain and count and count * self._layout.row * 2 <= _AHEAD:
            return self._among_next(start, count)
        return self._read(start * self._layout.row, (count, *self.shape[1:]))

    def _among_next(self, start: int, count: int) -> Array:
        """Rows of an uncompressed array, copied from those read ahead."""
        with reading(self._where, ARRAYS):
            state = file_state(self._path.stat())
        ahead = self._ahead
        if ahead is None or ahead[0] != state or not ahead[1] <= start <= ahead[1] + len(ahead[2]) - count:
            number = min(_AHEAD // max(1, self._layout.row), self.shape[0] - start)
            if number == count:
                # nothing follows, and an archive may have thousands of such arrays
                return self._read(start * self._layout.row, (count, *self.shape[1:]))
            ahead = state, start, self._read(start * self._layout.row, (number, *self.shape[1:]))
            self._ahead = ahead
        _, first, rows = ahead
        return rows[start - first : start - first + count].copy()

    def whole(self) -> Array:
        """The whole array, of rank 1 or more, in native byte order."""
        return np.atleast_1d(self._whole())

    def _whole(self) -> Array:
        if self._layout.fortran:
            return self._read(0, self.shape[::-1]).transpose()
        return self._read(0, self.shape)

    def _read(self, offset: int, shape: tuple[int, ...]) -> Array:
        offset, count = offset + self._layout.start, math.prod(shape)
        if not count:
            return np.empty(shape, self._layout.dtype)
        with reading(self._where, ARRAYS):
            member = self._member
            if member is None or member.place is not None:
                if member is not None:
                    member.archive.verify(member.info)
                offset += member.place or 0 if member is not None else 0
                found = np.fromfile(self._path, self._layout.dtype, count, offset=offset)
            else:
                found = np.frombuffer(bytearray(self._unpacked(member, offset, count)), self._layout.dtype)
            if len(found) != count:
                raise ValueError(f"it ends after {len(found)} of {count} values")
            return native(found.reshape(shape))

    def _unpacked(self, member: Member, offset: int, count: int) -> bytes:
        if self._stream is None:
            member.archive.verify(member.info)
            # kept open, since rows are read one after another
            self._stream = member.archive.member(member.info)
        self._stream.seek(offset)
        content: bytes = self._stream.read(count * self._layout.dtype.itemsize)
        return content


def native(value: Array) -> Array:
    """The array in native byte order."""
    return value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))


def open_array(path: Path) -> Stored:
    """The array of an .npy file.

    Raises:
        DataError: it cannot be read, or holds Python objects.
    """
    with reading(path, ARRAYS), open_regular(path) as stream:
        return Stored(path, str(path), layout_of(stream, os.fstat(stream.fileno()).st_size, str(path)))


def open_archive(path: Path, kind: FileKind = ARRAYS) -> dict[str, Stored]:
    """The arrays of an .npz file by key; only their headers are read.

    Raises:
        DataError: it is not such an archive, or one of its arrays cannot be read, holds Python objects, or claims more
            bytes than the file has. ``kind`` names another class of error.
    """
    with reading(path, kind):
        require_regular(path)
        found, shared = _headers(path, file_state(path.stat()), kind), Archive(path)
    return {key: Stored(path, where, layout, Member(shared, *place)) for key, (where, layout, place) in found.items()}


@lru_cache(maxsize=2)
def _headers(
    path: Path, state: tuple[int, ...], kind: FileKind
) -> dict[str, tuple[str, Layout, tuple[zipfile.ZipInfo, int | None]]]:
    """The headers of an archive; cached for the two archives of a run, which are read many times."""
    found = {}
    with zipfile.ZipFile(path) as archive, open_regular(path) as plain:
        for info in archive.infolist():
            key = info.filename.removesuffix(".npy")
            where = f"{path}, '{key}'"
            with reading(where, kind):
                if key in found:
                    raise ValueError("there are two arrays of this name")
                _check_member(info, os.fstat(plain.fileno()).st_size)
                with archive.open(info) as stream:
                    layout = layout_of(stream, info.file_size, where)
                place = _place(plain, info) if info.compress_type == zipfile.ZIP_STORED else None
                found[key] = where, layout, (info, place)
    return found


def _check_member(info: zipfile.ZipInfo, file_size: int) -> None:
    """Refuse members that cannot be read, or whose decompressed size is implausibly large."""
    if info.flag_bits & _ENCRYPTED:
        raise ValueError("it is encrypted, and qtool cannot decrypt it")
    packed = info.compress_type != zipfile.ZIP_STORED
    if info.compress_size > file_size or (not packed and info.file_size != info.compress_size):
        raise ValueError(f"it claims {max(info.file_size, info.compress_size):,} bytes of a file of {file_size:,}")
    if info.file_size > max(_BOMB_BYTES, _BOMB_RATIO * info.compress_size):
        raise ValueError(
            f"it claims {info.file_size / 1e9:.1f} GB, compressed to {info.compress_size / 1e6:.1f} MB, as files do "
            "that are made to fill memory and disk; numpy.savez does not compress"
        )


def _place(plain: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Byte offset of the content of an uncompressed member."""
    plain.seek(info.header_offset)
    name, extra = struct.unpack("<26xHH", plain.read(_LOCAL_HEADER))
    return info.header_offset + _LOCAL_HEADER + int(name) + int(extra)


def layout_of(stream: Any, size: int, where: str) -> Layout:
    """The header of an .npy file or member of ``size`` bytes; ``stream`` is at its start.

    Raises:
        DataError: it holds Python objects, or values of a dtype that is not supported.
        ValueError: the header is broken, or claims more bytes than there are; also what numpy's own reader raises.
    """
    version = np.lib.format.read_magic(stream)
    if version not in _VERSIONS:
        raise ValueError(f"its header is of version {version[0]}.{version[1]}, which NumPy does not have")
    length = stream.read(2 if version == (1, 0) else 4)
    shape, fortran, dtype = _parsed(version, length + stream.read(int.from_bytes(length, "little")))
    if dtype.hasobject:
        raise DataError(
            "it holds Python objects, which qtool never unpickles",
            where=where,
            remedy="save plain arrays: samples of different shapes under separate keys, 'name/00000', 'name/00001'...",
        )
    if dtype.names or dtype.subdtype is not None or dtype.kind not in _KINDS or not dtype.itemsize:
        what = f"its dtype is {dtype}, which qtool does not support"
        raise DataError(what, where=where, remedy="save it as float32 or int64")
    if len(shape) > _MOST_RANK or any(type(side) is not int or not 0 <= side <= _MOST_SIZE for side in shape):
        raise ValueError(f"its header gives the shape {str(shape)[:80]}")
    start = stream.tell()
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > size - start:
        raise ValueError(f"its header claims {claimed:,} bytes of values, and there are {size - start:,}")
    return Layout(tuple(shape), dtype, bool(fortran), start)


@lru_cache(maxsize=1024)
def _parsed(version: tuple[int, int], header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and dtype of a header; cached, since most samples of an archive have the same header."""
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(BytesIO(header))
    except ValueError as error:
        if "malformed" in str(error):
            # numpy's message contains the memory address of a Python object
            raise ValueError("its header does not describe an array") from error
        raise
    return found
