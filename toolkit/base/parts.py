"""Large arrays in parts, for elementwise computation: intermediate results take several times the memory of a part."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from toolkit.base.mapped import looked_at
from toolkit.base.types import Array

PART_BYTES = 4 << 20
"""Bytes of an array to process at a time."""

ArrayPart = tuple[slice, ...]
"""The index of one part of an array; empty for the whole array."""


def parts_of(values: Array) -> Iterator[ArrayPart]:
    """Slices that cover an array in parts of about 4 MB, along axis 0, or along the longest axis if axis 0 is short.

    If a single step along that axis is larger, so is the part. A scalar is one part.
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
    """The matching part of an array that broadcasts against ``values``: a scalar, or an array of the same rank."""
    if not part or not other.ndim or other.shape[len(part) - 1] != values.shape[len(part) - 1]:
        return other
    return other[part]


def ends_of(values: Array, finite: bool = True) -> tuple[float, float] | None:
    """The smallest and the largest value of an array.

    Args:
        values: of any numeric type.
        finite: ignore NaN and infinities.

    Returns:
        None if there are no values.
    """
    low, high = np.inf, -np.inf
    for part in parts_of(values):
        wide = looked_at(np.asarray(values[part]))
        # narrow float types do not support isfinite and comparisons
        wide = wide if wide.dtype.kind in "fiub" else wide.astype(np.float32)
        if finite:
            wide = wide[np.isfinite(wide)]
        if wide.size:
            # if a NaN is not ignored, both are NaN
            low, high = np.minimum(low, wide.min()), np.maximum(high, wide.max())
    return None if low > high else (float(low), float(high))
