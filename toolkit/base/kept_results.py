"""Results of functions of arrays that nobody writes to: a search compares hundreds of states with the same outputs."""

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
"""A result is kept where it takes this many times less than the array: as many as there are arrays can be held."""
_ENTRY = 512
"""Bytes that an entry takes besides arrays, at a guess."""


class _Kept:
    """Results by function, array and other arguments; those of arrays that are gone are dropped."""

    def __init__(self) -> None:
        self._found: OrderedDict[Any, tuple[weakref.ref[Array], Any, int]] = OrderedDict()
        self._size, self._lock = 0, Lock()

    def get(self, key: Any, owner: Array) -> tuple[Any] | None:
        """What is kept, alone in a tuple; None where nothing is."""
        with self._lock:
            entry = self._found.get(key)
            if entry is None or entry[0]() is not owner:
                return None
            self._found.move_to_end(key)
            return (entry[1],)

    def add(self, key: Any, owner: Array, result: Any, size: int) -> None:
        """Keep a result; the longest unused ones go where there are too many."""
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
"""By ``id`` the arrays given to ``fixed`` that are still there."""


def kept_where_fixed(function: Callable[Concatenate[Array, P], T]) -> Callable[Concatenate[Array, P], T]:
    """A function of an array whose result is kept, for the next call with the same values, where nobody changes these.

    That is where the memory's owner is read-only, or was given to ``fixed``: a read-only view of any other may change.

    The result, an array, a number or a tuple of such, is not to be changed; other arguments are hashable.
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
    """A view of an array that nobody writes to from here on, itself or through this view."""
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
    """The array that holds the memory of a view."""
    while isinstance(values.base, np.ndarray):
        values = values.base
    return values
