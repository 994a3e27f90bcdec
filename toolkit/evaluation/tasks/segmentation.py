"""Segmentation: the answer is the mask, compared by intersection over union (IoU)."""

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
"""Least share of a sample's pixels in the union of both masks for a class to count; smaller ones depend on a few
pixels."""


def mask_of(value: Array, axis: int, threshold: float | None) -> Array:
    """The class of every pixel, integers [batch, pixels]; -1 if one of its scores is NaN.

    Args:
        value: scores with the classes along ``axis``, scores to compare with ``threshold``, or class numbers.
        axis: the axis of the classes.
        threshold: the score above which a pixel is in the mask (class 1); None for scores of several classes.
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
    """Mean IoU over the classes of two masks, 0 to 1; NaN if no class counts.

    Args:
        wanted: the class of every pixel, integers [pixels].
        found: the same for the other mask.
        outside: the number that stands for no class; None if there is none.
        small: the least share of the pixels for a class to count, 0 to 1.
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
    """One answer per sample: the mask is unchanged if its mean IoU with the float model's is at least ``min_iou``.

    Outputs are scores [batch, classes, height, width] (classes along ``axis``), one map of scores with ``threshold`` or
    several along ``axis``, each with a mask of its own, or integers [batch, height, width]. The setting ``small``
    replaces ``SMALL`` for models with smaller masks.
    """

    name: ClassVar[str] = "segmentation"
    nothing: ClassVar[float] = -math.inf
    floor_name: ClassVar[str] = "min_iou"
    floor: ClassVar[float] = 0.95
    perfect: ClassVar[float | None] = 1.0
    figure: ClassVar[str] = "iou"

    def rule(self) -> Finding:
        """See ``Task.rule``."""
        several = {"several": True} if self._independent else {}
        return EvaluationCode.RULE_MASK(floor=self.level_needed, small=self._small, **several)

    @property
    def _independent(self) -> bool:
        return "threshold" in self.settings and "axis" in self.settings

    @property
    def _small(self) -> float:
        return float(self.settings.get("small", SMALL))

    def compare(self, wanted: Sequence[Array], found: Sequence[Array]) -> Rows:
        """See ``Task.compare``."""
        axis, threshold = int(self.settings.get("axis", 1)), self.settings.get("threshold")
        scored = wanted[0].dtype.kind not in "iub"
        a, b = ([mask_of(one, axis, threshold) for one in self._maps(values[0])] for values in (wanted, found))
        # with one class, the background would agree however much of the mask is lost, so it does not count
        outside = 0 if threshold is not None and scored else None
        each = np.asarray([[mean_iou(x, y, outside, self._small) for x, y in zip(*pair)] for pair in zip(a, b)])
        there = ~np.isnan(each)
        level = np.full(len(a[0]), np.nan)
        np.divide(np.where(there, each, 0).sum(axis=0), there.sum(axis=0), out=level, where=there.any(axis=0))
        broken = np.any([(one < 0).any(axis=1) for one in b], axis=0) & (found[0].dtype.kind not in "iub")
        level = np.where(broken, 0.0, level)
        # if neither model has a mask, there is nothing to lose
        return one_each((level >= self.level_needed) | np.isnan(level), level)

    def _maps(self, value: Array) -> list[Array]:
        """The maps that have a mask each: one by channel if channels are independent, so that a small one counts."""
        by_channel = self._independent and value.dtype.kind not in "iub"
        return list(np.moveaxis(value, int(self.settings["axis"]), 0)) if by_channel else [value]
