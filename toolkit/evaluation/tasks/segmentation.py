"""Segmentation: the answer is the mask, compared by its intersection over union."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.tasks.base import Rows, Task, flat, one_each

SMALL = 0.002
"""Classes with a smaller share of a sample's pixels in both masks are left out: a few pixels decide their value."""


def mask_of(value: Array, axis: int, threshold: float | None) -> Array:
    """The class of every pixel, integers [batch, pixels]; -1, which is none, where a score is NaN.

    Args:
        value: scores with the classes along ``axis``, one map to be held against ``threshold``, or classes' numbers.
        axis: the axis of the classes.
        threshold: where there is one map: above it is the mask.
    """
    if value.dtype.kind in "iub":
        chosen: Any = value
    elif threshold is not None:
        scores = np.asarray(value, np.float32)
        chosen = np.where(np.isnan(scores), -1, scores > threshold)
    else:
        scores = np.moveaxis(np.asarray(value, np.float32), axis, -1)
        chosen = np.where(np.isnan(scores).any(axis=-1), -1, scores.argmax(axis=-1))
    return flat(np.asarray(chosen, np.int64))


def mean_iou(wanted: Array, found: Array, outside: int | None = None, small: float = SMALL) -> float:
    """Mean intersection over union of the classes of two masks, 0 to 1; NaN where neither holds any.

    Args:
        wanted: the class of every pixel, integers [pixels].
        found: likewise.
        outside: what is no class, and in no mask.
        small: the share of the pixels below which a class is left out, 0 to 1.
    """
    values = []
    classes = np.unique(np.concatenate([wanted, found]))
    for one in classes[classes != outside] if outside is not None else classes:
        a, b = wanted == one, found == one
        union = int((a | b).sum())
        if union >= small * len(wanted):
            values.append(int((a & b).sum()) / union)
    return float(np.mean(values)) if values else math.nan


class Segmentation(Task):
    """One answer a sample: the mask stays where its IoU with the float model's is at least ``min_iou``.

    Outputs are scores [batch, classes, height, width] (classes along ``axis``), one map of scores with ``threshold``,
    or integers [batch, height, width]. Where masks are smaller than ``SMALL``, ``small`` is the share that counts.
    """

    name: ClassVar[str] = "segmentation"
    nothing: ClassVar[float] = -math.inf
    floor_name: ClassVar[str] = "min_iou"
    floor: ClassVar[float] = 0.95
    perfect: ClassVar[float | None] = 1.0
    figure: ClassVar[str] = "iou"

    def rule(self) -> Finding:
        """See ``Task.rule``."""
        return EvaluationCode.RULE_MASK(floor=self.level_needed, small=self._small)

    @property
    def _small(self) -> float:
        return float(self.settings.get("small", SMALL))

    def compare(self, wanted: Sequence[Array], found: Sequence[Array]) -> Rows:
        """One batch."""
        axis, threshold = int(self.settings.get("axis", 1)), self.settings.get("threshold")
        a, b = (mask_of(values[0], axis, threshold) for values in (wanted, found))
        # all that is not in a mask of one class is like itself, however little of the mask stays
        outside = 0 if threshold is not None and wanted[0].dtype.kind not in "iub" else None
        level = np.asarray([mean_iou(x, y, outside, self._small) for x, y in zip(a, b)])
        broken = (b < 0).any(axis=1) & (found[0].dtype.kind not in "iub")
        level = np.where(broken, 0.0, level)
        # what is in neither mask is no answer that could be lost
        return one_each((level >= self.level_needed) | np.isnan(level), level)
