"""Spilling of large derived weights: arrays in temporary files, memory-mapped like external data."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.base.mapped import is_mapped, looked_at, map_file
from toolkit.base.parts import parts_of
from toolkit.base.temporary import temporary_folder
from toolkit.base.types import Array

SPILL_BYTES = 1 << 20
"""Size in bytes below which arrays stay in memory."""
ROOM = 256 << 20
"""Bytes of memory that arrays may use before the next ones are spilled."""


def spilled(values: Array) -> Array:
    """The same values, read-only in a temporary file if the arrays in memory are already at their limit.

    Small or mapped arrays are returned unchanged, as are all arrays if the disk is full.
    """
    if values.nbytes < SPILL_BYTES or values.dtype.hasobject or is_mapped(values):
        return values
    if _store.has_room(values):
        return values
    try:
        return _store.add(values.shape, values.dtype, [values])
    except OSError:
        return values


def spilled_as(values: Array, dtype: np.dtype[Any]) -> Array:
    """A copy of the values with another element type, see ``spilled``: a spilled copy is converted part by part."""
    size = values.size * dtype.itemsize
    if size < SPILL_BYTES or dtype.hasobject or not values.flags.c_contiguous or _store.fits(size):
        return spilled(values.astype(dtype))
    flat = values.reshape(-1)
    try:
        return _store.add(values.shape, dtype, (looked_at(flat[part]).astype(dtype) for part in parts_of(flat)))
    except OSError:
        return values.astype(dtype)


def set_array_memory(size: int) -> None:
    """Set the memory for arrays from here on, in bytes, at most ``ROOM``; existing arrays stay."""
    _store.room = size


class _Store:
    """The temporary folder of spilled arrays, which exists as long as there are any."""

    def __init__(self) -> None:
        self.room = ROOM
        self._lock = threading.RLock()
        self._held: dict[int, int] = {}
        self._folder: tuple[ExitStack, Path] | None = None
        self._count = self._number = 0

    def has_room(self, values: Array) -> bool:
        """Whether an array may stay in memory; if so, it is counted until it is freed."""
        owner = values
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        with self._lock:
            if id(owner) in self._held:
                return True
            if sum(list(self._held.values())) + owner.nbytes > self.room:
                return False
            self._held[id(owner)] = owner.nbytes
        weakref.finalize(owner, self._held.pop, id(owner), None).atexit = False
        return True

    def fits(self, size: int) -> bool:
        """Whether an array of ``size`` bytes may stay in memory."""
        with self._lock:
            return sum(list(self._held.values())) + size <= self.room

    def add(self, shape: tuple[int, ...], dtype: np.dtype[Any], parts: Iterable[Array]) -> Array:
        """Write an array, given as consecutive parts, to its own file and map it."""
        with self._lock:
            # count first: garbage collection within this block may drop what was the last array
            self._count, self._number = self._count + 1, self._number + 1
            name = str(self._number)
        path: Path | None = None
        try:
            path = self._opened() / name
            with path.open("wb") as stream:
                for part in parts:
                    stream.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
            with path.open("rb") as stream:
                mapped = map_file(stream, path)
        except BaseException:
            self._drop(path)
            raise
        weakref.finalize(mapped, self._drop, path)
        return np.frombuffer(mapped, np.uint8, math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)

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
