"""Detection: the answer is the set of boxes with their classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.numerics.boxes import OVERLAP, BoxLayout, Detections, boxes_known, detections, matched
from toolkit.evaluation.tasks.base import Rows, Task, one_each

_SLACK = 0.8
"""Share of the threshold that suffices for a match. The threshold is qtool's choice, not the user's, so a detection
that falls just below it is not lost."""


class Detection(Task):
    """One answer per sample: the set of detections above ``threshold``, matched one to one at IoU 0.5 and equal class.

    A detection of either model is matched if the other one has it with a score of at least 0.8 times the threshold. The
    level is the matched share of both models' detections, NaN if there are none. The set is unchanged if the level is
    at least ``min_matched``: with fewer than 26 detections each one must match, in a crowd a few may be lost.
    """

    name: ClassVar[str] = "detection"
    floor_name: ClassVar[str] = "min_matched"
    floor: ClassVar[float] = 0.98
    perfect: ClassVar[float | None] = 1.0
    figure: ClassVar[str] = "detections"
    any_shape: ClassVar[bool] = True

    def rule(self) -> Finding:
        """See ``Task.rule``."""
        # boxes without scores are all above the threshold
        form = BoxLayout.of(self.settings)
        if form.layout == "indices":
            return EvaluationCode.RULE_INDICES(floor=self.level_needed)
        scored = {"scored": False} if form.layout == "chosen" else {}
        scored |= {} if boxes_known(self.settings) else {"offsets": True}
        read: dict[str, object] = {"activation": form.activation} if form.activation else {}
        read |= {"background": form.background} if form.background is not None else {}
        return EvaluationCode.RULE_DETECTION(
            threshold=float(self.settings["threshold"]), slack=_SLACK, iou=OVERLAP, floor=self.level_needed,
            **scored, **read,
        )  # fmt: skip

    def compare(self, wanted: Sequence[Array], found: Sequence[Array]) -> Rows:
        """See ``Task.compare``."""
        threshold = float(self.settings["threshold"])
        a, b = (detections(values, self.settings, _SLACK * threshold) for values in (wanted, found))
        counts = np.array([_kept(x, y, threshold) for x, y in zip(a, b)], np.float64).reshape(-1, 2)
        kept, total = counts[:, 0], counts[:, 1]
        level = np.divide(kept, total, out=np.full(len(counts), np.nan), where=total > 0)
        return one_each(np.isnan(level) | (level >= self.level_needed), level)


def _kept(wanted: Detections, found: Detections, threshold: float) -> tuple[int, int]:
    """How many detections above the threshold, of both models together, are matched, and how many there are."""
    first, second = wanted.over(threshold), found.over(threshold)
    return matched(first, found) + matched(second, wanted), len(first.scores) + len(second.scores)
