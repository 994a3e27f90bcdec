"""Metrics that weigh all classes equally: balanced accuracy, F1, average precision, and area under the ROC curve."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.metric import (
    Metric,
    MetricOptions,
    check_labels,
    classes_of,
    never_right,
    of_one_score,
    pick_scores,
    threshold_of,
    unlike_shapes,
)
from toolkit.evaluation.numerics.ranks import ranks

CHANCE = 0.5
"""The area under the ROC curve of uninformative scores."""


class _ByClass:
    """Collects scores and labels; labels are class numbers [batch], or 0 and 1 for each class [batch, classes].

    A single score per sample, with labels 0 and 1, is a set of one class, that of label 1. NaN scores count as wrong.

    Attributes:
        classes: number of classes of the output if labels are class numbers; 0 if they are sets.
    """

    higher_is_better = True

    def __init__(self, options: MetricOptions) -> None:
        self.options, self.classes = options, 0
        self.scores: list[Array] = []
        self.labels: list[Array] = []

    def update(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Add one batch.

        Raises:
            DataError: the labels do not fit the output.
        """
        scores, label = pick_scores(outputs, self.options, labels)
        if of_one_score(scores, label):
            check_labels(label.reshape(-1), 2)
            scores, label = scores.reshape(-1, 1), label.reshape(-1, 1)
        if label.shape == scores.shape and scores.ndim == 2:
            self.labels.append(label != 0)
        elif scores.ndim != 2:
            raise unlike_shapes(scores, label, "choose an output [batch, classes] by [evaluation] output")
        else:
            self.classes = classes_of(scores, label)
            self.labels.append(np.arange(scores.shape[-1]) == label.astype(np.int64)[:, None])
        self.scores.append(never_right(np.asarray(scores, np.float64), self.labels[-1]))

    @property
    def answers(self) -> int:
        """Number of samples."""
        return sum(len(part) for part in self.scores)

    def value(self) -> float:
        """The value over all samples."""
        return self.value_among(np.ones(self.answers, bool))

    def units(self) -> Array:
        """Each sample is a unit of its own."""
        return np.arange(self.answers)

    def value_among(self, kept: Array) -> float:
        """The value over the samples that are ``kept``, bool [samples]."""
        return self.of(np.concatenate(self.scores)[kept], np.concatenate(self.labels)[kept])

    def of(self, scores: Array, labels: Array) -> float:
        """The value of scores and labels, float64 and bool [samples, classes]."""
        raise NotImplementedError

    def _chosen(self, scores: Array) -> Array:
        """The predicted classes, bool [samples, classes]: the best one, or for sets all above the threshold."""
        if self.classes:
            return np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None]
        return np.asarray(scores > threshold_of(scores, self.options))


class BalancedAccuracy(_ByClass):
    """Mean of the recalls of the classes that have labels.

    For sets, each class counts as two, samples with it and without it: with only the first, a model that predicts every
    class would be perfect. Classes without samples are left out.
    """

    def of(self, scores: Array, labels: Array) -> float:
        """The value, 0 to 1; NaN if no class has a label."""
        chosen = self._chosen(scores)
        # with one score per sample, label 0 is a class of its own
        asked = labels.any(axis=0) | (labels.shape[1] == 1)
        if not len(labels) or not asked.any():
            return math.nan
        found = [_recalls(chosen, labels)]
        if not self.classes:
            found.append(_recalls(~chosen, ~labels))
        return float(np.nanmean(np.array(found)[:, asked], axis=0).mean())


class F1(_ByClass):
    """Mean over classes of 2 TP / (2 TP + FP + FN), for classes in labels or predictions."""

    def of(self, scores: Array, labels: Array) -> float:
        """The value, 0 to 1; NaN if no class is in either."""
        chosen = self._chosen(scores)
        hits = (chosen & labels).sum(axis=0)
        total = chosen.sum(axis=0) + labels.sum(axis=0)
        return float((2 * hits[total > 0] / total[total > 0]).mean()) if (total > 0).any() else math.nan


class AveragePrecision(_ByClass):
    """Mean over classes with labels of the mean precision at each of their samples, in order of scores.

    For samples with equal scores the precision is that of all samples down to this score, as in scikit-learn's
    ``average_precision_score``.
    """

    def of(self, scores: Array, labels: Array) -> float:
        """The value, 0 to 1; NaN if no class has a label."""
        found = [_average(scores[:, one], labels[:, one]) for one in range(labels.shape[1]) if labels[:, one].any()]
        return float(np.mean(found)) if found else math.nan


class AreaUnderCurve(_ByClass):
    """Mean area under the ROC curve over classes with positive and negative samples.

    It is the share of pairs of such samples whose scores are in the labels' order, with ties counted half (Mann and
    Whitney): with the ranks R of the n1 samples with the label, and n0 samples without,
    (sum(R) - n1 (n1 + 1) / 2) / (n1 n0).
    """

    def of(self, scores: Array, labels: Array) -> float:
        """The value, 0 to 1; NaN if no class has samples of both kinds, as among the first few samples."""
        found = [_area(scores[:, one], labels[:, one]) for one in range(labels.shape[1])]
        known = [area for area in found if area is not None]
        return float(np.mean(known)) if known else math.nan


def _recalls(chosen: Array, labels: Array) -> Array:
    """The recall of each class, float64 [classes]; NaN for a class without samples."""
    counts = labels.sum(axis=0)
    return np.where(counts > 0, (chosen & labels).sum(axis=0) / np.maximum(counts, 1), np.nan)


def _area(scores: Array, labels: Array) -> float | None:
    have = int(labels.sum())
    others = len(labels) - have
    if not have or not others:
        return None
    return float((ranks(scores)[labels].sum() - have * (have + 1) / 2) / (have * others))


def _average(scores: Array, labels: Array) -> float:
    _, place, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    hits = np.bincount(place, labels)
    precision = np.cumsum(hits) / np.cumsum(counts)
    return float((precision * hits).sum() / hits.sum())


BUILT_IN: dict[str, Callable[[MetricOptions], Metric]] = {
    "balanced_accuracy": BalancedAccuracy,
    "f1": F1,
    "average_precision": AveragePrecision,
    "auc": AreaUnderCurve,
}
