"""Properties of values that class scores do not have: different scales, an order, boxes, peaks, unsuitable integers."""

from __future__ import annotations

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.observation.observed import SeenModel, SeenOutput
from toolkit.evaluation.tasks.keypoints import peaks, points_of

_FACTOR = 16.0
"""Least ratio of two channels' standard deviations that shows different kinds of values. Class scores come from one
matrix product; those of rare classes vary only a few times less than those of common ones."""
_UNSEEN = 0.05
"""Share of the channels that vary least and may be classes that never occurred in training."""
_ROWS, _FEW_ROWS = 32, 8
"""Fewest positions in which an order, or the form of a box or the scale of a channel, is hardly a coincidence."""
_NEARLY = 0.98
"""Least share of the positions whose four numbers must form a box; a trained model's may fail at a few."""
_CROSSED = 0.01
"""Largest share that downward steps may have in the sum of all steps between neighbouring quantiles. Quantiles of a
trained model that cross at one position in a hundred had 0.0014."""
_VOCABULARY = 2**20
"""An integer above it is no class or token number: no vocabulary has that many tokens."""
_COMPACT, _SMALL, _AROUND = 0.9, 0.05, (0.25, 0.125)
"""Form of a key point's heat map, considering the pixels above half of its highest peak: the share of them that must be
near a peak, the largest share of the map that they may cover, and the sides of the squares that count as near a peak,
as shares of the map's longer side. Together the squares may cover at most a quarter of the map: 4 large or 16 small
ones.
"""
_SEVERAL = 0.1
"""Least share of the maps with a peak that must have a second one of similar height; fewer may be false peaks."""
_MOSTLY, _EMPTY, _MOST_COVERED, _BACKGROUND = 0.7, 0.3, 0.5, 0.1
"""Limits that separate heat maps of key points from masks: the least share of maps with narrow peaks; the largest share
of pixels that all maps together may cover, times the peaks per map, and its upper limit; and how far, relative to a
peak's height, one map's median may exceed the median over all maps. A map above the last is a background class, which
is high where no other class is.
"""
_LEAST_SIDE, _BLANK = 8, 3
"""Smallest side of a map that can show a narrow peak, and how many first samples may show none."""
_REGIONS = 0.5
"""Least share of labels that equal their neighbour's, along one of the axes."""
_LABELS = 256
"""More distinct integers than this in a map are numbers in a codebook: label maps are stored in 8 bits."""
_LEVELS = 64
"""More distinct integers than this in an output with colour channels are levels of a colour, not classes."""
_ENDS, _SCORED = frozenset({"start", "end"}), frozenset({"logit", "logits", "score", "scores", "prob", "probs"})
_LEVEL = 2.0
"""By how much the levels of landmarks differ more than each varies. In aligned pictures of faces it is about 4."""
_SURE = 0.05
"""A classifier's probabilities are nearer than this to 0 or 1 in some of several samples."""
_CODED, _NEARLY_ALL = 8, 0.9
"""Fewest samples that show a property of all, such as a code or hash, and the share of them that must have its form."""


def unlike_scales(output: SeenOutput, axis: int) -> bool:
    """Whether the channels' standard deviations differ widely, like a heat map, offsets in cells and sizes in pixels.

    Of many channels with few positions, one always happens to vary little and another much. So the two are chosen by
    every other position, and must differ at the rest as well. Constant channels are ignored, and so are the quietest
    twentieth, such as classes that training never showed.

    Args:
        axis: the axis of the channels, counted from the end.
    """
    if output.discrete or output.sums_to_one(axis):
        return False
    rows = output.stacked(axis)
    if len(rows) < _FEW_ROWS:
        return False
    finite = np.isfinite(rows).all(axis=0)
    rows = rows if finite.all() else rows[:, finite]
    chosen, rest = rows[::2].std(axis=0), rows[1::2].std(axis=0)
    least = np.minimum(chosen, rest)
    alive = np.flatnonzero(least > 1e-9 * least.max(initial=0.0))
    if len(alive) < 2:
        return False
    order = alive[chosen[alive].argsort()]
    quiet, loud = order[int(_UNSEEN * (len(order) - 1))], order[-1]
    return bool(min(chosen[loud] / chosen[quiet], rest[loud] / rest[quiet]) > _FACTOR)


