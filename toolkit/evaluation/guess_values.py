"""What values tell of an output that is no scores of classes: unlike scales, an order, boxes, no numbers of classes."""

from __future__ import annotations

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.observed import SeenOutput

_FACTOR = 16.0
"""How many times as far the values of one channel spread as those of another, where they are of unlike kinds. Scores of
classes come from one product, and rare classes spread by a few times less than common ones."""
_ROWS, _FEW_ROWS = 32, 8
"""The fewest positions in which an order, or the form of a box, is no chance."""
_NEARLY = 0.98
_VOCABULARY = 2**20
"""More classes than any vocabulary has tokens."""
_LEVELS = 64
"""More values in every channel of colours than there are kinds of things to tell apart in each."""


def unlike_scales(output: SeenOutput, axis: int) -> bool:
    """Whether channels spread by unlike amounts, as a heat, offsets in cells and sizes in pixels do.

    Args:
        output: what is seen of it.
        axis: that of the channels, counted from the end. One that never changes says nothing.
    """
    if output.discrete or output.sums_to_one(axis):
        return False
    spread = output.stacked(axis).std(axis=0)
    alive = spread[np.isfinite(spread) & (spread > 1e-9 * spread.max(initial=0.0))]
    return len(alive) > 1 and bool(alive.max() > _FACTOR * alive.min())


def ordered(output: SeenOutput, axis: int) -> bool:
    """Whether values never fall along an axis of three or more, as quantiles do and scores of classes do not."""
    if output.discrete or output.shape[axis] < 3 or output.sums_to_one(axis):
        return False
    rows = output.stacked(axis)
    steps = np.diff(rows, axis=1)
    return len(rows) >= _ROWS and bool((steps >= 0).all() and (steps > 0).any(axis=0).all())


def are_boxes(output: SeenOutput, axis: int) -> bool:
    """Whether an axis holds four numbers from 0 to 1 that are a box: two corners, or a centre and a size."""
    if output.discrete or output.shape[axis] != 4 or not output.in_unit or output.sums_to_one(axis):
        return False
    rows = output.stacked(axis)
    if len(rows) < _FEW_ROWS:
        return False
    places = np.median(rows[:, :2], axis=0)
    # shares of labels are near 0 at most places
    if places.min() < 0.05 or places.max() > 0.95:
        return False
    return _all_but_few(rows[:, 2:] > rows[:, :2]) or _centred(rows)


def _centred(rows: Array) -> bool:
    """Whether centres and sizes stay within the picture, with sizes that are some."""
    half = rows[:, 2:] / 2
    inside = (rows[:, :2] - half >= -0.02) & (rows[:, :2] + half <= 1.02)
    return _all_but_few(inside) and bool((np.median(half, axis=0) > 0.005).all())


def _all_but_few(holds: Array) -> bool:
    return bool(holds.all(axis=1).mean() >= _NEARLY)


def no_classes(output: SeenOutput) -> bool:
    """Whether integers cannot be numbers of classes: below -1, which may stand for none, beyond any vocabulary, or the
    colours of a picture.
    """
    low, high = output.bounds
    ends = {output.shape[0], output.shape[-1]} if len(output.shape) == 3 else set()
    return low < -1 or high > _VOCABULARY or (bool(ends & {3, 4}) and len(np.unique(output.flat)) > _LEVELS)
