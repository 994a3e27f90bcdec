"""The measured model as onnxruntime itself computes it: without the rounding of 16-bit floats between its kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from toolkit.base.types import Array
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outputs import EvaluationResult, OutputComparison, Unrounded
from toolkit.evaluation.tasks import Rows


class OtherArithmetic:
    """Takes in the results of both arithmetics for the same samples, batch by batch.

    Args:
        compared: creates an object that compares outputs with the float model's.
        answers: reads outputs as the task says; None without a task.
    """

    def __init__(self, compared: Callable[[], OutputComparison], answers: Answers | None) -> None:
        self._unrounded, self._answers = compared(), answers
        self._rows: list[Sequence[Rows]] = []

    def add(
        self,
        wanted: Mapping[str, Array],
        found: Sequence[Mapping[str, Array]],
        labels: Mapping[str, Array] | None,
        count: int,
        inputs: Mapping[str, Array] | None = None,
    ) -> None:
        """Take in one batch of ``count`` samples.

        Args:
            wanted: the float model's outputs by name.
            found: the other model's outputs with its rounding, and without.
            labels: the samples' labels, for the metric.
            count: how many samples the batch holds.
            inputs: its inputs, see ``Answers.rows``.
        """
        rounded, unrounded = found
        self._unrounded.add(wanted, unrounded, labels, count, inputs)
        if self._answers is not None:
            self._rows.append(self._answers.rows(rounded, unrounded, inputs))

    def result(self, samples: int, rounded: EvaluationResult | None) -> Unrounded | None:
        """What the batches showed; None where there were none.

        Args:
            samples: how many samples the evaluation has.
            rounded: what the same batches showed with the rounding, where these are not all.
        """
        if not self._unrounded.samples:
            return None
        tallies = self._answers.tallies(self._rows) if self._answers is not None else ()
        # the largest share that the samples leave possible, of the part that moves most
        moved = max((1.0 - tally.interval[0] for tally in tallies), default=None)
        return Unrounded(self._unrounded.result(), rounded if self._unrounded.samples < samples else None, moved)
