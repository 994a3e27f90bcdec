"""Masks, the values of -1e4, -1e9 and the like that stand for none, distinguished from quantities that are as large."""

from __future__ import annotations

import numpy as np

from toolkit.base.kept_results import kept_where_fixed
from toolkit.base.types import Array

MASK = 9e8
"""The least magnitude of a mask of any sign: a mask of -1e9 comes with the score that it was added to."""
LEAST_MASK = 9e3
"""The least magnitude of a negative one: -1e4 is what text encoders add to a score, and -65504 is float16's least."""
_GAP = 100.0
_MOST_LEVELS, _TIMES, _LOOKED_AT = 8, 2, 4096
_GRAIN = 2.0**-11
"""What tells a mask from one with a score added, as a share: two levels are 0.05 % apart or more."""
_WIDEST = 3
"""How many times as far as the unmasked scores those that a mask was added to may spread."""


@kept_where_fixed
def largest_magnitude(values: Array) -> float:
    """The largest magnitude of an array; NaN where it holds NaN, 0 where it is empty."""
    return max(float(values.max()), -float(values.min())) if values.size else 0.0


@kept_where_fixed
def all_plain(values: Array) -> bool:
    """Whether an array holds nothing that may be a mask, and no NaN or infinity."""
    return not values.size or bool(values.max() < MASK and values.min() > -LEAST_MASK)


@kept_where_fixed
def all_finite(values: Array) -> bool:
    """Whether an array holds neither NaN nor an infinity."""
    return bool(np.isfinite(values).all())


def masks(values: Array) -> Array | None:
    """Where an array holds masks, bool of its shape; None where it holds none.

    Large values are masks where all others are smaller by a factor of 100 or more, and where they have few levels that
    come again and again: a quantity that is as large takes values of all sizes. A single value of 9e8 or more is a mask
    where it is negative. Masks of both sizes may be in one tensor, as -1e4 for padding beside -1e9 for what comes
    later. Infinity and NaN are no masks, and those beside them are masks all the same.

    Args:
        values: float32, of any shape: one batch of a tensor.
    """
    if all_plain(values):
        return None
    finite = np.isfinite(values)
    largest = finite & (np.abs(values) >= MASK)
    left = finite & ~largest
    if largest.any() and not _are_masks(values[largest], values[left]):
        # where some are as large as that, what is smaller is a quantity
        return None
    large = left & (values <= -LEAST_MASK)
    if _are_masks(values[large], values[left & ~large]):
        return largest | large
    return largest if largest.any() else None


def _are_masks(large: Array, others: Array) -> bool:
    """Whether large values are masks beside what is left without them, both of any number in one dimension."""
    if not large.size or not others.size or largest_magnitude(others) * _GAP > float(np.abs(large).min()):
        return False
    return _few_levels(large, float(np.ptp(others.astype(np.float64))))


def _few_levels(values: Array, span: float) -> bool:
    """Whether large values are few levels, each as wide as what a mask was added to; ``span``: of the others."""
    if values.size == 1:
        return bool(values[0] <= -MASK)
    # an odd step: values of many channels lie interleaved
    chosen = np.sort(values[:: (values.size // _LOOKED_AT) | 1].astype(np.float64))
    grain = np.maximum(np.abs(chosen[1:]) * _GRAIN, span)
    ends = np.flatnonzero(np.diff(chosen) > grain)
    first, last = np.append(0, ends + 1), np.append(ends, chosen.size - 1)
    width = chosen[last] - chosen[first]
    narrow = width <= _WIDEST * np.maximum(np.abs(chosen[first]) * _GRAIN, span)
    return bool(first.size <= _MOST_LEVELS and chosen.size >= _TIMES * first.size and narrow.all())


def valued(values: Array) -> Array:
    """The values of an array that are numbers: without NaN, infinities and masks, in one dimension and its own type."""
    flat = np.asarray(values).reshape(-1)
    with np.errstate(over="ignore"):
        found = masks(np.asarray(flat, np.float32))
    usable = np.isfinite(flat)
    return flat[usable if found is None else usable & ~found]
