"""Large arrays part by part, for what is computed of each value: the steps in between take several times a part."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from toolkit.base.mapped import looked_at
from toolkit.base.types import Array

PART_BYTES = 4 << 20
"""Bytes of an array that are looked at at a time."""

ArrayPart = tuple[slice, ...]
"""What an array is indexed with for one of its parts; empty for the whole."""


def parts_of(values: Array) -> Iterator[ArrayPart]:
    """Slices that cover an array, each of about 4 MB; along its first axis, or the longest where that is short.

    One step along that axis may take more; a scalar is one part.
    """
    wanted = -(-values.nbytes // PART_BYTES)
    if wanted < 2:
        yield ()
        return
    shape = values.shape
    axis = 0 if shape[0] >= wanted else max(range(values.ndim), key=lambda one: shape[one])
    step = max(1, shape[axis] // wanted)
    for start in range(0, shape[axis], step):
        yield (*[slice(None)] * axis, slice(start, start + step))


def along(part: ArrayPart, other: Array, values: Array) -> Array:
    """The same part of an array that broadcasts over ``values``: a scalar, or one of the same rank."""
    if not part or not other.ndim or other.shape[len(part) - 1] != values.shape[len(part) - 1]:
        return other
    return other[part]


def ends_of(values: Array, finite: bool = True) -> tuple[float, float] | None:
    """The smallest and the largest value of an array.

    Args:
        values: of any type of numbers.
        finite: NaN and infinities are left out.

    Returns:
        None where there is none.
    """
    low, high = np.inf, -np.inf
    for part in parts_of(values):
        wide = looked_at(np.asarray(values[part]))
        # the narrow float types know no such questions
        wide = wide if wide.dtype.kind in "fiub" else wide.astype(np.float32)
        if finite:
            wide = wide[np.isfinite(wide)]
        if wide.size:
            # of a NaN that is not left out both are NaN
            low, high = np.minimum(low, wide.min()), np.maximum(high, wide.max())
    return None if low > high else (float(low), float(high))
