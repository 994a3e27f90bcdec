"""Key points: the answer is where each map of heat has its peak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.tasks.base import Rows, Task, one_each

_SEEN, _SLACK = 0.3, 0.8
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


class Keypoints(Task):
    """One answer a sample: its points stay where at least ``min_matched`` of them do.

    Outputs are maps [batch, points, height, width], the points along ``axis``. A point is where its map is highest, if
    that is 0.3 of ``height`` or more above the map's median in either model. It stays where the other model has it at
    most one cell away along each axis, or 2 % of the map's longer side, with at least 0.8 of that height.
    """

    name: ClassVar[str] = "regression"
    floor_name: ClassVar[str] = "min_matched"
    floor: ClassVar[float] = 0.98
    perfect: ClassVar[float | None] = 1.0
    figure: ClassVar[str] = "points"

    def rule(self) -> Finding:
        """See ``Task.rule``."""
        return EvaluationCode.RULE_POINTS(floor=self.level_needed, seen=_SEEN, slack=_SLACK, near=_NEAR)

    def compare(self, wanted: Sequence[Array], found: Sequence[Array]) -> Rows:
        """One batch."""
        axis, least = int(self.settings["axis"]), _SEEN * float(self.settings["height"])
        a, b = (np.moveaxis(values[0], axis, -3) for values in (wanted, found))
        if not a.shape[-1] * a.shape[-2]:
            return one_each(np.ones(len(a)))
        (first, high), (second, other) = peaks(a), peaks(b)
        other = np.where(np.isnan(np.asarray(b, np.float32)).any(axis=(-2, -1)), np.nan, other)
        near = np.abs(first - second).max(axis=-1) <= max(1.0, _NEAR * max(a.shape[-2:]))
        asked = (high >= least) | (other >= least)
        kept = asked & near & (high >= _SLACK * least) & (other >= _SLACK * least)
        count = asked.reshape(len(a), -1).sum(axis=1)
        level = np.divide(kept.reshape(len(a), -1).sum(axis=1), count, out=np.full(len(a), np.nan), where=count > 0)
        return one_each(np.isnan(level) | (level >= self.level_needed), level)
