"""Metrics of classes that do not let the frequent ones hide the rare: balanced accuracy, F1, average precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.metric_base import Metric, MetricOptions, classes_of, pick_scores, unlike_shapes


class _ByClass:
    """Gathers scores and labels; labels are classes' numbers [batch], or 0 and 1 for each class [batch, classes].

    Attributes:
        classes: how many classes the output has where labels are their numbers; 0 where they are sets.
    """

    higher_is_better = True

    def __init__(self, options: MetricOptions) -> None:
        self.options, self.classes = options, 0
        self.scores: list[Array] = []
        self.labels: list[Array] = []

    def update(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Take in one batch.

        Raises:
            DataError: the labels do not fit the output.
        """
        scores, label = pick_scores(outputs, self.options, labels)
        if label.shape == scores.shape and scores.ndim == 2:
            self.labels.append(label != 0)
        elif scores.ndim != 2:
            raise unlike_shapes(scores, label, "choose an output [batch, classes] by [evaluation] output")
        else:
            self.classes = classes_of(scores, label)
            self.labels.append(np.arange(scores.shape[-1]) == label.astype(np.int64)[:, None])
        self.scores.append(np.asarray(scores, np.float64))

    @property
    def answers(self) -> int:
        """How many samples were looked at."""
        return sum(len(part) for part in self.scores)

    def _all(self) -> tuple[Array, Array]:
        return np.concatenate(self.scores), np.concatenate(self.labels)

    def _chosen(self, scores: Array) -> Array:
        """The classes that the model answers, bool [samples, classes]: the best one, or all above the threshold."""
        if self.classes:
            return np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None]
        unit = scores.min() >= 0 and scores.max() <= 1
        return np.asarray(scores > (0.5 if unit else 0.0))


class BalancedAccuracy(_ByClass):
    """Mean of the recalls of the classes that have labels."""

    def value(self) -> float:
        """0 to 1."""
        scores, labels = self._all()
        counts = labels.sum(axis=0)
        right = (self._chosen(scores) & labels).sum(axis=0)
        return float((right[counts > 0] / counts[counts > 0]).mean()) if (counts > 0).any() else 0.0


class F1(_ByClass):
    """Mean over classes of 2 TP / (2 TP + FP + FN), of classes that are in labels or answers."""

    def value(self) -> float:
        """0 to 1."""
        scores, labels = self._all()
        chosen = self._chosen(scores)
        hits = (chosen & labels).sum(axis=0)
        total = chosen.sum(axis=0) + labels.sum(axis=0)
        return float((2 * hits[total > 0] / total[total > 0]).mean()) if (total > 0).any() else 0.0


class AveragePrecision(_ByClass):
    """Mean over classes with labels of the precision at each of their samples, in the order of the scores."""

    def value(self) -> float:
        """0 to 1."""
        scores, labels = self._all()
        found = [_average(scores[:, one], labels[:, one]) for one in range(labels.shape[1]) if labels[:, one].any()]
        return float(np.mean(found)) if found else 0.0


def _average(scores: Array, labels: Array) -> float:
    order = np.argsort(-scores, kind="stable")
    hits = labels[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


BUILT_IN: dict[str, Callable[[MetricOptions], Metric]] = {
    "balanced_accuracy": BalancedAccuracy,
    "f1": F1,
    "average_precision": AveragePrecision,
}
