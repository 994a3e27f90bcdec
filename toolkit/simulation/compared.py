"""Comparison of a state's outputs with the float model's on the same batches, with the user's metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.base.kept_results import fixed
from toolkit.base.types import Array
from toolkit.data.dataset import Batch
from toolkit.data.faults import at_fault
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outcome import BatchOutcome, Outcome, compare, summed, varying_shares
from toolkit.evaluation.comparison.outputs import widened
from toolkit.evaluation.metric import Metric, metric_code
from toolkit.evaluation.numerics.difference import is_float
from toolkit.evaluation.numerics.resampling import MetricScore, score_of
from toolkit.evaluation.numerics.softmax import softmax
from toolkit.simulation.state_run import Tensors

MetricMaker = Callable[[], Metric]
_LOOKED_AT = 256
"""Positions per batch that suffice to estimate how sensitive its scores are."""


@dataclass(frozen=True)
class KnownOutputs:
    """The float model's outputs for the batches, from another form of the same model.

    Attributes:
        outputs: by batch.
        seconds: time of one float inference of all batches.
        begins: see ``Simulation.compared_like``.
    """

    outputs: Sequence[Tensors]
    seconds: float
    begins: bool = False


class ComparedOutputs:
    """Compares outputs of states with the float model's.

    Args:
        classes: outputs that hold scores of classes.
        metric: returns a new instance of the user's metric; None without one.
        answers: interprets outputs by the task; None without a task.
        labels: returns the metric's labels for the float model's outputs; None for the batches' own labels.

    Attributes:
        floats: the float model's outputs by batch; set by ``know``.
    """

    floats: Sequence[Tensors]

    def __init__(
        self,
        feeds: Sequence[Batch],
        classes: Sequence[str] = (),
        metric: MetricMaker | None = None,
        answers: Answers | None = None,
        labels: Callable[[Tensors], Tensors] | None = None,
    ) -> None:
        self._feeds, self._classes, self._metric = feeds, classes, metric
        self._answers, self._labels = answers, labels
        self._float_on: dict[tuple[int, ...], Outcome] = {}

    def know(self, outputs: Sequence[Tensors]) -> None:
        """Set the float model's outputs by batch."""
        self.floats = outputs
        self._varying = varying_shares(outputs, self._answers, [feed.inputs for feed in self._feeds])
        self._fixed = [{name: fixed(value) for name, value in one.items()} for one in outputs]

    def tellings(self) -> list[float]:
        """How sensitive the outputs are to upstream errors, by batch, 1 on average.

        For probabilities p it is the mean of (p (1 - p))^2, the square of the sigmoid's slope; for other scores of
        classes see ``_scores_telling``. It is close to 0 if one class has nearly all of the probability, and 0 for an
        empty output. Other outputs have 1 for all batches.
        """
        found = [self._told_by(name) for name, value in self.floats[0].items() if is_float(value.dtype)]
        return [math.fsum(one) / len(one) for one in zip(*found)] if found else [1.0] * len(self.floats)

    def _told_by(self, name: str) -> list[float]:
        """``tellings`` for one output."""
        values = [one[name] for one in self.floats]
        shares = all(one.min(initial=0) >= 0 and one.max(initial=0) <= 1 for one in values)
        if not shares and name not in self._classes:
            return [1.0] * len(values)
        telling = _shares_telling if shares else _scores_telling
        told = [telling(one) if one.size else 0.0 for one in values]
        middle = math.fsum(told) / len(told)
        return [one / middle for one in told] if 0 < middle < math.inf else [1.0] * len(told)

    def float_on(self, indices: Sequence[int]) -> Outcome:
        """The float model's outcome on some batches."""
        key = tuple(indices)
        if key not in self._float_on:
            held = [self.held(self.floats[index]) for index in indices]
            self._float_on[key] = summed([BatchOutcome()] * len(indices), self._score(indices, held))
        return self._float_on[key]

    def of(self, index: int, outputs: Tensors) -> BatchOutcome:
        """Compare a batch's outputs with the float model's."""
        return compare(self._fixed[index], outputs, self._classes, self._answers, self._feeds[index].inputs)

    def held(self, outputs: Tensors) -> Tensors:
        """The part of a state's outputs to keep until all batches are done: all if there is a metric, else nothing."""
        return outputs if self._metric is not None else {}

    def bytes_of(self, index: int) -> int:
        """Bytes of a batch's outputs."""
        return sum(value.nbytes for value in self.floats[index].values())

    def summed(self, parts: Sequence[BatchOutcome], indices: Sequence[int], held: Sequence[Tensors]) -> Outcome:
        """The outcome over some batches, added in order."""
        return summed(parts, self._score(indices, held), self._varying, self._answers)

    def _score(self, indices: Sequence[int], outputs: Sequence[Tensors]) -> MetricScore:
        if self._metric is None:
            return MetricScore()
        metric = self._metric()
        for index, values in zip(indices, outputs):
            with at_fault(self._feeds[index]) as feed, metric_code(type(metric).__name__, "in update"):
                given = feed.labels or {} if self._labels is None else self._labels(self.floats[index])
                metric.update({n: widened(v) for n, v in values.items()}, given)
        return score_of(metric, type(metric).__name__)


def _shares_telling(shares: Array) -> float:
    """The mean of (p (1 - p))^2 over probabilities p of any shape, computed in float64."""
    wide = np.asarray(shares, np.float64)
    return float(np.square(wide * (1 - wide)).mean())


def _scores_telling(scores: Array) -> float:
    """The weight of score errors in the Kullback-Leibler divergence: the mean of sum p (1 - p), with p their softmax.

    Args:
        scores: floats [..., classes]; about 256 of the positions are used.
    """
    rows = scores.reshape(-1, scores.shape[-1])
    rows = np.asarray(rows[:: max(len(rows) // _LOOKED_AT, 1)], np.float64)
    with np.errstate(invalid="ignore"):
        shares = softmax(rows)
    return float((shares * (1 - shares)).sum(axis=1).mean())
