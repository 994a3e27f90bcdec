"""Key points: the answer is where each map of heat has its peak, or its peaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.tasks.base import Rows, Task, one_each

_SEEN, _SLACK = 0.3, 0.8
_LIKE, _DIP = 0.5, 0.25
"""Which share of the highest peak's height another one has that is a point as well; see ``separate_peaks``."""
_MOST_LOOKED_AT = 64
"""More peaks than a map has people; a map of noise has one at every ninth place."""
_NEAR = 0.02
"""As a share of a map's longer side how far a peak may move; by one cell it always may."""


def peaks(maps: Array) -> tuple[Array, Array]:
    """Where maps are highest, and how far above what is usual there.

    Args:
        maps: [..., height, width].

    Returns:
        Row and column, integers [..., 2]; the largest value less the median, float32 [...].
    """
    flat = np.asarray(maps, np.float32).reshape(*maps.shape[:-2], -1)
    place = flat.argmax(axis=-1)
    height = np.take_along_axis(flat, place[..., None], axis=-1)[..., 0] - np.median(flat, axis=-1)
    return np.stack(np.divmod(place, maps.shape[-1]), axis=-1), height


def separate_peaks(one: Array, least: float, share: float = 0.0) -> tuple[Array, Array]:
    """The peaks of one map that rise high enough above what is usual there, the highest first.

    A peak is the largest of its neighbours, on a plateau the first of these, and the map falls by a quarter of the
    lower peak's height between any two.

    Args:
        one: [height, width].
        least: how far above the median a peak rises at least.
        share: and at least which share of the highest one's height.

    Returns:
        Row and column, integers [peaks, 2]; the height above the median, float32 [peaks].
    """
    values, found, heights = _maxima(one, least)
    # a lower peak decides nothing about a higher one
    high = heights >= share * heights.max(initial=0.0)
    return _apart(values, found[high], heights[high])


def _apart(values: Array, found: Array, heights: Array) -> tuple[Array, Array]:
    """Of what ``_maxima`` found those that the map falls between."""
    kept: list[int] = []
    for place in range(len(found)):
        if (_between(values, found[place], found[kept]) <= (1 - _DIP) * heights[place]).all():
            kept.append(place)
    return found[kept], heights[kept]


def _maxima(one: Array, least: float) -> tuple[Array, Array, Array]:
    """A map less its median, and its local maxima that rise so far above 0, the highest first: places and heights."""
    values = np.asarray(one, np.float32)
    values = values - np.median(values)
    around = np.pad(values, 1, constant_values=-np.inf)
    rows, columns = values.shape
    shifted = [around[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    # of neighbours of one value, as where a map is clipped, the first
    highest = (values > np.maximum.reduce(shifted[:4])) & (values >= np.maximum.reduce(shifted[4:]))
    found = np.argwhere(highest & (values >= least))
    heights = values[found[:, 0], found[:, 1]]
    order = np.argsort(-heights, kind="stable")[:_MOST_LOOKED_AT]
    return values, found[order], heights[order]


def points_of(one: Array, height: float) -> Array:
    """Where a map has key points, row and column, integers [points, 2].

    Args:
        one: [height, width].
        height: how far peaks usually rise above their map's median.
    """
    return separate_peaks(one, _SEEN * height, _LIKE)[0]


def _between(values: Array, first: Array, others: Array) -> Array:
    """The smallest value on the straight way from one cell to each of some others, [others]."""
    if not len(others):
        return np.zeros(0, values.dtype)
    ways = others - first
    steps = np.abs(ways).max(axis=1)[:, None]
    # shorter ways wait at their end
    number = np.minimum(np.arange(steps.max() + 1), steps)
    cells = np.rint(first + number[..., None] * (ways / steps)[:, None]).astype(int)
    return np.asarray(values[cells[..., 0], cells[..., 1]].min(axis=1))


class Keypoints(Task):
    """One answer a sample: its points stay where at least ``min_matched`` of them do.

    Outputs are maps [batch, points, height, width], the points along ``axis``. A point is where its map is highest, if
    that is 0.3 of ``height`` or more above the map's median in either model. It stays where the other model has it at
    most one cell away along each axis, or 2 % of the map's longer side, with at least 0.8 of that height.

    Where ``several`` is set, as for a picture of several people, every peak of a map that has half of its highest one's
    height or more is a point by itself. Two people whose peaks run into each other are one peak or two by chance: a
    point stays where the other model's map has any local maximum.
    """

    name: ClassVar[str] = "regression"
    floor_name: ClassVar[str] = "min_matched"
    floor: ClassVar[float] = 0.98
    perfect: ClassVar[float | None] = 1.0
    figure: ClassVar[str] = "points"

    def rule(self) -> Finding:
        """See ``Task.rule``."""
        several = {"several": _LIKE} if self.settings.get("several") else {}
        return EvaluationCode.RULE_POINTS(floor=self.level_needed, seen=_SEEN, slack=_SLACK, near=_NEAR, **several)

    def compare(self, wanted: Sequence[Array], found: Sequence[Array]) -> Rows:
        """One batch."""
        axis, least = int(self.settings["axis"]), _SEEN * float(self.settings["height"])
        a, b = (np.moveaxis(values[0], axis, -3) for values in (wanted, found))
        if not a.shape[-1] * a.shape[-2]:
            return one_each(np.ones(len(a)))
        kept, asked = (_of_sets if self.settings.get("several") else _of_highest)(a, b, least)
        level = np.divide(kept, asked, out=np.full(len(a), np.nan), where=asked > 0)
        return one_each(np.isnan(level) | (level >= self.level_needed), level)


def _of_highest(a: Array, b: Array, least: float) -> tuple[Array, Array]:
    """How many maps of each sample keep their highest peak, and how many have one; [batch] each."""
    (first, high), (second, other) = peaks(a), peaks(b)
    other = np.where(np.isnan(np.asarray(b, np.float32)).any(axis=(-2, -1)), np.nan, other)
    near = np.abs(first - second).max(axis=-1) <= _reach(a)
    asked = (high >= least) | (other >= least)
    kept = asked & near & (high >= _SLACK * least) & (other >= _SLACK * least)
    return kept.reshape(len(a), -1).sum(axis=1), asked.reshape(len(a), -1).sum(axis=1)


def _of_sets(a: Array, b: Array, least: float) -> tuple[Array, Array]:
    """How many peaks of both models' maps the other model has too, and how many there are; [batch] each."""
    broken = np.asarray(np.isnan(np.asarray(b, np.float32)).any(axis=(-2, -1)))
    kept, asked = np.zeros((2, len(a)), int)
    for place in np.ndindex(a.shape[:-2]):
        first = _maxima(a[place], _SLACK * least)
        second = _maxima(np.zeros_like(a[place]) if broken[place] else b[place], _SLACK * least)
        highest = max([0.0, *first[2][:1], *second[2][:1]])
        for (values, own, heights), (_, others, _) in ((first, second), (second, first)):
            high = heights >= max(least, _LIKE * highest)
            points, _ = _apart(values, own[high], heights[high])
            apart = np.abs(points[:, None] - others[None]).max(axis=-1)
            asked[place[0]] += len(points)
            kept[place[0]] += int((apart <= _reach(a)).any(axis=1).sum())
    return kept, asked


def _reach(maps: Array) -> float:
    """How many cells a peak may move along each axis."""
    return max(1.0, _NEAR * max(maps.shape[-2:]))