def peak_height(output: SeenOutput, axis: int) -> float | None:
    """The median height of peaks above their map if each channel is the heat map of a key point; else None.

    A heat map has one narrow peak, or one for each person, and covers few pixels. At all other pixels the argmax over
    channels is noise, whereas every pixel of a segmentation belongs to a class.

    Args:
        output: the output, whose samples are maps with channels.
        axis: the axis of the channels, counted from the end.

    Returns:
        The height in the unit of the output's values.
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
    """The number of peaks around which nearly all high pixels are; 0 if more peaks would be needed than allowed.

    Args:
        values: a map, [height, width].
        above: the high pixels, those above half of the highest peak, bool [height, width].
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
    """Whether enough heat maps have several separate peaks of similar height, as of several people.

    Args:
        output: the output, whose samples are heat maps of key points.
        axis: the axis of the key points, counted from the end.
        height: the result of ``peak_height``.
    """
    several = seen = 0
    for one in output.samples:
        for values in np.moveaxis(np.asarray(one), axis, 0):
            found = points_of(values, height)
            several, seen = several + (len(found) > 1), seen + (len(found) > 0)
    return several > max(1, _SEVERAL * seen)


def ordered(output: SeenOutput, axis: int) -> bool:
    """Whether values rise along an axis of three or more, as quantiles do and class scores do not.

    A model that estimates each quantile separately lets neighbours cross occasionally and slightly, see ``_CROSSED``.
    Class scores fall about as much as they rise.
    """
    if output.discrete or output.shape[axis] < 3 or output.sums_to_one(axis):
        return False
    rows = output.stacked(axis)
    if not np.isfinite(rows).all():
        return False
    steps = np.diff(rows, axis=1)
    fallen, moved = float(-steps[steps < 0].sum()), float(np.abs(steps).sum())
    return len(rows) >= _ROWS and fallen <= _CROSSED * moved and bool((steps > 0).any(axis=0).all())


def are_boxes(output: SeenOutput, axis: int) -> bool:
    """Whether an axis of four holds boxes in units of the picture (0 to 1): two corners, or a centre and a size."""
    if output.discrete or output.shape[axis] != 4 or not output.in_unit or output.sums_to_one(axis):
        return False
    rows = output.stacked(axis)
    if len(rows) < _FEW_ROWS:
        return False
    places = np.median(rows[:, :2], axis=0)
    # class probabilities are near 0 at most positions, coordinates of boxes are not
    if places.min() < 0.05 or places.max() > 0.95:
        return False
    return _all_but_few(rows[:, 2:] > rows[:, :2]) or _centred(rows)


def _centred(rows: Array) -> bool:
    """Whether boxes given as centre and size are within the picture, to a tolerance of 0.02, with sizes above zero."""
    half = rows[:, 2:] / 2
    inside = (rows[:, :2] - half >= -0.02) & (rows[:, :2] + half <= 1.02)
    return _all_but_few(inside) and bool((np.median(half, axis=0) > 0.005).all())


def _all_but_few(holds: Array) -> bool:
    return bool(holds.all(axis=1).mean() >= _NEARLY)


def are_codes(output: SeenOutput, picture: bool) -> bool:
    """Whether integers with two axes are numbers in codebooks, [codebooks, time] or [height, width], not labels.

    Labels of positions come in regions: most of them are those of a neighbour. Codes have many levels, and each is
    chosen for itself.

    Args:
        picture: whether the axes are those of an input image, which may have many labels.
    """
    axes = [axis for axis in range(-len(output.shape), 0) if output.shape[axis] > 1]
    if not output.discrete or len(axes) != 2 or not has_many_levels(output, _LABELS if picture else _LEVELS):
        return False
    alike = [float(np.mean([(np.diff(one, axis=axis) == 0).mean() for one in output.samples])) for axis in axes]
    return max(alike) < _REGIONS


