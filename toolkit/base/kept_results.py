"""A cache of function results for read-only arrays: a search compares hundreds of states with the same outputs."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from toolkit.base.types import Array

P = ParamSpec("P")
T = TypeVar("T")
_BYTES = 32 << 20
_SMALLER = 16
"""A result is cached if it takes this many times less memory than the array, so every array can have one."""
_ENTRY = 512
"""Estimated bytes of a cache entry besides its arrays."""


class _Kept:
    """Results by function, array and other arguments; entries of deleted arrays are never used."""

    def __init__(self) -> None:
        self._found: OrderedDict[Any, tuple[weakref.ref[Array], Any, int]] = OrderedDict()
        self._size, self._lock = 0, Lock()

    def get(self, key: Any, owner: Array) -> tuple[Any] | None:
        """The cached result in a tuple of one; None if there is none."""
        with self._lock:
            entry = self._found.get(key)
            if entry is None or entry[0]() is not owner:
                return None
            self._found.move_to_end(key)
            return (entry[1],)

    def add(self, key: Any, owner: Array, result: Any, size: int) -> None:
        """Cache a result; the least recently used ones are dropped if there are too many."""
        with self._lock:
            self._drop(key)
            self._found[key] = weakref.ref(owner), result, size + _ENTRY
            self._size += size + _ENTRY
            while self._size > _BYTES:
                self._drop(next(iter(self._found)))

    def _drop(self, key: Any) -> None:
        if (entry := self._found.pop(key, None)) is not None:
            self._size -= entry[2]


_kept = _Kept()
_fixed: dict[int, weakref.ref[Array]] = {}
"""Living arrays that were given to ``fixed``, by ``id``."""


def kept_where_fixed(function: Callable[Concatenate[Array, P], T]) -> Callable[Concatenate[Array, P], T]:
    """Cache a function's results for arrays whose values cannot change.

    Their memory's owner must be read-only or given to ``fixed``: a read-only view of any other array may change.

    Results, an array, a number or a tuple of these, must not be modified; other arguments must be hashable.
    """

    @wraps(function)
    def kept(values: Array, /, *more: P.args, **named: P.kwargs) -> T:
        if not isinstance(values, np.ndarray) or values.flags.writeable:
            return function(values, *more, **named)
        owner = _owner(values)
        if owner.flags.writeable and not _is_fixed(owner):
            return function(values, *more, **named)
        place = values.__array_interface__["data"][0], values.shape, values.strides, values.dtype.str
        key = function, place, more, tuple(sorted(named.items()))
        if (found := _kept.get(key, owner)) is not None:
            return found[0]
        made = function(values, *more, **named)
        parts = made if isinstance(made, tuple) else (made,)
        arrays = [part for part in parts if isinstance(part, np.ndarray)]
        size = sum(part.nbytes for part in arrays)
        if size * _SMALLER <= values.nbytes:
            for part in arrays:
                part.flags.writeable = False
            _kept.add(key, owner, made, size)
        return made

    return kept


def fixed(values: Array) -> Array:
    """A read-only view of an array that the caller will no longer modify, neither directly nor through a view."""
    view = values.view()
    view.flags.writeable = False
    owner = _owner(values)
    key = id(owner)
    _fixed[key] = weakref.ref(owner, lambda gone: _fixed.pop(key, None))
    return view


def _is_fixed(owner: Array) -> bool:
    held = _fixed.get(id(owner))
    return held is not None and held() is owner


def _owner(values: Array) -> Array:
    """The array that owns the memory of a view."""
    while isinstance(values.base, np.ndarray):
        values = values.base
    return values
