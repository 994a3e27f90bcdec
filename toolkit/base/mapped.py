"""Arrays that lie in files, mapped into memory, and the places that they have there.

The system loads the pages that are looked at and drops them where memory is short. Whoever knows the place can map the
same pages: onnxruntime and other processes.
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
"""``M_MMAP_THRESHOLD`` of glibc's malloc.h."""
_AT_ONCE = 1 << 20
LOOKED_AT = 256 << 20
"""Bytes of mapped files that are looked at before their pages are let go of."""


@dataclass(frozen=True)
class FilePlace:
    """Where an array's bytes are: in a file, from an offset on.

    Attributes:
        path: the file's path, without links.
        offset: in bytes.
        file: its device and its number there, which distinguish it from another file that takes its path.
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
    """An opened file, mapped; ``place_of`` knows the arrays that are made of it.

    Args:
        stream: the file; it may be closed afterwards.
        path: its path, without links.
    """
    mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    address = np.frombuffer(mapped, np.uint8).ctypes.data
    _files[mapped] = _File(path, file_number(os.fstat(stream.fileno())), address)
    return mapped


def file_number(status: os.stat_result) -> tuple[int, int]:
    """A file's device and its number there; see ``FilePlace``."""
    return status.st_dev, status.st_ino


def map_same(place: FilePlace) -> mmap.mmap:
    """The file of a place that another process named, mapped.

    Raises:
        DataError: its path leads to another file by now.
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
    """The file that an array is mapped from; None where it is not, or its path is not to be handed on.

    A path is not handed on where it leads to another file by now, or is not UTF-8, as a message's strings must be.
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
    """Let go of the pages of all mapped files; what is looked at again comes from the system's cache, or the disk."""
    # other threads map files meanwhile: of a weak dictionary the references alone are listed in one piece
    for reference in _files.keyrefs():
        mapped = reference()
        if mapped is not None and hasattr(mapped, "madvise"):
            mapped.madvise(mmap.MADV_DONTNEED)


def looked_at(values: Array) -> Array:
    """The same values, which are about to be read; of mapped files no more than 256 MB stay in memory for that."""
    if is_mapped(values):
        was_read(values.nbytes)
    return values


def was_read(size: int) -> None:
    """Count bytes of mapped files that are read; where they have become many, their pages are let go of."""
    pages_read.bytes += size
    if pages_read.bytes > pages_read.most:
        pages_read.bytes = 0
        release_pages()


def hold_pages(size: int | None) -> None:
    """How many bytes of mapped files may be in memory for reading from here on; 256 MB where None, and at most."""
    pages_read.most = LOOKED_AT if size is None else min(LOOKED_AT, size)


@dataclass
class PagesRead:
    """How many bytes of mapped files were read since pages were last let go of, and the limit for that."""

    bytes: int = 0
    most: int = LOOKED_AT


pages_read = PagesRead()
"""This process's."""


def return_freed_memory() -> None:
    """Have this process give freed blocks of 1 MB and more back to the system at once, where it runs on glibc.

    By itself glibc keeps blocks of up to 32 MB once some of their size were freed: weights that are loaded by turns
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
