"""Whether the output that a metric reads, where the recipe names none, is the one that the labels belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolkit.base.errors import RecipeError
from toolkit.base.text import toml_string
from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.labels.float_check import FloatCheck
from toolkit.evaluation.labels.label_choice import FitMeasurement, MeasuredFit, labelled_output, read_alike
from toolkit.evaluation.labels.label_fit import FittingMetric, fitting_metrics
from toolkit.evaluation.metric import label_of
from toolkit.evaluation.metrics.table import METRICS
from toolkit.evaluation.observation.observed import SeenModel
from toolkit.report.codes import ReportCode


def output_unsure(taken: MeasuredFit, others: Sequence[MeasuredFit]) -> Finding:
    """The finding that the labels may equally be those of other outputs than the one that the metric reads."""
    candidates = (taken, *others)
    return ReportCode.NEW_OUTPUT_UNSURE(
        metric=taken.fit.metric, outputs=[one.fit.output for one in candidates],
        values=[one.check.value() for one in candidates], samples=taken.check.samples,
    )  # fmt: skip


class OutputChoice:
    """Compares the other outputs with the labels besides the one that the metric reads.

    Args:
        check: the metric of the output that it reads.
        output: that output.
        others: the outputs that it might read.
        seen: the model with its outputs for a few samples.
    """

    def __init__(self, check: FloatCheck, output: str, others: Sequence[str], seen: SeenModel) -> None:
        self._taken, self._seen = MeasuredFit(FittingMetric(check.name, output), check), seen
        self._others = FitMeasurement([FittingMetric(check.name, one) for one in others], seen)
        self._labels: list[Array] = []

    @classmethod
    def of(cls, check: FloatCheck, seen: SeenModel | None, read: str | None) -> OutputChoice | None:
        """The choice for a recipe that names no output; None where there is nothing to choose.

        Args:
            check: the metric of the output that it reads.
            seen: the model; None where it has not been run.
            read: the output that the metric reads by the task; the model's first where None.
        """
        # a detector's outputs are read together
        if seen is None or METRICS[check.name].task == "detection":
            return None
        names = [one.name for one in seen.outputs if one.samples and one.name not in seen.states]
        output = read if read is not None else next((one.name for one in seen.outputs), "")
        others = [name for name in names if name != output]
        return cls(check, output, others, seen) if others and output in names else None

    def add(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Take in the float model's outputs for one batch, and its labels; the check itself has them already."""
        self._others.add(outputs, labels)
        self._labels.append(label_of(labels))

    def said(self) -> list[Finding]:
        """The finding that the labels may also be another output's.

        Raises:
            RecipeError: they are another's.
        """
        own, metric = self._taken, self._taken.fit.metric
        fits = fitting_metrics(self._seen, guess(self._seen), self._seen.labels_of(self._labels))
        fitting = {one.output for one in fits if read_alike(metric, one.metric)}
        others = [one for one in self._others.fitting if one.fit.output in fitting]
        found, as_well = labelled_output([own, *others])
        # labels that another output follows under its own numbering say too little to refuse what was written
        if found is not own and own not in as_well and self._is_better(found):
            raise RecipeError(
                f"the labels are those of output '{found.fit.output}': the float model's own {metric} is "
                f"{found.check.value():.4g} by it, and {own.check.value():.4g} by '{own.fit.output}', which is read "
                "where no output is named",
                remedy=f"set [evaluation] output = {toml_string(found.fit.output)}, or "
                f"{toml_string(own.fit.output)} to judge by that",
                value="metric",
            )
        if own.check.value() is None:
            return []
        others = [one for one in (found, *as_well) if one is not own]
        return [output_unsure(own, others)] if others else []

    def _is_better(self, other: MeasuredFit) -> bool:
        mine, theirs = self._taken.check.value(), other.check.value()
        if mine is None or theirs is None:
            return False
        return theirs > mine if METRICS[other.fit.metric].higher_is_better else theirs < mine
