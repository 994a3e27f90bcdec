"""Compare the measured model with its run in onnxruntime's own arithmetic, which does not round 16-bit floats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from toolkit.base.types import Array
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outputs import EvaluationResult, OutputComparison, Unrounded
from toolkit.evaluation.tasks import Rows


class OtherArithmetic:
    """Collects the results with and without the rounding of 16-bit floats for the same samples, batch by batch.

    Args:
        compared: creates an object that compares outputs with the float model's.
        answers: reads the outputs by their tasks; None if there is no task.
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
        """Add one batch of ``count`` samples.

        Args:
            wanted: the float model's outputs by name.
            found: the measured model's outputs by name, first with rounding and then without.
            labels: the samples' labels, for the metric; None if there are none.
            count: the number of samples in the batch.
            inputs: the batch's inputs, see ``Answers.rows``.
        """
        rounded, unrounded = found
        self._unrounded.add(wanted, unrounded, labels, count, inputs)
        if self._answers is not None:
            self._rows.append(self._answers.rows(rounded, unrounded, inputs))

    def result(self, samples: int, rounded: EvaluationResult | None) -> Unrounded | None:
        """The comparison without rounding; None if there were no batches.

        Args:
            samples: the number of samples of the whole evaluation.
            rounded: the result with rounding for the same batches, used if these are not all samples.
        """
        if not self._unrounded.samples:
            return None
        tallies = self._answers.tallies(self._rows) if self._answers is not None else ()
        # the upper confidence limit of the share of answers that differ, of the part where it is largest
        moved = max((1.0 - tally.interval[0] for tally in tallies), default=None)
        return Unrounded(self._unrounded.result(), rounded if self._unrounded.samples < samples else None, moved)