def no_classes(output: SeenOutput) -> bool:
    """Whether integers cannot be class numbers.

    They cannot if some are below -1 (-1 may stand for "no class") or above any vocabulary, or if they are quantities
    with many levels, such as colours of a picture.
    """
    low, high = output.bounds
    ends = {output.shape[0], output.shape[-1]} if len(output.shape) == 3 else set()
    amounts = output.rounded or bool(ends & {3, 4})
    return low < -1 or high > _VOCABULARY or (amounts and has_many_levels(output))


def has_many_levels(output: SeenOutput, most: int = _LEVELS) -> bool:
    """Whether integers take more than ``most`` different values."""
    return len(np.unique(output.flat)) > most


def is_code(output: SeenOutput, axis: int) -> bool:
    """Whether several elements share the maximum in nearly every sample, as in a hash of -1 and 1."""
    rows = output.stacked(axis)
    if len(rows) < _CODED or "Sigmoid" in output.ops or output.sums_to_one(axis):
        return False
    several = (rows == rows.max(axis=1, keepdims=True)).sum(axis=1) > 1
    return bool(several.mean() >= _NEARLY_ALL and (np.ptp(rows, axis=1) > 0).mean() >= _NEARLY_ALL)


def never_sure(output: SeenOutput) -> bool:
    """Whether a Sigmoid's values are never near 0 or 1, as coordinates or other shares of a whole may be.

    Scores of classes may be so too where a model is unsure.
    """
    low, high = output.bounds
    return "Sigmoid" in output.ops and len(output.samples) >= _CODED and low >= _SURE and high <= 1 - _SURE


def is_squashed(output: SeenOutput, axis: int) -> bool:
    """Whether a Tanh bounds all values, or a Clip whose limits are reached; a Clip that only guards scores is not."""
    if "Clip" not in output.squashed:
        return bool(output.squashed)
    rows = output.stacked(axis)
    return any(int((rows == ends).sum(axis=0).max(initial=0)) > 1 for ends in (rows.min(axis=0), rows.max(axis=0)))


def own_levels(output: SeenOutput, axis: int) -> bool:
    """Whether each value stays near a level of its own, as the places of landmarks or parameters around a mean do.

    The means over samples, of the columns of a vector or, column by column, of the positions of rows, then differ more
    than the values vary from sample to sample. What class scores have in common is the class of the sample or position.

    Args:
        output: the output, whose samples are vectors or rows.
        axis: the axis of the columns, counted from the end.
    """
    if output.discrete or len(output.samples) < _CODED or any(one.shape != output.shape for one in output.samples):
        return False
    values = np.moveaxis(np.stack([np.asarray(one, np.float64) for one in output.samples]), axis, -1)
    if not np.isfinite(values).all():
        return False
    rows = values.reshape(len(values), -1, values.shape[-1])
    levels = rows.mean(axis=0)
    apart = levels - levels.mean(axis=0) if len(levels) > 1 else levels - levels.mean()
    return bool(np.square(apart).mean() > _LEVEL**2 * rows.var(axis=0).mean() > 0)


def one_order(output: SeenOutput, axis: int) -> bool:
    """Whether the largest value of each position is the same one in all samples, as an x that is always left of a y.

    Args:
        output: the output, whose samples are rows.
        axis: the axis of the values that are compared, counted from the end.
    """
    if output.discrete or len(output.samples) < _CODED or any(one.shape != output.shape for one in output.samples):
        return False
    chosen = np.stack(output.samples).argmax(axis=axis)
    return bool((chosen == chosen[0]).all())


def ends_a_span(output: SeenOutput, seen: SeenModel) -> bool:
    """Whether a vector scores the start or end positions of an answer span, and another output the opposite ends.

    The two outputs have the same shape, and names that differ only in the words "start" and "end".
    """
    if not output.words & _ENDS or not output.words & _SCORED:
        return False
    return any(one.words == output.words ^ _ENDS and one.shape == output.shape for one in seen.outputs)


def unit_norm(output: SeenOutput, axis: int) -> bool:
    """Whether all vectors along an axis have the length 1."""
    rows = output.stacked(axis)
    return bool(rows.shape[1] > 1 and np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-3))
