"""Whether the float model is plainly wrong by its labels, which no quantization can mend: said before anything is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.intervals import wilson
from toolkit.evaluation.metric_base import MetricOptions, label_of, labelled, pick_classes
from toolkit.evaluation.metric_table import METRICS
from toolkit.evaluation.metrics import make_metric
from toolkit.evaluation.metrics_classes import CHANCE

_FEWEST = 16
_HOPELESS = 0.02
_TOLD = 0.4
_ONE_TO_ONE = 0.8
"""Of the labels that answers tell, the share with one answer a label from which on they are the same classes."""
_BY_CLASS = frozenset({"top1", "top5", "exact", "balanced_accuracy", "f1"})
_UNLABELLED = "none of them has a label at any position"
_SILENT = {
    "auc": "no class has both samples with it and samples without it",
    "recall_at_1": "no two of them have the same label",
    "recall_at_5": "no two of them have the same label",
    "map": "none of them has an object",
    "map50": "none of them has an object",
    "cer": "all their labels are empty",
    "wer": "all their labels are empty",
    "f1": "no class is in a label or in an answer",
}
"""What samples lack of which a metric is no number, where that is not a label."""
_OF_VALUES = frozenset({"mse", "mae", "psnr", "ssim", "spearman"})
"""Metrics that are no number where the outputs are none, or say nothing by themselves."""
_NO_CLASS = -1
_DISTANCES = ("mse", "mae")
_NEIGHBOURS = {"recall_at_1": 1, "recall_at_5": 5}


class FloatCheck:
    """Takes in the float model's outputs and labels of some samples.

    Args:
        metric: a built-in metric's name.
        output: the output that it looks at.
        options: what it must know besides.

    Attributes:
        samples: how many were taken in.
    """

    def __init__(self, metric: str, output: str | None, options: MetricOptions) -> None:
        self.name, self.options = metric, replace(options, output=output)
        self._metric = make_metric(metric, output, False, options)
        self._chosen: list[Array] = []
        # by class a batch each, of values a sample each
        self._labels: list[Array] = []
        self._classes = 0
        self.samples = 0
        self._labelled = metric in _OF_VALUES
        self._of_samples: Counter[float] = Counter()

    @classmethod
    def of(cls, metric: str | None, output: str | None, options: MetricOptions) -> FloatCheck | None:
        """The check for a recipe's metric; None for none, or one of the user's, whose sense only he knows."""
        return cls(metric, output, options) if metric in METRICS and metric is not None else None

    def add(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Take in one batch.

        Raises:
            DataError: the labels do not fit the output.
        """
        self._metric.update(outputs, labels)
        self.samples += len(label_of(labels))
        scores, label = pick_classes(outputs, self.options, labels)
        if self.name in _BY_CLASS and scores.dtype.kind == "f" and label.shape == scores.shape[:-1]:
            given = labelled(label)
            # argmax takes NaN for the largest score
            chosen = np.where(np.isnan(scores).any(axis=-1), _NO_CLASS, scores.argmax(axis=-1))
            self._chosen.append(chosen[given])
            self._labels.append(np.asarray(label[given], np.int64))
            self._classes = scores.shape[-1]
        elif self.name in _NEIGHBOURS:
            self._of_samples.update(label.reshape(-1).tolist())
        elif self.name == "perplexity":
            self._classes = scores.shape[-1]
            # it is no number where the outputs are none, too
            self._labelled |= bool((label >= 0).any())
        elif self.name in _DISTANCES:
            self._labels += list(np.asarray(label, np.float64))

    def value(self) -> float | None:
        """The float model's metric on these samples; None where it is no number, as where none of them has a label."""
        value = float(self._metric.value())
        return value if math.isfinite(value) else None

    def silence(self) -> str | None:
        """What the labels of these samples lack, so that the metric says nothing of them; None where it does."""
        if self._labelled or not self.samples:
            return None
        self._labelled = not math.isnan(self._metric.value())
        return None if self._labelled else _SILENT.get(self.name, _UNLABELLED)

    @property
    def spread(self) -> float:
        """What mse or mae would be of the best constant, an element each, in the metric's unit; 0 of other metrics.

        Of labels of unlike shapes it is that of one constant for all elements. What elements of unlike scale or offset
        differ by is nothing that a model has to tell.
        """
        if self.name not in _DISTANCES or not self._labels:
            return 0.0
        alike = len({one.shape for one in self._labels}) == 1
        values = np.stack(self._labels) if alike else np.concatenate([one.reshape(-1) for one in self._labels])
        if self.name == "mse":
            return float(values.var(axis=0).mean())
        return float(np.abs(values - np.median(values, axis=0)).mean())

    def suspicion(self) -> Finding | None:
        """What is plainly wrong, with what explains it where that can be seen; None where nothing is."""
        value = self.value()
        if value is None or self.samples < _FEWEST:
            return None
        known = {"metric": self.name, "value": value, "samples": self.samples}
        if self._chosen:
            return self._by_class(known)
        useless = self._useless(value)
        return EvaluationCode.FLOAT_MODEL_USELESS(**known, useless=useless) if useless is not None else None

    def skill(self) -> float:
        """How much of the way from what needs no model to what is perfect the float model goes: 0 to 1.

        Labels that are numbered otherwise than the model's answers, see ``suspicion``, count as they would by its own
        numbers. 0 where the metric is no number.
        """
        value = self.value()
        if value is None:
            return 0.0
        if self._chosen:
            right, count, explained = self._right()
            most, chance = max([right, *(share for share, _ in explained)]) / count, self._chance()
            return max((most - chance) / (1 - chance), 0.0) if chance < 1 else 0.0
        return min(max(self._better(value), 0.0), 1.0)

    def _better(self, value: float) -> float:
        """``skill`` of a metric that is not of classes; below 0 where the model is worse than none."""
        if self.name in _DISTANCES:
            return 1 - value / self.spread if self.spread > 0 else 0.0
        if self.name == "perplexity":
            return 1 - math.log(value) / math.log(self._classes) if self._classes > 1 else 0.0
        if self.name in _NEIGHBOURS:
            shares = np.array(list(self._of_samples.values())) / max(self._of_samples.total(), 1)
            chance = float((shares * (1 - (1 - shares) ** _NEIGHBOURS[self.name])).sum())
            return (value - chance) / (1 - chance) if chance < 1 else 0.0
        if self.name == "psnr":
            return 1 - 10 ** (-value / 10)
        if self.name == "auc":
            return (value - CHANCE) / (1 - CHANCE)
        return value if METRICS[self.name].higher_is_better else 1 - value

    def _right(self) -> tuple[int, int, list[tuple[int, Finding]]]:
        """How many answers are right, of how many, and how many would be by another numbering of the labels."""
        known = {"metric": self.name, "value": self.value(), "samples": self.samples}
        chosen, labels = np.concatenate(self._chosen), np.concatenate(self._labels)
        right, count = int((chosen == labels).sum()), len(chosen)
        explained: list[tuple[int, Finding]] = []
        labels, chosen = labels[chosen != _NO_CLASS], chosen[chosen != _NO_CLASS]
        if not len(chosen):
            return right, count, explained
        for modulo in (0, self._classes):
            apart = (labels - chosen) % modulo if modulo else labels - chosen
            offset = _common(apart)
            shifted = int((apart == offset).sum())
            if offset and wilson(shifted, count)[0] > wilson(right, count)[1]:
                nearest = offset - modulo if 2 * offset > modulo > 0 else offset
                told = {"offset": nearest, "share": shifted / count, "modulo": modulo}
                explained.append((shifted, EvaluationCode.LABELS_SHIFTED(**known, **told)))
        renamed, apart = _renamed(chosen, labels)
        # the most frequent label is told by any answer
        least = max(wilson(right, count)[1], 2 * right / count, _TOLD, self._often())
        if wilson(renamed, count)[0] > least:
            joined = apart < _ONE_TO_ONE * renamed
            explained.append((renamed, EvaluationCode.LABELS_RENAMED(**known, share=renamed / count, joined=joined)))
        return right, count, explained

    def _chance(self) -> float:
        """The share of labels that the best constant answer has, or a guess."""
        return max(1.0 / self._classes, self._often())

    def _often(self) -> float:
        """The share of the most frequent label."""
        labels = np.concatenate(self._labels)
        return float(np.unique(labels, return_counts=True)[1].max()) / len(labels)

    def _by_class(self, known: Mapping[str, object]) -> Finding | None:
        right, count, explained = self._right()
        if explained:
            # of equals the simplest, which comes first
            return max(explained, key=lambda one: one[0])[1]
        # where all labels are one, what needs no model is a guess: the class is that of the data, not of a constant
        chance = self._chance() if self._often() < 1 else 1.0 / self._classes
        if right / count <= chance + 2 * math.sqrt(chance * (1 - chance) / count):
            return EvaluationCode.FLOAT_MODEL_USELESS(**{**known, "value": right / count}, useless=chance)
        return None

    def _useless(self, value: float) -> float | None:
        """The value that says nothing, where this one is no better; None where it is."""
        info = METRICS[self.name]
        if self.name == "spearman":
            least = 2 / math.sqrt(max(self.samples // 2, 1))
            return 0.0 if value < least else None
        if self.name in _DISTANCES:
            return self.spread if value >= self.spread > 0 else None
        if self.name in ("cer", "wer"):
            return 1.0 if value >= 1 - _HOPELESS else None
        if self.name == "auc":
            return CHANCE if value <= CHANCE else None
        if info.share:
            return 0.0 if value <= _HOPELESS else None
        return 6.0 if self.name == "psnr" and value < 6 else None


def _common(values: Array) -> int:
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()])


def _renamed(chosen: Array, labels: Array) -> tuple[int, int]:
    """How many labels the other samples of the same answer tell: by a numbering of its own the model may be right.

    Returns:
        Their number, and how many of them are left with one answer a label.
    """
    right: dict[int, list[int]] = {}
    for answer in np.unique(chosen):
        own, counts = np.unique(labels[chosen == answer], return_counts=True)
        first, *others = np.argsort(-counts, kind="stable")
        # one's own label is not among those that tell it
        if counts[first] - 1 > counts[others].max(initial=0):
            right.setdefault(int(own[first]), []).append(int(counts[first]))
    return sum(map(sum, right.values())), sum(map(max, right.values()))
