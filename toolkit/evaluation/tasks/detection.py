"""Detection: the answer is the set of boxes with their classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.boxes import OVERLAP, Detections, detections, matched
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.tasks.base import Rows, Task, one_each

_SLACK = 0.8
"""The threshold is qtool's choice, not the user's: a detection that is near it on one side counts as there."""


class Detection(Task):
    """One answer a sample: the set of detections over ``threshold``, matched one to one at IoU 0.5 and equal classes.

    It stays where each of the float model's has its match among the other model's with at least 0.8 of the threshold,
    and the other way round. The level is the share of both sets that is matched, of samples that have any.
    """

    name: ClassVar[str] = "detection"
    figure: ClassVar[str] = "detections"
    any_shape: ClassVar[bool] = True

    def rule(self) -> Finding:
        """See ``Task.rule``."""
        return EvaluationCode.RULE_DETECTION(threshold=float(self.settings["threshold"]), slack=_SLACK, iou=OVERLAP)

    def compare(self, wanted: Sequence[Array], found: Sequence[Array]) -> Rows:
        """One batch."""
        threshold = float(self.settings["threshold"])
        a, b = (detections(values, self.settings, _SLACK * threshold) for values in (wanted, found))
        right, level = np.zeros(len(a)), np.full(len(a), np.nan)
        for number, (x, y) in enumerate(zip(a, b)):
            kept, total = _kept(x, y, threshold)
            right[number] = kept == total
            level[number] = kept / total if total else np.nan
        return one_each(right, level)


def _kept(wanted: Detections, found: Detections, threshold: float) -> tuple[int, int]:
    """How many detections of both sets have their match, and how many there are."""
    first, second = wanted.over(threshold), found.over(threshold)
    return matched(first, found) + matched(second, wanted), len(first.scores) + len(second.scores)
