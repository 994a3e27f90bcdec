"""Distinguishes masks, values such as -1e4 or -1e9 that mean "no value", from quantities of the same magnitude."""

from __future__ import annotations

import numpy as np

from toolkit.base.kept_results import kept_where_fixed
from toolkit.base.types import Array

MASK = 9e8
"""The least magnitude of a mask of either sign: a mask of -1e9 may include the score that it was added to."""
LEAST_MASK = 9e3
"""The least magnitude of a negative mask: text encoders add -1e4 to scores, and -65504 is the lowest float16."""
_GAP = 100.0
_MOST_LEVELS, _TIMES, _LOOKED_AT = 8, 2, 4096
_GRAIN = 2.0**-11
"""The least relative distance of two levels, 0.05 %: masks plus scores differ by less."""
_WIDEST = 3
"""The most spread of scores with a mask added, relative to that of unmasked scores."""


@kept_where_fixed
def largest_magnitude(values: Array) -> float:
    """The largest magnitude of an array; NaN if it holds NaN, 0 if it is empty."""
    return max(float(values.max()), -float(values.min())) if values.size else 0.0


@kept_where_fixed
def all_plain(values: Array) -> bool:
    """Whether an array holds no possible mask, NaN or infinity."""
    return not values.size or bool(values.max() < MASK and values.min() > -LEAST_MASK)


@kept_where_fixed
def all_finite(values: Array) -> bool:
    """Whether an array holds neither NaN nor an infinity."""
    return bool(np.isfinite(values).all())


def masks(values: Array) -> Array | None:
    """Which values of an array are masks, bool of its shape; None if there are none.

    Large values are masks if all others are smaller by a factor of 100 or more, and if they have few levels that occur
    repeatedly, since quantities of that magnitude take many values. A single value of magnitude 9e8 or more is a mask
    if it is negative. A tensor may have masks of both sizes, such as -1e4 for padding and -1e9 for later positions.
    Infinity and NaN are not masks, and do not affect the others.

    Args:
        values: float32, of any shape: one batch of a tensor.
    """
    if all_plain(values):
        return None
    finite = np.isfinite(values)
    largest = finite & (np.abs(values) >= MASK)
    left = finite & ~largest
    if largest.any() and not _are_masks(values[largest], values[left]):
        # the largest values are quantities, so smaller ones are, too
        return None
    large = left & (values <= -LEAST_MASK)
    if _are_masks(values[large], values[left & ~large]):
        return largest | large
    return largest if largest.any() else None


def _are_masks(large: Array, others: Array) -> bool:
    """Whether large values are masks, compared with the other values, both [n]."""
    if not large.size or not others.size or largest_magnitude(others) * _GAP > float(np.abs(large).min()):
        return False
    return _few_levels(large, float(np.ptp(others.astype(np.float64))))


def _few_levels(values: Array, span: float) -> bool:
    """Whether large values have few levels, each no wider than masked scores can be; ``span``: range of the others."""
    if values.size == 1:
        return bool(values[0] <= -MASK)
    # an odd step, since values of many channels are interleaved
    chosen = np.sort(values[:: (values.size // _LOOKED_AT) | 1].astype(np.float64))
    grain = np.maximum(np.abs(chosen[1:]) * _GRAIN, span)
    ends = np.flatnonzero(np.diff(chosen) > grain)
    first, last = np.append(0, ends + 1), np.append(ends, chosen.size - 1)
    width = chosen[last] - chosen[first]
    narrow = width <= _WIDEST * np.maximum(np.abs(chosen[first]) * _GRAIN, span)
    return bool(first.size <= _MOST_LEVELS and chosen.size >= _TIMES * first.size and narrow.all())


def valued(values: Array) -> Array:
    """The values of an array without NaN, infinities and masks, [n] in the array's type."""
    flat = np.asarray(values).reshape(-1)
    with np.errstate(over="ignore"):
        found = masks(np.asarray(flat, np.float32))
    usable = np.isfinite(flat)
    return flat[usable if found is None else usable & ~found]
