"""Which of the outputs that labels fit they belong to: the one whose answers agree with them."""

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
    """Whether two metrics read labels alike: those of a task do, and those of classes and of sequences of them."""
    positions = ("classification", "sequence")
    tasks = task_of(metric), task_of(other)
    return tasks[0] == tasks[1] or all(task in positions for task in tasks)


@dataclass(frozen=True)
class MeasuredFit:
    """A metric that labels fit, and how well the float model does by it.

    Attributes:
        fit: the metric and its output.
        check: with the float model's outputs.
    """

    fit: FittingMetric
    check: FloatCheck


class FitMeasurement:
    """Each of several metrics over the same batches; those whose labels do not fit after all are left out.

    Args:
        fits: at least one, the best first; one that cannot be computed is left out.
        seen: the model with what it gave on a few samples.

    Raises:
        RecipeError: the first needs what is not installed.
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
        """Take in the float model's outputs of one batch, wide floats, and its labels."""
        for one in self._found:
            if one.fit in self._refusals:
                continue
            try:
                one.check.add(outputs, labels)
            except DataError as error:
                self._refusals[one.fit] = error.apart()

    @property
    def fitting(self) -> list[MeasuredFit]:
        """The metrics that the labels fit."""
        return [one for one in self._found if one.fit not in self._refusals]

    def kept(self) -> list[MeasuredFit]:
        """The metrics that the labels fit, at least one.

        Raises:
            DataError: there is none; with the first one's message.
        """
        if not self.fitting:
            raise self._refusals[self._found[0].fit].apart()
        return self.fitting


def measured_fits(
    fits: Sequence[FittingMetric], seen: SeenModel, batches: Iterable[tuple[Mapping[str, Array], Mapping[str, Array]]]
) -> list[MeasuredFit]:
    """The metrics that labels fit, measured; see ``FitMeasurement``.

    Args:
        fits: at least one, the best first.
        seen: the model with what it gave on a few samples.
        batches: the float model's outputs, wide floats, and the labels.

    Raises:
        DataError: the labels fit none of them; with the first one's message.
        RecipeError: the first needs what is not installed.
    """
    measured = FitMeasurement(fits, seen)
    for outputs, labels in batches:
        measured.add(outputs, labels)
    return measured.kept()


def labelled_output(found: Sequence[MeasuredFit]) -> tuple[MeasuredFit, list[MeasuredFit]]:
    """The metric of the output that the labels belong to, and those of others that they may equally well belong to.

    The first is taken that is nearly as much better than what needs no model as the best one is, see
    ``FloatCheck.skill``: to within one standard error of a share, at its largest. What is within two of the best,
    by the same metric and with another value, cannot be told from it by these samples.

    Args:
        found: at least one, the best guess first; of several for one output the first counts.
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
