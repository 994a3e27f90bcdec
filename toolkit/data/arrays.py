"""Arrays in .npy and .npz files, read a few rows at a time and never unpickled."""

from __future__ import annotations

import math
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from toolkit.base.errors import DataError
from toolkit.base.types import Array

_FAULTS = (OSError, ValueError, EOFError, KeyError, NotImplementedError, struct.error, zipfile.BadZipFile)
_LOCAL_HEADER = 30


class Stored:
    """One array in a file. Rows of arrays that are stored plainly are read from their place in the file.

    They are read and not memory-mapped, since the pages of a mapped file count as memory of the process for as long
    as the system likes. Compressed members, and arrays in Fortran's order, are read whole when first needed.

    Attributes:
        shape: of the whole array.
    """

    def __init__(self, path: Path, where: str, header: tuple[Any, ...], place: int | None, member: str = "") -> None:
        self.shape: tuple[int, ...] = tuple(int(size) for size in header[0])
        self._fortran, self._dtype = bool(header[1]), header[2]
        self._path, self._where, self._member = path, where, member
        self._place = None if self._fortran else place
        self._held: Array | None = None

    def rows(self, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop`` (not included) along axis 0.

        Raises:
            DataError: the file ends too early or is broken.
        """
        if self._place is None:
            return self._whole()[start:stop]
        row = math.prod(self.shape[1:])
        count = max(0, min(stop, self.shape[0]) - start)
        place = self._place + start * row * self._dtype.itemsize
        return self._read(place, (count, *self.shape[1:]))

    def whole(self) -> Array:
        """All of the array, at least of rank 1."""
        return np.atleast_1d(self._whole() if self._place is None else self._read(self._place, self.shape))

    def _read(self, place: int, shape: tuple[int, ...]) -> Array:
        try:
            return np.fromfile(self._path, self._dtype, math.prod(shape), offset=place).reshape(shape)
        except _FAULTS as error:
            raise unreadable(error, self._where) from error

    def _whole(self) -> Array:
        if self._held is None:
            try:
                with zipfile.ZipFile(self._path) if self._member else open(self._path, "rb") as source:
                    if isinstance(source, zipfile.ZipFile):
                        with source.open(self._member) as stream:
                            self._held = np.lib.format.read_array(stream, allow_pickle=False)
                    else:
                        self._held = np.lib.format.read_array(source, allow_pickle=False)
            except _FAULTS as error:
                raise unreadable(error, self._where) from error
        return self._held


def open_array(path: Path) -> Stored:
    """The array of an .npy file.

    Raises:
        DataError: it cannot be read, or holds Python objects.
    """
    try:
        with open(path, "rb") as stream:
            return Stored(path, str(path), _header(stream), stream.tell())
    except _FAULTS as error:
        raise unreadable(error, str(path)) from error


def open_archive(path: Path) -> dict[str, Stored]:
    """The arrays of an .npz file by key; only their headers are read.

    Raises:
        DataError: it is no such archive, or one of its arrays holds Python objects.
    """
    found = {}
    where = str(path)
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as plain:
            for info in archive.infolist():
                key = info.filename.removesuffix(".npy")
                where = f"{path}, '{key}'"
                place = None
                with archive.open(info) as stream:
                    header = _header(stream)
                    inside = stream.tell()
                if info.compress_type == zipfile.ZIP_STORED:
                    plain.seek(info.header_offset)
                    name, extra = struct.unpack("<26xHH", plain.read(_LOCAL_HEADER))
                    place = info.header_offset + _LOCAL_HEADER + name + extra + inside
                found[key] = Stored(path, where, header, place, info.filename)
    except _FAULTS as error:
        raise unreadable(error, where) from error
    return found


def _header(stream: Any | BinaryIO) -> tuple[Any, ...]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    header: tuple[Any, ...] = read(stream)
    if header[2].hasobject:
        raise ValueError("object arrays")
    return header


def unreadable(error: Exception, where: str) -> DataError:
    """The error to raise where a file cannot be read."""
    text = " ".join(str(error).split())
    if "pickle" in text or "object arrays" in text.lower():
        return DataError(
            "it holds Python objects, which qtool never unpickles",
            where=where,
            remedy="save plain arrays: samples of unlike shape each under its own key, 'name/00000', 'name/00001'...",
        )
    return DataError(f"it cannot be read: {text[:200]}", where=where, remedy="write the file again with numpy.savez")
