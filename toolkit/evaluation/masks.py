"""Masks, the values of -1e9 and the like that stand for none, distinguished from quantities that are as large."""

from __future__ import annotations

import numpy as np

from toolkit.base.types import Array

MASK = 9e8
"""The least magnitude of a mask: a mask of -1e9 comes with the score that it was added to."""
_GAP = 100.0
_MOST_LEVELS, _TIMES, _LOOKED_AT = 8, 2, 4096
_BITS = 12
"""Of a float32's mantissa, those that tell a mask from one with a score added: two levels are 0.05 % apart or more."""


def largest_magnitude(values: Array) -> float:
    """The largest magnitude of an array; NaN where it holds NaN, 0 where it is empty."""
    return max(float(values.max()), -float(values.min())) if values.size else 0.0


def masks(values: Array) -> Array | None:
    """Where an array holds masks, bool of its shape; None where it holds none.

    Large values are masks where all others are smaller by a factor of 100 or more, and where they have few levels that
    come again and again: a quantity that is as large takes values of all sizes. A single large value is a mask where it
    is negative. Infinity and NaN are no masks.

    Args:
        values: float32, of any shape: one batch of a tensor.
    """
    sizes = np.abs(values)
    large = sizes >= MASK
    if not large.any():
        return None
    large &= np.isfinite(values)
    some = values[large]
    others = float(sizes.max(initial=-1.0, where=sizes < MASK))
    if not some.size or others < 0 or others * _GAP > float(np.abs(some).min()):
        return None
    return large if _few_levels(some) else None


def _few_levels(values: Array) -> bool:
    if values.size == 1:
        return bool(values[0] < 0)
    # an odd step: values of many channels lie interleaved
    chosen = np.ascontiguousarray(values[:: (values.size // _LOOKED_AT) | 1], np.float32)
    levels = np.unique(chosen.view(np.int32) >> _BITS).size
    return bool(levels <= _MOST_LEVELS and chosen.size >= _TIMES * levels)


def valued(values: Array) -> Array:
    """The values of an array that are numbers: without NaN, infinities and masks, in one dimension and its own type."""
    flat = np.asarray(values).reshape(-1)
    with np.errstate(over="ignore"):
        found = masks(np.asarray(flat, np.float32))
    usable = np.isfinite(flat)
    return flat[usable if found is None else usable & ~found]
