"""Check the float model against its labels, to report clear errors before anything is quantized."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np

from toolkit.base.errors import DataError
from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.labels.class_answers import ClassAnswers
from toolkit.evaluation.metric import MetricOptions, answers_of, classes_from, of_one_score, pick_scores
from toolkit.evaluation.metrics.baselines import baseline
from toolkit.evaluation.metrics.boxes import MeanAveragePrecision
from toolkit.evaluation.metrics.by_name import make_metric
from toolkit.evaluation.metrics.rank import Spearman
from toolkit.evaluation.metrics.table import METRICS

_FEWEST = 16
"""Fewest samples for a verdict."""
_OTHER_UNIT = 3
"""If the extents of a useless detector's boxes and of the labels' differ by this factor, their units differ."""
_BY_CLASS = frozenset({"top1", "top5", "exact", "balanced_accuracy", "f1"})
_MOST = 0.5
"""If the best constant answer is right on no more than this share of the labels, no class counts as frequent."""
RANKING = "auc"
"""A metric of the scores' order alone: it shows that a model is useful even if its argmax hardly ever changes."""


class FloatCheck:
    """Measures the float model on labelled samples and judges whether it is better than no model.

    Args:
        metric: the name of a built-in metric.
        output: the output that the metric reads; None for the first.
        options: the metric's other settings.
        settled: whether the user has set the threshold of a single score, so that no better one is suggested.

    Attributes:
        name: the metric's name.
        options: the metric's settings, including the output.
        samples: the number of samples read.
    """

    def __init__(self, metric: str, output: str | None, options: MetricOptions, settled: bool = False) -> None:
        self._settled = settled
        self.name, self.options = metric, replace(options, output=output)
        self._metric = make_metric(metric, output, False, options)
        self._baseline = baseline(metric)
        self._answers = ClassAnswers()
        self._ranking = FloatCheck(RANKING, output, options) if metric in _BY_CLASS else None
        self.samples = 0

    @classmethod
    def of(
        cls, metric: str | None, output: str | None, options: MetricOptions, settled: bool = False
    ) -> FloatCheck | None:
        """The check for a recipe's metric; None if there is none, or it is user code, whose meaning is not known."""
        return cls(metric, output, options, settled) if metric in METRICS and metric is not None else None

    def add(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Add the outputs and labels of one batch.

        Raises:
            DataError: the labels do not fit the output.
        """
        self._metric.update(outputs, labels)
        given = pick_scores(outputs, self.options, labels)
        # metrics of continuous values are computed from the values, not from two classes
        values = METRICS[self.name].task == "regression"
        scores, label = given if values else classes_from(*given, self.options.threshold)
        self.samples += len(label)
        if self.name in _BY_CLASS and scores.dtype.kind == "f" and label.shape == scores.shape[:-1]:
            self._answers.take(scores, label)
            self._take_single(*given)
        self._baseline.take(scores, label)
        self._take_ranking(outputs, labels, label)

    def _take_ranking(self, outputs: Mapping[str, Array], labels: Mapping[str, Array], label: Array) -> None:
        if self._ranking is None:
            return
        try:
            if label.size != len(label):
                raise DataError("positions are no samples")
            self._ranking.add(outputs, labels)
        except DataError:
            self._ranking = None

    def _take_single(self, scores: Array, label: Array) -> None:
        line = self.options.threshold
        if self._settled or line is None:
            return
        if of_one_score(scores, label):
            self._answers.take_single(scores.reshape(-1), label.reshape(-1), line)

    def value(self) -> float | None:
        """The float model's metric on these samples; None if it is not finite, as when no sample has a label."""
        value = float(self._metric.value())
        return value if math.isfinite(value) else None

    def silence(self) -> str | None:
        """Which labels are missing for the metric to be a number, in words; None if it is one."""
        if self._baseline.told or not self.samples or not math.isnan(self._metric.value()):
            return None
        return self._baseline.silent

    @property
    def spread(self) -> float:
        """The mse or mae of the best constant output, in the metric's unit; 0 for other metrics."""
        return self._baseline.spread

    @property
    def answers(self) -> int:
        """How many answers the metric is a share of; 0 if it is not a share."""
        return answers_of(self._metric)

    def suspicion(self) -> Finding | None:
        """A finding that the float model is clearly wrong, with the cause if it is known; None if it is not wrong.

        It is not if the order of its scores shows that the model is useful; see ``says_little``.
        """
        found = self._suspicion()
        return None if found is not None and self._ranks_of(found) is not None else found

    def says_little(self) -> Finding | None:
        """A finding that the metric is no better than a constant answer although the scores separate the classes.

        This happens if one class is frequent and the model rarely predicts another. None otherwise.
        """
        found = self._suspicion()
        area = self._ranks_of(found) if found is not None else None
        return EvaluationCode.SAYS_LITTLE(**found.values, better=RANKING, area=area) if found and area else None

    def _ranks_of(self, found: Finding) -> float | None:
        """The ROC AUC if it is measurably above chance despite the finding that the model is useless; else None.

        It only counts if most labels are of one class and the model is not measurably worse than always answering that
        class: on data like that of its training, a model is not, however rarely it predicts another class.
        """
        if found.code is not EvaluationCode.FLOAT_MODEL_USELESS or self._ranking is None:
            return None
        often, value = (cast(float, found.values[name]) for name in ("useless", "value"))
        if often <= _MOST or value < often - 2 * math.sqrt(often * (1 - often) / self.samples):
            return None
        area = self._ranking.value()
        return area if area is not None and area > self._ranking.least else None

    @property
    def least(self) -> float:
        """The value that a metric that is a share or an area must exceed to be measurably better than no model."""
        return self._baseline.least

    def _suspicion(self) -> Finding | None:
        value = self.value()
        if value is None or self.samples < _FEWEST:
            return None
        known = {"metric": self.name, "value": value, "samples": self.samples}
        if self._answers.count:
            return self._answers.suspicion(known)
        useless = self._baseline.useless(value, self._units)
        reach = self._metric.reach() if isinstance(self._metric, MeanAveragePrecision) and useless is not None else None
        if reach is not None and max(reach) > _OTHER_UNIT * min(reach):
            return EvaluationCode.LABELS_IN_OTHER_UNIT(**known, boxes=reach[0], labels=reach[1])
        return EvaluationCode.FLOAT_MODEL_USELESS(**known, useless=useless) if useless is not None else None

    @property
    def _units(self) -> int:
        """The number of samples, or of their pairs if the metric compares those."""
        return len(np.unique(self._metric.units())) if isinstance(self._metric, Spearman) else self.samples

    def skill(self) -> float:
        """The float model's gain over the best answer without a model, as a share of the largest possible, 0 to 1.

        If the labels are numbered differently from the model's classes (see ``suspicion``), the model's numbering is
        used. 0 if the metric is not finite.
        """
        value = self.value()
        if value is None:
            return 0.0
        skill = self._answers.skill() if self._answers.count else self._baseline.skill(value)
        return min(max(skill, 0.0), 1.0)
