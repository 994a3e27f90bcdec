"""Baselines of metrics: the value reached without a model, such as by chance or by a constant."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.metrics.classes import CHANCE

_HOPELESS = 0.02
_NOISE_AS_LOUD_DB = 6.0
"""The PSNR in dB at which the noise is half of the peak."""


class Baseline:
    """The baseline of a share, such as of right answers: 0 is worthless, and 1 is perfect.

    Attributes:
        told: whether the labels are known to be informative; if not, NaN as the metric shows that they are not.
        silent: what the labels lack if the metric is NaN.
    """

    def __init__(self, silent: str = "none of them has a label at any position") -> None:
        self.told = False
        self.silent = silent

    @property
    def spread(self) -> float:
        """The value of the metric for the best constant, in its unit; 0 if the metric is not a distance."""
        return 0.0

    @property
    def least(self) -> float:
        """The value that a model must exceed to be measurably better than the baseline."""
        return _HOPELESS

    def take(self, scores: Array, label: Array) -> None:
        """Add a batch: scores or values, and labels of any shape."""

    def skill(self, value: float) -> float:
        """The skill of a value: 1 if perfect, 0 at the baseline, negative if worse."""
        return value

    def useless(self, value: float, samples: int) -> float | None:
        """The baseline's value, if ``value`` on this number of samples or pairs is no better; else None."""
        return 0.0 if value <= self.least else None


class _Values(Baseline):
    """The baseline of metrics with a label for every value: the metric is NaN only if outputs are."""

    def __init__(self) -> None:
        super().__init__()
        self.told = True

    def useless(self, value: float, samples: int) -> float | None:
        return None


class _Distance(_Values):
    """The baseline of a mean error: the best constant.

    It has one constant per element, since different scales and offsets of elements need no model; for labels of
    different shapes, one constant for all elements.
    """

    def __init__(self, of_labels: Callable[[Array], float]) -> None:
        super().__init__()
        self._of_labels = of_labels
        self._labels: list[Array] = []

    def take(self, scores: Array, label: Array) -> None:
        self._labels += list(np.asarray(label, np.float64))

    @property
    def spread(self) -> float:
        if not self._labels:
            return 0.0
        alike = len({one.shape for one in self._labels}) == 1
        return self._of_labels(np.stack(self._labels) if alike else np.concatenate([x.ravel() for x in self._labels]))

    def skill(self, value: float) -> float:
        return 1 - value / self.spread if self.spread > 0 else 0.0

    def useless(self, value: float, samples: int) -> float | None:
        return self.spread if value >= self.spread > 0 else None


class _PeakRatio(_Values):
    def skill(self, value: float) -> float:
        return 1 - 10 ** (-value / 10)

    def useless(self, value: float, samples: int) -> float | None:
        return _NOISE_AS_LOUD_DB if value < _NOISE_AS_LOUD_DB else None


class _RankCorrelation(_Values):
    def useless(self, value: float, samples: int) -> float | None:
        # two standard errors of the rank correlation of independent values
        return 0.0 if value < 2 / math.sqrt(max(samples, 1)) else None


class _Edits(Baseline):
    """The baseline of edits per character or word: an empty reading needs one edit for each."""

    def __init__(self) -> None:
        super().__init__("all their labels are empty")

    def skill(self, value: float) -> float:
        return 1 - value

    def useless(self, value: float, samples: int) -> float | None:
        return 1.0 if value >= 1 - _HOPELESS else None


class _Area(Baseline):
    """The baseline of areas under the ROC curve: scores in random order."""

    def __init__(self) -> None:
        super().__init__("no class has both samples with it and samples without it")
        self._labels: list[Array] = []

    @property
    def least(self) -> float:
        """Two standard errors above chance.

        The variance for n1 samples with a class and n0 without is (n1 + n0 + 1) / (12 n1 n0), by Mann and Whitney.
        """
        if not self._labels:
            return 1.0
        labels = np.concatenate(self._labels)
        have = labels.sum(axis=0) if labels.ndim > 1 else np.unique(labels, return_counts=True)[1]
        both = have[(have > 0) & (have < len(labels))].astype(np.float64)
        if not len(both):
            return 1.0
        return CHANCE + 2 * float(np.sqrt((len(labels) + 1) / (12 * both * (len(labels) - both))).mean())

    def take(self, scores: Array, label: Array) -> None:
        self._labels.append(label if label.ndim > 1 and label.shape[-1] > 1 else label.reshape(-1))

    def skill(self, value: float) -> float:
        return (value - CHANCE) / (1 - CHANCE)

    def useless(self, value: float, samples: int) -> float | None:
        # with very few answers even the best model would seem no better
        return CHANCE if value <= (self.least if self.least < 1 else CHANCE) else None


class _Neighbours(Baseline):
    """The baseline of recall among the k nearest: k other samples drawn at random, by the labels' frequencies."""

    def __init__(self, k: int) -> None:
        super().__init__("no two of them have the same label")
        self._k = k
        self._counts: Counter[float] = Counter()

    def take(self, scores: Array, label: Array) -> None:
        self._counts.update(label.reshape(-1).tolist())

    def skill(self, value: float) -> float:
        shares = np.array(list(self._counts.values())) / max(self._counts.total(), 1)
        chance = float((shares * (1 - (1 - shares) ** self._k)).sum())
        return (value - chance) / (1 - chance) if chance < 1 else 0.0


class _Likelihood(Baseline):
    """The baseline of token likelihoods: uniform ones. The metric is also NaN if outputs are."""

    def __init__(self) -> None:
        super().__init__()
        self._tokens = 0

    def take(self, scores: Array, label: Array) -> None:
        self._tokens = scores.shape[-1]
        self.told |= bool((label >= 0).any())

    def skill(self, value: float) -> float:
        return 1 - math.log(value) / math.log(self._tokens) if self._tokens > 1 else 0.0

    def useless(self, value: float, samples: int) -> float | None:
        return float(self._tokens) if value >= self._tokens > 1 else None


def _variance(labels: Array) -> float:
    return float(labels.var(axis=0).mean())


def _deviation(labels: Array) -> float:
    return float(np.abs(labels - np.median(labels, axis=0)).mean())


_BY_METRIC: dict[str, Callable[[], Baseline]] = {
    "auc": _Area,
    "recall_at_1": lambda: _Neighbours(1),
    "recall_at_5": lambda: _Neighbours(5),
    "map": lambda: Baseline("none of them has an object"),
    "map50": lambda: Baseline("none of them has an object"),
    "cer": _Edits,
    "wer": _Edits,
    "f1": lambda: Baseline("no class is in a label or in an answer"),
    "mse": lambda: _Distance(_variance),
    "mae": lambda: _Distance(_deviation),
    "psnr": _PeakRatio,
    "ssim": _Values,
    "spearman": _RankCorrelation,
    "perplexity": _Likelihood,
}
"""By name of a built-in metric; all others are shares of right answers."""


def baseline(metric: str) -> Baseline:
    """A new baseline for a built-in metric."""
    return _BY_METRIC.get(metric, Baseline)()
