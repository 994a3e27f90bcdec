"""Arrays memory-mapped from files, and their locations in these files.

The system loads pages when they are accessed and drops them when memory is short. Others that know the location can map
the same pages: onnxruntime and other processes.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from toolkit.base.errors import DataError
from toolkit.base.types import Array

_MMAP_THRESHOLD = -3
"""``M_MMAP_THRESHOLD`` in glibc's malloc.h."""
_AT_ONCE = 1 << 20
LOOKED_AT = 256 << 20
"""Bytes of mapped files that may be read before their pages are released."""


@dataclass(frozen=True)
class FilePlace:
    """The location of an array's bytes in a file.

    Attributes:
        path: path of the file, without links.
        offset: of the first byte.
        file: device and inode number, which distinguish it from another file that takes over its path.
    """

    path: Path
    offset: int
    file: tuple[int, int]


@dataclass(frozen=True)
class _File:
    path: Path
    file: tuple[int, int]
    address: int


_files: weakref.WeakKeyDictionary[mmap.mmap, _File] = weakref.WeakKeyDictionary()


def map_file(stream: IO[bytes], path: Path) -> mmap.mmap:
    """Map an open file; ``place_of`` then finds the location of arrays made from the map.

    Args:
        stream: the file; it may be closed afterwards.
        path: path of the file, without links.
    """
    mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    address = np.frombuffer(mapped, np.uint8).ctypes.data
    _files[mapped] = _File(path, file_number(os.fstat(stream.fileno())), address)
    return mapped


def file_number(status: os.stat_result) -> tuple[int, int]:
    """Device and inode number of a file; see ``FilePlace``."""
    return status.st_dev, status.st_ino


def map_same(place: FilePlace) -> mmap.mmap:
    """Map the file of a location that another process reported.

    Raises:
        DataError: the path now leads to another file.
    """
    with place.path.open("rb") as stream:
        if file_number(os.fstat(stream.fileno())) != place.file:
            raise DataError(
                "it was replaced by another file while it was being read",
                where=str(place.path),
                remedy="run again when it is complete",
            )
        return map_file(stream, place.path)


def place_of(values: Array) -> FilePlace | None:
    """The location of an array that is mapped from a file; None if it is not mapped, or its path cannot be passed on.

    A path cannot be passed on if it now leads to another file, or is not UTF-8, which protobuf strings require.
    """
    found = _file_of(values)
    if found is None or not values.flags.c_contiguous:
        return None
    try:
        str(found.path).encode()
        same = file_number(found.path.stat()) == found.file
    except (OSError, UnicodeEncodeError):
        return None
    return FilePlace(found.path, values.ctypes.data - found.address, found.file) if same else None


def is_mapped(values: Array) -> bool:
    """Whether an array is mapped from a file."""
    return _file_of(values) is not None


def release_pages() -> None:
    """Release the pages of all mapped files; when accessed again, they come from the system's cache or the disk."""
    # other threads map files meanwhile, and only the list of a weak dictionary's references is taken atomically
    for reference in _files.keyrefs():
        mapped = reference()
        if mapped is not None and hasattr(mapped, "madvise"):
            mapped.madvise(mmap.MADV_DONTNEED)


def looked_at(values: Array) -> Array:
    """The same values, announced as about to be read; at most 256 MB of mapped files stay in memory for reading."""
    if is_mapped(values):
        was_read(values.nbytes)
    return values


def was_read(size: int) -> None:
    """Count bytes that are read from mapped files, and release their pages when the limit is exceeded."""
    pages_read.bytes += size
    if pages_read.bytes > pages_read.most:
        pages_read.bytes = 0
        release_pages()


def hold_pages(size: int | None) -> None:
    """Limit the bytes of mapped files in memory for reading; None, like larger values, means 256 MB."""
    pages_read.most = LOOKED_AT if size is None else min(LOOKED_AT, size)


@dataclass
class PagesRead:
    """Bytes of mapped files that were read since pages were last released, and the limit for them."""

    bytes: int = 0
    most: int = LOOKED_AT


pages_read = PagesRead()
"""The count of this process."""


def return_freed_memory() -> None:
    """Make this process return freed blocks of 1 MB and more to the system at once, on glibc.

    By default glibc keeps blocks of up to 32 MB after some of that size were freed: weights that are loaded in turn
    would take several times their size.
    """
    if sys.platform.startswith("linux"):
        # other C libraries have no such setting
        with suppress(AttributeError):
            ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _AT_ONCE)


def _file_of(values: Any) -> _File | None:
    base = values
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return _files.get(base) if isinstance(base, mmap.mmap) else None
