"""Key points: the answer is the position of the peak, or peaks, of each heat map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.tasks.base import Rows, Task, one_each

_SEEN, _SLACK = 0.3, 0.8
"""A map has a point if its peak is at least the first share of the usual height. The other model's must be at least the
second share of that."""
_LIKE, _DIP = 0.5, 0.25
"""Least height of further points relative to the highest peak; for the dip between peaks see ``separate_peaks``."""
_MOST_LOOKED_AT = 64
"""Most peaks considered per map, more than it has people: a map of noise has one per nine cells."""
_NEAR = 0.02
"""How far a peak may move, as a share of the map's longer side; at least one cell."""


def peaks(maps: Array) -> tuple[Array, Array]:
    """The highest cell of each map and its height above the map's median.

    Args:
        maps: [..., height, width].

    Returns:
        Row and column, integers [..., 2]; the largest value minus the median, float32 [...].
    """
    flat = np.asarray(maps, np.float32).reshape(*maps.shape[:-2], -1)
    place = flat.argmax(axis=-1)
    height = np.take_along_axis(flat, place[..., None], axis=-1)[..., 0] - np.median(flat, axis=-1)
    return np.stack(np.divmod(place, maps.shape[-1]), axis=-1), height


def separate_peaks(one: Array, least: float, share: float = 0.0) -> tuple[Array, Array]:
    """The separate peaks of one map that are high enough, the highest first.

    A peak is not below any of its eight neighbours, and on a plateau the first cell. Between any two peaks, the map
    falls by at least a quarter of the lower one's height.

    Args:
        one: [height, width].
        least: the least height of a peak above the map's median.
        share: the least height of a peak relative to the highest one, 0 to 1.

    Returns:
        Row and column, integers [peaks, 2]; the height above the median, float32 [peaks].
    """
    values, found, heights = _maxima(one, least)
    # lower peaks can be dropped first: they do not affect whether higher ones are separate
    high = heights >= share * heights.max(initial=0.0)
    return _apart(values, found[high], heights[high])


def _apart(values: Array, found: Array, heights: Array) -> tuple[Array, Array]:
    """Those of the maxima from ``_maxima`` that are separate peaks, with their heights."""
    kept: list[int] = []
    for place in range(len(found)):
        if (_between(values, found[place], found[kept]) <= (1 - _DIP) * heights[place]).all():
            kept.append(place)
    return found[kept], heights[kept]


def _maxima(one: Array, least: float) -> tuple[Array, Array, Array]:
    """A map minus its median, and the cells and heights of its local maxima of at least ``least``, highest first."""
    values = np.asarray(one, np.float32)
    values = values - np.median(values)
    around = np.pad(values, 1, constant_values=-np.inf)
    rows, columns = values.shape
    shifted = [around[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    # on a plateau, as where a map is clipped, only the first cell counts
    highest = (values > np.maximum.reduce(shifted[:4])) & (values >= np.maximum.reduce(shifted[4:]))
    found = np.argwhere(highest & (values >= least))
    heights = values[found[:, 0], found[:, 1]]
    order = np.argsort(-heights, kind="stable")[:_MOST_LOOKED_AT]
    return values, found[order], heights[order]


def points_of(one: Array, height: float) -> Array:
    """The key points of a map, row and column, integers [points, 2].

    Args:
        one: [height, width].
        height: the usual height of peaks above their map's median.
    """
    return separate_peaks(one, _SEEN * height, _LIKE)[0]


def _between(values: Array, first: Array, others: Array) -> Array:
    """The smallest value on the straight line from one cell to each of the others, [others]."""
    if not len(others):
        return np.zeros(0, values.dtype)
    ways = others - first
    steps = np.abs(ways).max(axis=1)[:, None]
    # shorter lines repeat their last cell
    number = np.minimum(np.arange(steps.max() + 1), steps)
    cells = np.rint(first + number[..., None] * (ways / steps)[:, None]).astype(int)
    return np.asarray(values[cells[..., 0], cells[..., 1]].min(axis=1))


class Keypoints(Task):
    """One answer per sample: its set of key points, unchanged if at least the share ``min_matched`` of them is matched.

    Outputs are maps [batch, points, height, width], with the points along ``axis``. A map has a point at its highest
    cell if that is at least 0.3 times ``height`` above the map's median in either model. The point is matched if the
    other model has it at most one cell, or 2 % of the map's longer side, away along each axis, with at least 0.8 of
    that minimum height.

    If ``several`` is set, as for pictures of several people, every separate peak of at least half the highest one's
    height is a point. Since peaks of people close together merge or split by chance, a point is matched by any local
    maximum of the other model's map that is near and high enough.
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
        """See ``Task.compare``; the level is the share of matched points, NaN if there are none."""
        axis, least = int(self.settings["axis"]), _SEEN * float(self.settings["height"])
        a, b = (np.moveaxis(values[0], axis, -3) for values in (wanted, found))
        if not a.shape[-1] * a.shape[-2]:
            return one_each(np.ones(len(a)))
        kept, asked = (_of_sets if self.settings.get("several") else _of_highest)(a, b, least)
        level = np.divide(kept, asked, out=np.full(len(a), np.nan), where=asked > 0)
        return one_each(np.isnan(level) | (level >= self.level_needed), level)


def _of_highest(a: Array, b: Array, least: float) -> tuple[Array, Array]:
    """How many maps of each sample have a matched highest peak, and how many have a peak in either model; [batch]."""
    (first, high), (second, other) = peaks(a), peaks(b)
    other = np.where(np.isnan(np.asarray(b, np.float32)).any(axis=(-2, -1)), np.nan, other)
    near = np.abs(first - second).max(axis=-1) <= _reach(a)
    asked = (high >= least) | (other >= least)
    kept = asked & near & (high >= _SLACK * least) & (other >= _SLACK * least)
    return kept.reshape(len(a), -1).sum(axis=1), asked.reshape(len(a), -1).sum(axis=1)


def _of_sets(a: Array, b: Array, least: float) -> tuple[Array, Array]:
    """How many peaks of both models are matched by the other model, and how many there are; [batch] each."""
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
    """How many cells a peak may move along each axis and still be matched."""
    return max(1.0, _NEAR * max(maps.shape[-2:]))
