"""Compares the outputs of two models on the same samples: the metric of both, and the differences of outputs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from onnx import TensorProto
from pydantic import BeforeValidator, PlainSerializer

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.clipping import Clipping
from toolkit.evaluation.metric import metric_code
from toolkit.evaluation.metrics.by_name import Metric, MetricOptions, make_metric
from toolkit.evaluation.numerics.difference import Difference, OutputFigures, TensorError, is_float
from toolkit.evaluation.numerics.resampling import drop_error, is_alone, score_of
from toolkit.evaluation.tasks import AnswerTally, Rows
from toolkit.graph.model import Model
from toolkit.graph.surgery.tensors import FLOAT_TYPES, onnx_type

MetricPair = tuple[Metric | None, Metric | None]
OrNaN = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: None if math.isnan(value) else value),
]
"""A float that may be NaN, stored as null since JSON has no NaN."""


@dataclass
class EvaluationResult:
    """The comparison of two models' outputs.

    Attributes:
        metric: the metric's name, or None.
        float_value: the metric of the float model.
        value: the metric of the other model.
        drop: how much worse ``value`` is, in the metric's units; negative if it is better.
        metric_answers: number of answers that the metric is a share of; 0 if it is not a share, or not known.
        left_out: the metric of both models with one of several groups of samples left out each, see ``resampling``;
            NaN if the group left out has all labels.
        metric_samples: number of samples with a label, see ``MetricScore.samples``.
        metric_spread: the value of the metric for the best constant, see ``MetricScore.spread``.
        rising: whether a higher value of the metric is better.
        tallies: the unchanged answers by part of the outputs, as the task reads them.
        samples: number of samples.
        outputs: figures of the outputs that could be compared, by name. Without floats, agreement is the share of equal
            elements.
        unlike: by output, the number of samples that could not be compared because the models' shapes differ.
        discrete: the outputs that hold integers or the like, not floats.
        beside: by output with rows ranked by score, figures of the rows that both models have, see ``row_sets``; in
            ``outputs`` rows that one model lacks are compared with zeros.
        form: the form of the other model that ran: lowered, or float32 if onnxruntime cannot run the lowered one.
        nodes: the error of each node of the other model.
        layer_samples: number of samples on which the nodes' errors were measured.
        clipping: clipping of values, by quantized activation and by float input of the model.
        notes: findings for the report.
        not_compared: the model's outputs that onnxruntime cannot compute.
        in_place: the tensors among ``outputs`` that were compared instead: inputs of nodes that onnxruntime cannot run.
        unrounded: the result without rounding to 16-bit floats; None if there is none, or not measured.
    """

    metric: str | None = None
    float_value: float | None = None
    value: float | None = None
    drop: float | None = None
    samples: int = 0
    outputs: dict[str, OutputFigures] = field(default_factory=dict)
    nodes: dict[str, TensorError] = field(default_factory=dict)
    layer_samples: int = 0
    notes: list[Finding] = field(default_factory=list)
    unlike: dict[str, int] = field(default_factory=dict)
    discrete: list[str] = field(default_factory=list)
    beside: dict[str, OutputFigures] = field(default_factory=dict)
    form: str = "lowered"
    clipping: dict[str, Clipping] = field(default_factory=dict)
    not_compared: list[str] = field(default_factory=list)
    in_place: list[str] = field(default_factory=list)
    metric_answers: int = 0
    metric_samples: int = 0
    metric_spread: float = 0.0
    rising: bool = True
    tallies: tuple[AnswerTally, ...] = ()
    unrounded: Unrounded | None = None
    left_out: tuple[tuple[OrNaN, OrNaN], ...] = ()

    def judged(self) -> frozenset[str]:
        """The outputs that are judged by their answers; empty without any, as with limits on noise only."""
        return frozenset(name for tally in self.tallies for name in tally.part.outputs)

    @property
    def drop_error(self) -> float | None:
        """Standard error of the drop over samples; None if the metric does not allow to compute it."""
        return drop_error(*self._left_out())

    @property
    def refused(self) -> bool:
        """Whether onnxruntime cannot run all of the other model as it is written."""
        codes = {note.code for note in self.notes}
        return self.form != "lowered" or bool(self.not_compared) or EvaluationCode.UNROUNDED_NOT_RUN in codes

    @property
    def alone(self) -> bool:
        """Whether the metric comes from a single sample or group; see ``is_alone``."""
        return is_alone(self.metric_samples, *self._left_out())

    def _left_out(self) -> tuple[list[float], list[float]]:
        return [before for before, _ in self.left_out], [after for _, after in self.left_out]


@dataclass
class Unrounded:
    """The other model as onnxruntime itself computes it, without rounding to 16-bit floats between its kernels.

    Attributes:
        found: its figures on some or all samples.
        rounded: the figures with the rounding on the same samples; None if these are all samples.
        moved: the largest plausible share of answers that the rounding changes, 0 to 1: the upper end of Wilson's 95 %
            interval, in the part of the outputs where it is largest; None without a task.
    """

    found: EvaluationResult
    rounded: EvaluationResult | None = None
    moved: float | None = None


class OutputComparison:
    """Compares the outputs of the float model and of another model for the same samples, batch by batch.

    Args:
        reference: the float model, whose outputs are compared.
        metric: one that ``METRICS`` lists, or ``module:Name``; None for none. It is not computed if an output that it
            may need is not compared.
        output: the output for the metric.
        allow_code: whether ``metric`` may be code.
        names: the tensors to compare; None for the model's outputs.
        answers: interprets outputs by the task; None without a task.
        options: further options of the metric.
        parts: number of parts that the samples come in; ``so_far`` may be called after each but the last.

    Raises:
        RecipeError: there is no such metric.
        NotAllowedError: the metric is code and code is not allowed.
    """

    def __init__(
        self,
        reference: Model,
        metric: str | None = None,
        output: str | None = None,
        allow_code: bool = False,
        names: Sequence[str] | None = None,
        answers: Answers | None = None,
        options: MetricOptions | None = None,
        parts: int = 1,
    ) -> None:
        own = [t.name for t in reference.graph.outputs]
        self._names = own if names is None else list(names)
        self._not_compared = [name for name in own if name not in self._names]
        self._in_place = [name for name in self._names if name not in own]
        if not metric_computable(output, self._not_compared):
            metric = None
        self._class_like = {t.name for t in reference.graph.outputs if class_like(t.shape)}
        # each metric object computes its value only once, at the end of its samples
        self._scores: list[MetricPair] = [
            (_maybe_metric(metric, output, allow_code, options), _maybe_metric(metric, output, allow_code, options))
            for _ in range(parts)
        ]
        self._metric = metric
        self._answers = answers.within(self._names) if answers is not None else None
        self._rows: list[Sequence[Rows]] = []
        self._outputs = {name: Difference() for name in self._names}
        self._shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self._unlike: dict[str, int] = {}
        self._discrete: set[str] = set()
        self._matched: dict[str, Difference] = {}
        self._apart: set[str] = set()
        self._unknown: Counter[str] = Counter()
        self.samples = 0

    def add(
        self,
        wanted: Mapping[str, Array],
        found: Mapping[str, Array],
        labels: Mapping[str, Array] | None,
        count: int,
        inputs: Mapping[str, Array] | None = None,
    ) -> None:
        """Add one batch of ``count`` samples.

        Args:
            wanted: the float model's outputs by name.
            found: the other model's outputs by name; floats of different types are compared in float32.
            labels: the samples' labels, for the metric.
            count: number of samples in the batch.
            inputs: the batch's inputs, see ``Answers.rows``.
        """
        first, second = wanted, found
        if self._answers is not None:
            first, second = self._answers.side_by_side(wanted, found)
            self._match(self._answers, wanted, found)
        for name in self._names:
            a, b = first[name], second[name]
            if a.shape != b.shape:
                self._unlike[name] = self._unlike.get(name, 0) + count
                self._shapes.setdefault(name, (a.shape, b.shape))
            elif is_float(a.dtype):
                on = self._entries_on(name, first, inputs)
                self._outputs[name].add(a, b, name in self._class_like and a.size > 0, on)
                self._outputs[name].follow(a, on)
                self._unknown[name] += _with_nan(wanted[name], count)
            else:
                self._outputs[name].add_equal(a, b, self._entries_on(name, first, inputs))
                self._discrete.add(name)
        if self._answers is not None:
            self._rows.append(self._answers.rows(wanted, found, inputs))
        for pair in self._scores if self._metric is not None else ():
            for score, values in zip(pair, (wanted, found)):
                if score is not None:
                    with metric_code(self._metric, "in update"):
                        score.update({n: widened(values[n]) for n in self._names}, labels or {})
        self.samples += count

    def _entries_on(self, name: str, wanted: Mapping[str, Array], inputs: Mapping[str, Array] | None) -> Array | None:
        return self._answers.entries_on(name, wanted, inputs) if self._answers is not None else None

    def _match(self, answers: Answers, wanted: Mapping[str, Array], found: Mapping[str, Array]) -> None:
        """Add the differences of ranked rows that both models have; lost rows show in the answers."""
        first, second = answers.ranked_rows(wanted, found, matched=True)
        for name in self._names:
            if name not in first:
                self._apart.add(name)
            elif is_float(first[name].dtype):
                self._matched.setdefault(name, Difference()).add(first[name], second[name])

    def so_far(self) -> EvaluationResult:
        """The result of the batches so far; to be called once for each part but the last."""
        return self._result(self._scores.pop())

    def result(self) -> EvaluationResult:
        """The result of all batches; ``nodes`` is empty."""
        return self._result(self._scores[0])

    def _result(self, metrics: MetricPair) -> EvaluationResult:
        found = EvaluationResult(metric=self._metric, samples=self.samples, unlike=dict(self._unlike))
        found.outputs = {name: one.figures() for name, one in self._outputs.items() if self._known(name, one)}
        found.discrete = sorted(self._discrete)
        # without any common rows there are no figures
        found.beside = {
            name: matched.figures() for name, matched in sorted(self._matched.items())
            if name not in self._apart and matched.seen
        }  # fmt: skip
        found.not_compared, found.in_place = self._not_compared, self._in_place
        if self._answers is not None:
            found.tallies = self._answers.tallies(self._rows)
        judged = found.judged()
        for name, difference in self._outputs.items():
            if difference.steady and (not judged or name in judged):
                found.notes.append(EvaluationCode.OUTPUT_STEADY(output=name))
        found.notes += [
            EvaluationCode.FLOAT_OUTPUT_NAN(output=name, count=count, samples=self.samples)
            for name, count in self._unknown.items()
            if count
        ]
        for name, count in self._unlike.items():
            wanted, given = self._shapes[name]
            found.notes.append(
                EvaluationCode.OUTPUT_SHAPE_DIFFERS(
                    output=name, unlike=count, samples=self.samples, float_shape=wanted, shape=given
                )
            )
        self._score(found, *metrics)
        return found

    def _known(self, name: str, difference: Difference) -> bool:
        """Whether an output has figures; perfect ones do not count if shapes differ on some samples."""
        unlike = self._unlike.get(name, 0)
        return not unlike or (unlike < self.samples and bool(difference.broken or difference.max_abs))

    def _score(self, found: EvaluationResult, mine: Metric | None, theirs: Metric | None) -> None:
        if mine is None or theirs is None or not self.samples:
            return
        scores = [score_of(one, self._metric) for one in (mine, theirs)]
        before, after = (one.value or 0.0 for one in scores)
        sign = 1.0 if mine.higher_is_better else -1.0
        found.float_value, found.value = _finite(before), _finite(after)
        found.metric_answers, found.metric_samples = scores[1].answers, scores[1].samples
        found.metric_spread = scores[1].spread
        found.rising = theirs.higher_is_better
        if all(one.left_out for one in scores):
            found.left_out = tuple(zip(*(one.left_out for one in scores)))
        found.drop = _finite(sign * (before - after))
        if scores[0].untold is not None:
            found.notes.append(scores[0].untold)
        if found.drop is None:
            found.notes.append(EvaluationCode.METRIC_NOT_FINITE(before=before, after=after))


def _with_nan(value: Array, count: int) -> int:
    """The number of samples with NaN in one batch of an output."""
    unknown = np.isnan(np.asarray(value, np.float32))
    if not unknown.any():
        return 0
    return int(unknown.reshape(count, -1).any(axis=1).sum()) if value.shape[:1] == (count,) else count


def metric_computable(output: str | None, lacking: Sequence[str]) -> bool:
    """Whether a metric on ``output`` (None: on any suitable one) can be computed if some outputs are missing."""
    return not lacking if output is None else output not in lacking


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def widened(value: Array) -> Array:
    """An output in the form for metrics: floats as float32."""
    return np.asarray(value, np.float32) if is_float(value.dtype) else value


def _maybe_metric(
    name: str | None, output: str | None, allow_code: bool, options: MetricOptions | None
) -> Metric | None:
    return make_metric(name, output, allow_code, options) if name is not None else None


def discrete_outputs(model: Model) -> list[str]:
    """The outputs that hold integers and the like: they have no SQNR, and agree or differ element by element."""
    floats = {TensorProto.UNDEFINED, TensorProto.DOUBLE, *FLOAT_TYPES}
    return [t.name for t in model.graph.outputs if t.dtype is not None and onnx_type(t.dtype) not in floats]


def class_like(shape: Sequence[Any] | None) -> bool:
    """[batch, classes] or [batch, positions, classes] with a fixed number of classes."""
    return shape is not None and len(shape) in (2, 3) and isinstance(shape[-1], int) and shape[-1] > 1
