"""Dynamic dimensions by name: which inputs share one, and the axis of each input along which samples are joined."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Dims = Sequence[int | str | None]
"""The declared dimensions of an input: a number if fixed, a name if it has one, else None."""

_BATCH = re.compile(r"n|b|bs|bsz|nb|num_samples|[\w.:]*batch([ -](size|dim|dimension|axis))?[\w.:]*", re.IGNORECASE)
_NO_NAMES = frozenset({"?", "*", "-1", "None", "none"})
"""Placeholders of exporters for unknown names."""
_MADE_UP = re.compile(r"s\d+|unk__?\d+|.*_dim_\d+|.*_dynamic_axes_\d+")
"""Generated names of exporters for dimensions without a name."""


def dim_of(value: Any) -> int | str | None:
    """A declared dimension: a number, a name, or None if it is neither."""
    if isinstance(value, str):
        return value if value and value not in _NO_NAMES else None
    return int(value) if value is not None and int(value) >= 0 else None


def is_batch_name(name: int | str | None) -> bool:
    """Whether a dimension has a usual name for the number of samples: batch, batch_size, N, bs."""
    return isinstance(name, str) and _BATCH.fullmatch(name) is not None


def may_be_batch(name: int | str | None) -> bool:
    """Whether a dynamic dimension has a name for the number of samples, or no meaningful name."""
    return name is None or is_batch_name(name) or (isinstance(name, str) and _MADE_UP.fullmatch(name) is not None)


def places(shapes: Mapping[str, Dims]) -> dict[str, list[tuple[str, int]]]:
    """The positions of each named dimension: ``{name: [(input, axis), ...]}``, in the order of inputs."""
    found: dict[str, list[tuple[str, int]]] = {}
    for name, dims in shapes.items():
        for axis, dim in enumerate(dims):
            if isinstance(dim, str):
                found.setdefault(dim, []).append((name, axis))
    return found


def batch_axes(shapes: Mapping[str, Dims]) -> dict[str, int]:
    """The batch axis of each input, along which samples are joined; inputs without one are missing.

    In every input it is the first axis with a name for the batch (``is_batch_name``). If no input has such a name, it
    is the first dimension whose name at least two inputs share, if it is the first axis of one of them; otherwise the
    first axis of each input, if all of these are dynamic. First axes without a name are batch axes if other inputs have
    one.

    Args:
        shapes: the declared dimensions of each input; scalars are ignored.
    """
    ranked = {name: dims for name, dims in shapes.items() if len(dims)}
    named = {
        name: next((axis for axis, dim in enumerate(dims) if is_batch_name(dim)), None) for name, dims in ranked.items()
    }
    if all(axis is None for axis in named.values()):
        shared = _shared(ranked)
        if shared is None:
            first = {name: 0 for name, dims in ranked.items() if not isinstance(dims[0], int)}
            return first if len(first) == len(ranked) else {}
        named = {name: list(dims).index(shared) if shared in dims else None for name, dims in ranked.items()}
    return {
        name: axis if axis is not None else 0
        for name, axis in named.items()
        if axis is not None or ranked[name][0] is None
    }


def _shared(shapes: Mapping[str, Dims]) -> str | None:
    """The named dimension that most inputs share and that is the first one of an input; None if none is shared."""
    count = Counter({name: len({one for one, _ in where}) for name, where in places(shapes).items()})
    first = {dims[0] for dims in shapes.values()}
    found = [(number, name) for name, number in count.items() if number > 1 and name in first]
    return max(found, key=lambda one: one[0])[1] if found else None
