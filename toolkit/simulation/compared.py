"""How far a state's outputs are from the float model's on the same batches, and what the user's metric says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from toolkit.base.kept_results import fixed
from toolkit.data.dataset import Batch
from toolkit.data.faults import at_fault
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outcome import BatchOutcome, Outcome, compare, summed, varying_shares
from toolkit.evaluation.comparison.outputs import widened
from toolkit.evaluation.metric import Metric, metric_code
from toolkit.evaluation.numerics.resampling import MetricScore, score_of
from toolkit.simulation.state_run import Tensors

MetricMaker = Callable[[], Metric]


@dataclass(frozen=True)
class KnownOutputs:
    """What the float model gives for the batches, as another form of the same function gave it.

    Attributes:
        outputs: for each batch.
        seconds: of one float inference of all batches.
        begins: see ``Simulation.compared_like``.
    """

    outputs: Sequence[Tensors]
    seconds: float
    begins: bool = False


class ComparedOutputs:
    """Compares outputs with the float model's, once these are known.

    Args:
        feeds: the batches.
        classes: outputs that hold scores of classes.
        metric: makes the user's metric; None without one.
        answers: reads outputs as the task says; None without a task.
        labels: makes the metric's labels of the float model's outputs; the batches' own where None.

    Attributes:
        floats: what the float model gives for each batch.
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
        """Take in what the float model gives for each batch."""
        self.floats = outputs
        self._varying = varying_shares(outputs, self._answers, [feed.inputs for feed in self._feeds])
        self._fixed = [{name: fixed(value) for name, value in one.items()} for one in outputs]

    def float_on(self, indices: Sequence[int]) -> Outcome:
        """The float model's outcome on some batches."""
        key = tuple(indices)
        if key not in self._float_on:
            held = [self.held(self.floats[index]) for index in indices]
            self._float_on[key] = summed([BatchOutcome()] * len(indices), self._score(indices, held))
        return self._float_on[key]

    def of(self, index: int, outputs: Tensors) -> BatchOutcome:
        """What differs in a batch."""
        return compare(self._fixed[index], outputs, self._classes, self._answers, self._feeds[index].inputs)

    def held(self, outputs: Tensors) -> Tensors:
        """What is kept of a state's outputs until all batches are done."""
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
