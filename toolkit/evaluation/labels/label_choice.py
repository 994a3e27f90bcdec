"""Choose the output that the labels belong to: of those that fit, the one whose answers agree with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from toolkit.base.errors import DataError, RecipeError
from toolkit.base.types import Array
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.labels.float_check import FloatCheck
from toolkit.evaluation.labels.label_fit import FittingMetric
from toolkit.evaluation.metrics.options import options_for
from toolkit.evaluation.metrics.table import task_of
from toolkit.evaluation.observation.observed import SeenModel


def read_alike(metric: str, other: str) -> bool:
    """Whether two metrics read labels in the same way: their tasks are equal, or classification and sequence."""
    positions = ("classification", "sequence")
    tasks = task_of(metric), task_of(other)
    return tasks[0] == tasks[1] or all(task in positions for task in tasks)


@dataclass(frozen=True)
class MeasuredFit:
    """A metric that fits the labels, measured on the float model.

    Attributes:
        fit: the metric and its output.
        check: the check that has read the float model's outputs.
    """

    fit: FittingMetric
    check: FloatCheck


class FitMeasurement:
    """Measures several metrics over the same batches and drops those that the labels turn out not to fit.

    Args:
        fits: at least one metric, best first; further ones that cannot be computed are left out.
        seen: the model with its outputs for a few samples.

    Raises:
        RecipeError: the first metric needs a package that is not installed.
    """

    def __init__(self, fits: Sequence[FittingMetric], seen: SeenModel) -> None:
        self._found: list[MeasuredFit] = []
        for fit in fits:
            parts = guess(seen, task_of(fit.metric), fit.output).parts
            try:
                check = FloatCheck(fit.metric, fit.output, options_for(fit.metric, fit.output, parts))
            except RecipeError:
                if fit is fits[0]:
                    raise
                continue
            self._found.append(MeasuredFit(fit, check))
        self._refusals: dict[FittingMetric, DataError] = {}

    def add(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Add the float model's outputs for one batch, floats in float32 or wider, and the batch's labels."""
        for one in self._found:
            if one.fit in self._refusals:
                continue
            try:
                one.check.add(outputs, labels)
            except DataError as error:
                self._refusals[one.fit] = error.apart()

    @property
    def fitting(self) -> list[MeasuredFit]:
        """The metrics that fit the labels read so far."""
        return [one for one in self._found if one.fit not in self._refusals]

    def kept(self) -> list[MeasuredFit]:
        """The metrics that fit the labels, at least one.

        Raises:
            DataError: none fits; the message is that of the first metric.
        """
        if not self.fitting:
            raise self._refusals[self._found[0].fit].apart()
        return self.fitting


def measured_fits(
    fits: Sequence[FittingMetric], seen: SeenModel, batches: Iterable[tuple[Mapping[str, Array], Mapping[str, Array]]]
) -> list[MeasuredFit]:
    """The metrics that fit the labels, measured; see ``FitMeasurement``.

    Args:
        fits: at least one metric, best first.
        seen: the model with its outputs for a few samples.
        batches: the float model's outputs, floats in float32 or wider, and the labels.

    Raises:
        DataError: no metric fits the labels; the message is that of the first one.
        RecipeError: the first metric needs a package that is not installed.
    """
    measured = FitMeasurement(fits, seen)
    for outputs, labels in batches:
        measured.add(outputs, labels)
    return measured.kept()


def labelled_output(found: Sequence[MeasuredFit]) -> tuple[MeasuredFit, list[MeasuredFit]]:
    """The metric of the output that the labels belong to, and those of outputs that they may equally well belong to.

    The first metric is taken whose skill (see ``FloatCheck.skill``) is within one standard error of the highest; the
    error is that of a share, at most 1 / sqrt(samples). Outputs within two standard errors, by the same metric and with
    another value, cannot be distinguished from it on these samples.

    Args:
        found: at least one metric, the best guess first; of several for one output only the first counts.
    """
    firsts = list({one.fit.output: one for one in reversed(found)}.values())[::-1]
    skills = [one.check.skill() for one in firsts]
    error = 1 / math.sqrt(max(firsts[0].check.samples, 1))
    taken = next(one for one, skill in zip(firsts, skills) if skill >= max(skills) - error)
    as_well = [
        one
        for one, skill in zip(firsts, skills)
        if one is not taken
        and skill >= max(skills) - 2 * error
        and one.fit.metric == taken.fit.metric
        and None not in (one.check.value(), taken.check.value())
        and one.check.value() != taken.check.value()
    ]
    return taken, as_well
