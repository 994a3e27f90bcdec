"""Arrays that lie in files, mapped into memory: external data, and what is spilled of the weights that a run makes.

The system loads the pages that are looked at and drops them where memory is short; onnxruntime maps the same file
itself, so that a session needs no copy.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from toolkit.base.temporary import temporary_folder
from toolkit.base.types import Array

SPILL_BYTES = 1 << 20
"""Smaller arrays stay in memory."""
ROOM = 256 << 20
"""What arrays of that size may take of memory before the next ones are spilled."""


@dataclass(frozen=True)
class FilePlace:
    """Where an array's bytes are: in a file, from an offset on."""

    path: Path
    offset: int


@dataclass(frozen=True)
class _File:
    path: Path
    device: int
    inode: int
    address: int


_files: weakref.WeakKeyDictionary[mmap.mmap, _File] = weakref.WeakKeyDictionary()


def map_file(stream: IO[bytes], path: Path) -> mmap.mmap:
    """An opened file, mapped; ``place_of`` knows the arrays that are made of it.

    Args:
        stream: the file; it may be closed afterwards.
        path: its path, without links.
    """
    mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    status = os.fstat(stream.fileno())
    address = np.frombuffer(mapped, np.uint8).ctypes.data
    _files[mapped] = _File(path, status.st_dev, status.st_ino, address)
    return mapped


def place_of(values: Array) -> FilePlace | None:
    """The file that an array is mapped from; None where it is not, or its path is not to be handed on.

    A path is not where it leads to another file by now, or is no UTF-8, as a message's texts are.
    """
    found = _file_of(values)
    if found is None or not values.flags.c_contiguous:
        return None
    try:
        str(found.path).encode()
        status = found.path.stat()
    except (OSError, UnicodeEncodeError):
        return None
    same = (status.st_dev, status.st_ino) == (found.device, found.inode)
    return FilePlace(found.path, values.ctypes.data - found.address) if same else None


def spilled(values: Array) -> Array:
    """The same values, read-only and in a temporary file, where what is in memory is much already.

    Small arrays, those that are mapped, and all where the disk has no room, are given back as they are.
    """
    if values.nbytes < SPILL_BYTES or values.dtype.hasobject or _file_of(values) is not None:
        return values
    if _store.has_room(values):
        return values
    try:
        return _store.add(values)
    except OSError:
        return values


def release_pages() -> None:
    """Let go of the pages of all mapped files; what is looked at again comes from the system's cache, or the disk."""
    for mapped in list(_files):
        if hasattr(mapped, "madvise"):
            mapped.madvise(mmap.MADV_DONTNEED)


def _file_of(values: Any) -> _File | None:
    base = values
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return _files.get(base) if isinstance(base, mmap.mmap) else None


class _Store:
    """The temporary folder of what is spilled: there while an array lies in it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._held: dict[int, int] = {}
        self._folder: tuple[ExitStack, Path] | None = None
        self._count = self._number = 0

    def has_room(self, values: Array) -> bool:
        """Whether an array may stay in memory; if so, it is counted for as long as it is there."""
        owner = values
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        with self._lock:
            if id(owner) in self._held:
                return True
            if sum(list(self._held.values())) + owner.nbytes > ROOM:
                return False
            self._held[id(owner)] = owner.nbytes
        weakref.finalize(owner, self._held.pop, id(owner), None).atexit = False
        return True

    def add(self, values: Array) -> Array:
        """Write an array into a file of its own."""
        with self._lock:
            # first of all: a collection of garbage within this block may drop what is the last one until then
            self._count, self._number = self._count + 1, self._number + 1
            name = str(self._number)
        path: Path | None = None
        try:
            path = self._opened() / name
            with path.open("wb") as stream:
                stream.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
            with path.open("rb") as stream:
                mapped = map_file(stream, path)
        except BaseException:
            self._drop(path)
            raise
        weakref.finalize(mapped, self._drop, path)
        return (
            np.frombuffer(mapped, np.uint8, math.prod(values.shape) * values.itemsize)
            .view(values.dtype)
            .reshape(values.shape)
        )

    def _opened(self) -> Path:
        with self._lock:
            if self._folder is None:
                stack = ExitStack()
                self._folder = stack, stack.enter_context(temporary_folder("weights")).resolve()
            return self._folder[1]

    def _drop(self, path: Path | None) -> None:
        with self._lock:
            if path is not None:
                path.unlink(missing_ok=True)
            self._count -= 1
            if not self._count and self._folder is not None:
                folder, self._folder = self._folder[0], None
                folder.close()


_store = _Store()
