"""What values tell of outputs that are no scores of classes: unlike scales, an order, boxes, peaks, other numbers."""

from __future__ import annotations

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.observation.observed import SeenOutput
from toolkit.evaluation.tasks.keypoints import peaks, points_of

_FACTOR = 16.0
"""How many times as far the values of one channel spread as those of another, where they are of unlike kinds. Scores of
classes come from one product, and rare classes spread by a few times less than common ones."""
_ROWS, _FEW_ROWS = 32, 8
"""The fewest positions in which an order, or the form of a box, is no chance."""
_NEARLY = 0.98
_CROSSED = 0.01
"""How much of all steps between neighbouring quantiles may lead down (0.0014 of a trained model's, which crosses at one
of a hundred)."""
_VOCABULARY = 2**20
"""More classes than any vocabulary has tokens."""
_COMPACT, _SMALL, _AROUND = 0.9, 0.05, (0.25, 0.125)
"""Of what lies above half of a peak the share that lies around it or others, the share of a map that it may cover, and
the side of the squares around them as a share of the map's, of which so few are taken that they cover a quarter."""
_SEVERAL = 0.1
"""How many of the maps with a peak have others of like height, where that is no chance."""
_MOSTLY, _EMPTY, _MOST_COVERED, _BACKGROUND = 0.7, 0.3, 0.5, 0.1
"""How many maps have such a peak, how much of the places any covers with one peak a map, and with several, and how far
above the others' median one map's may lie, as a share of a peak: more is a class that is met where no other one is."""
_LEAST_SIDE, _BLANK = 8, 3
"""The smallest map that has places around a peak, and how many samples may show none before others do."""
_LEVELS = 64
"""More values in every channel of colours than there are kinds of things to tell apart in each."""


def unlike_scales(output: SeenOutput, axis: int) -> bool:
    """Whether channels spread by unlike amounts, as a heat, offsets in cells and sizes in pixels do.

    Args:
        output: what is seen of it.
        axis: that of the channels, counted from the end. A channel that never changes says nothing.
    """
    if output.discrete or output.sums_to_one(axis):
        return False
    spread = output.stacked(axis).std(axis=0)
    alive = spread[np.isfinite(spread) & (spread > 1e-9 * spread.max(initial=0.0))]
    return len(alive) > 1 and bool(alive.max() > _FACTOR * alive.min())


def peak_height(output: SeenOutput, axis: int) -> float | None:
    """How far peaks rise above their maps, in the median, where each channel is the heat of a key point; else None.

    Such a map has one narrow peak, or one for each of several people, and nearly all places are in none: which channel
    is the best there is noise, where each place of a mask belongs to a class.

    Args:
        output: what is seen of it, maps with the channels along an axis.
        axis: that of the channels, counted from the end.
    """
    if output.discrete or len(output.shape) != 3 or output.sums_to_one(axis) or output.shape[axis] < 2:
        return None
    heights, covered, counts, found = [], [], [], 0
    for number, one in enumerate(output.samples):
        maps = np.moveaxis(np.asarray(one, np.float64), axis, 0)
        if min(maps.shape[1:]) < _LEAST_SIDE or not np.isfinite(maps).all() or (number >= _BLANK and not found):
            return None
        _, height = peaks(maps)
        above = maps > (maps.max(axis=(1, 2)) - height / 2)[:, None, None]
        small = (above.mean(axis=(1, 2)) <= _SMALL) & (height > 0)
        crowds = [_crowd(values, marked) if little else 0 for values, marked, little in zip(maps, above, small)]
        narrow = np.asarray(crowds) > 0
        counts += [crowd for crowd in crowds if crowd]
        usual = np.median(maps, axis=(1, 2))
        if narrow.any() and usual.max() - np.median(usual) > _BACKGROUND * float(np.median(height[narrow])):
            return None
        found += int(narrow.sum())
        heights += height[narrow].tolist()
        covered.append(float(above.any(axis=0).mean()))
    if not heights or found < _MOSTLY * sum(one.shape[axis] for one in output.samples):
        return None
    most = min(_EMPTY * float(np.mean(counts)), _MOST_COVERED)
    return float(np.median(heights)) if np.mean(covered) <= most else None


def _crowd(values: Array, above: Array) -> int:
    """Around how few peaks lies nearly all that is above half of the highest; 0 where it lies around no few.

    Args:
        values: a map, [height, width].
        above: where it is above half of its highest peak, bool of the same shape.
    """
    places, total = np.argwhere(above), int(above.sum())
    for side in _AROUND:
        left, number = places, 0
        while len(left) > (1 - _COMPACT) * total and (number + 1) * side**2 <= _AROUND[0]:
            highest = left[values[left[:, 0], left[:, 1]].argmax()]
            left = left[(np.abs(left - highest) > side / 2 * max(values.shape)).any(axis=1)]
            number += 1
        if len(left) <= (1 - _COMPACT) * total:
            return number
    return 0


def has_several_peaks(output: SeenOutput, axis: int, height: float) -> bool:
    """Whether some maps of key points have several separate peaks of like height, as of several people.

    Args:
        output: what is seen of it, maps with the channels along an axis.
        axis: that of the channels, counted from the end.
        height: what ``peak_height`` gives.
    """
    several = seen = 0
    for one in output.samples:
        for values in np.moveaxis(np.asarray(one), axis, 0):
            found = points_of(values, height)
            several, seen = several + (len(found) > 1), seen + (len(found) > 0)
    return several > max(1, _SEVERAL * seen)


def ordered(output: SeenOutput, axis: int) -> bool:
    """Whether values rise along an axis of three or more, as quantiles do and scores of classes do not.

    A model that estimates quantiles one by one lets neighbours cross now and then, by little: where another class is
    the best, the scores fall by as much as they rise elsewhere.
    """
    if output.discrete or output.shape[axis] < 3 or output.sums_to_one(axis):
        return False
    rows = output.stacked(axis)
    steps = np.diff(rows, axis=1)
    fallen, moved = float(-steps[steps < 0].sum()), float(np.abs(steps).sum())
    return len(rows) >= _ROWS and fallen <= _CROSSED * moved and bool((steps > 0).any(axis=0).all())


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
    """Whether centres and sizes stay within the picture, with sizes above zero."""
    half = rows[:, 2:] / 2
    inside = (rows[:, :2] - half >= -0.02) & (rows[:, :2] + half <= 1.02)
    return _all_but_few(inside) and bool((np.median(half, axis=0) > 0.005).all())


def _all_but_few(holds: Array) -> bool:
    return bool(holds.all(axis=1).mean() >= _NEARLY)


def no_classes(output: SeenOutput) -> bool:
    """Whether integers cannot be numbers of classes: below -1, which may stand for none, beyond any vocabulary, or
    amounts of many levels, as the colours of a picture.
    """
    low, high = output.bounds
    ends = {output.shape[0], output.shape[-1]} if len(output.shape) == 3 else set()
    amounts = output.rounded or bool(ends & {3, 4})
    return low < -1 or high > _VOCABULARY or (amounts and len(np.unique(output.flat)) > _LEVELS)
