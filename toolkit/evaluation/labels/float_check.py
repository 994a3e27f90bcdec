"""Whether the float model is plainly wrong by its labels, which is reported before anything is quantized."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from toolkit.base.errors import DataError
from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.labels.class_answers import ClassAnswers
from toolkit.evaluation.metric import MetricOptions, answers_of, classes_from, of_one_score, pick_scores
from toolkit.evaluation.metrics.baselines import baseline
from toolkit.evaluation.metrics.boxes import MeanAveragePrecision
from toolkit.evaluation.metrics.by_name import make_metric
from toolkit.evaluation.metrics.table import METRICS

_FEWEST = 16
_OTHER_UNIT = 3
"""Boxes of a useless detector that reach so many times farther than the labels', or as much less, have another unit."""
_BY_CLASS = frozenset({"top1", "top5", "exact", "balanced_accuracy", "f1"})
_MOST = 0.5
RANKING = "auc"
"""The metric of the order of scores alone: it tells a model that knows something where the best class hardly does."""


class FloatCheck:
    """Takes in the float model's outputs and labels of some samples.

    Args:
        metric: a built-in metric's name.
        output: the output that it looks at.
        options: the other settings it needs.
        settled: whether the user has set the threshold of a single score, so that it is none to doubt.

    Attributes:
        samples: how many were taken in.
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
        """The check for a recipe's metric; None without one, or for a user's metric, whose meaning is not known."""
        return cls(metric, output, options, settled) if metric in METRICS and metric is not None else None

    def add(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Take in one batch.

        Raises:
            DataError: the labels do not fit the output.
        """
        self._metric.update(outputs, labels)
        given = pick_scores(outputs, self.options, labels)
        # what is read as values keeps them: an error is none of the numbers of classes
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
        """The float model's metric on these samples; None where it is no number, as where none of them has a label."""
        value = float(self._metric.value())
        return value if math.isfinite(value) else None

    def silence(self) -> str | None:
        """What the labels of these samples lack for the metric to be a number; None where it is one."""
        if self._baseline.told or not self.samples or not math.isnan(self._metric.value()):
            return None
        return self._baseline.silent

    @property
    def spread(self) -> float:
        """What mse or mae would be for the best constant, in the metric's unit; 0 for other metrics."""
        return self._baseline.spread

    @property
    def answers(self) -> int:
        """How many answers the metric is a share of; 0 where it is none."""
        return answers_of(self._metric)

    def suspicion(self) -> Finding | None:
        """What is plainly wrong, with what explains it where that can be seen; None where nothing is.

        Nothing is where the order of the scores shows that the model knows something; see ``says_little``.
        """
        found = self._suspicion()
        return None if found is not None and self._ranks_of(found) is not None else found

    def says_little(self) -> Finding | None:
        """That the metric is no better than what needs no model, although the scores tell the classes apart.

        So it is where one class is frequent, and the model is rarely sure of another; None otherwise.
        """
        found = self._suspicion()
        area = self._ranks_of(found) if found is not None else None
        return EvaluationCode.SAYS_LITTLE(**found.values, better=RANKING, area=area) if found and area else None

    def _ranks_of(self, found: Finding) -> float | None:
        """The area under the ROC curve where it is measurably above chance in spite of what was found.

        None unless most labels are of one class, and the model is not measurably worse than that class as the answer to
        all: a model that is given what it was trained for is not, however rarely it is sure of another.
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
        """The value of a share or an area that the model must exceed to be measurably better than none."""
        return self._baseline.least

    def _suspicion(self) -> Finding | None:
        value = self.value()
        if value is None or self.samples < _FEWEST:
            return None
        known = {"metric": self.name, "value": value, "samples": self.samples}
        if self._answers.count:
            return self._answers.suspicion(known)
        useless = self._baseline.useless(value, self.samples)
        reach = self._metric.reach() if isinstance(self._metric, MeanAveragePrecision) and useless is not None else None
        if reach is not None and max(reach) > _OTHER_UNIT * min(reach):
            return EvaluationCode.LABELS_IN_OTHER_UNIT(**known, boxes=reach[0], labels=reach[1])
        return EvaluationCode.FLOAT_MODEL_USELESS(**known, useless=useless) if useless is not None else None

    def skill(self) -> float:
        """How far the float model gets from what needs no model to perfection: 0 to 1.

        Labels that are numbered differently from the model's answers, see ``suspicion``, count as by the model's own
        numbers. 0 where the metric is no number.
        """
        value = self.value()
        if value is None:
            return 0.0
        skill = self._answers.skill() if self._answers.count else self._baseline.skill(value)
        return min(max(skill, 0.0), 1.0)
