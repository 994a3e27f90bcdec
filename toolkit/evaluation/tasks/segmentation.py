"""Segmentation: the answer is the mask, compared by intersection over union (IoU)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.numerics.boxes import OVERLAP
from toolkit.evaluation.tasks.base import Rows, Task, flat, one_each

SMALL = 0.002
"""Least share of a sample's pixels in the union of both masks for a class to count; smaller ones depend on a few
pixels."""
_CROWD = 0.98
"""Least share of a sample's classes or masks that must not be lost, as of detections."""


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


def class_ious(wanted: Array, found: Array, outside: int | None = None, small: float = SMALL) -> Array:
    """The IoU of each class of two masks, 0 to 1, float64 [classes that count].

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
    return np.asarray(values, np.float64)


class Segmentation(Task):
    """One answer per sample: the mask is unchanged if its mean IoU with the float model's is at least ``min_iou``.

    A class, or one of several masks, with an IoU below 0.5 is lost, as a detection is. If more than 2 % of a sample's
    are lost, the sample is changed even if the mean over many suffices: its level is 1 - 2 (1 - ``min_iou``) at most.

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
        many = "axis" in self.settings or "threshold" not in self.settings
        lost = {"lost": self._lost_below, "share": _CROWD} if many else {}
        return EvaluationCode.RULE_MASK(floor=self.level_needed, small=self._small, **lost, **several)

    @property
    def _independent(self) -> bool:
        return "threshold" in self.settings and "axis" in self.settings

    @property
    def _lost_below(self) -> float:
        return min(OVERLAP, self.level_needed)

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
        each = [[class_ious(x, y, outside, self._small) for x, y in zip(*pair)] for pair in zip(a, b)]
        level = np.array([self._level(sample) for sample in zip(*each)])
        broken = np.any([(one < 0).any(axis=1) for one in b], axis=0) & (found[0].dtype.kind not in "iub")
        level = np.where(broken, 0.0, level)
        # if neither model has a mask, there is nothing to lose
        return one_each((level >= self.level_needed) | np.isnan(level), level)

    def _level(self, maps: Sequence[Array]) -> float:
        """The level of one sample from the IoUs of each map's classes; NaN if no class of any map counts."""
        means = [float(ious.mean()) for ious in maps if len(ious)]
        if not means:
            return math.nan
        ious = np.concatenate(maps)
        there = float((ious >= self._lost_below).mean())
        mean = float(np.mean(means))
        return mean if there >= _CROWD else min(mean, max(2 * self.level_needed - 1, 0.0))

    def _maps(self, value: Array) -> list[Array]:
        """The maps that have a mask each: one by channel if channels are independent, so that a small one counts."""
        by_channel = self._independent and value.dtype.kind not in "iub"
        return list(np.moveaxis(value, int(self.settings["axis"]), 0)) if by_channel else [value]
