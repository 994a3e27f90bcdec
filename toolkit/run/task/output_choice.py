"""Check that the output a metric reads by default, if the recipe names none, is the one the labels belong to."""

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
    """The finding that the labels may belong equally to other outputs than the one that the metric reads."""
    candidates = (taken, *others)
    return ReportCode.NEW_OUTPUT_UNSURE(
        metric=taken.fit.metric, outputs=[one.fit.output for one in candidates],
        values=[one.check.value() for one in candidates], samples=taken.check.samples,
    )  # fmt: skip


class OutputChoice:
    """Compares the labels with the other outputs, in addition to the one that the metric reads.

    Args:
        check: the metric on the output that it reads.
        others: the other outputs that it could read.
        seen: the model with its outputs for a few samples.
    """

    def __init__(self, check: FloatCheck, output: str, others: Sequence[str], seen: SeenModel) -> None:
        self._taken, self._seen = MeasuredFit(FittingMetric(check.name, output), check), seen
        self._others = FitMeasurement([FittingMetric(check.name, one) for one in others], seen)
        self._labels: list[Array] = []

    @classmethod
    def of(cls, check: FloatCheck, seen: SeenModel | None, read: str | None) -> OutputChoice | None:
        """The choice for a recipe that names no output; None if there is no alternative.

        Args:
            check: the metric on the output that it reads.
            seen: the model; None if it has not been run.
            read: the output that the metric reads for the task; None for the model's first output.
        """
        # a detector's outputs are read together
        if seen is None or METRICS[check.name].task == "detection":
            return None
        names = [one.name for one in seen.outputs if one.samples and one.name not in seen.states]
        output = read if read is not None else next((one.name for one in seen.outputs), "")
        others = [name for name in names if name != output]
        return cls(check, output, others, seen) if others and output in names else None

    def add(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Add the float model's outputs for a batch, and its labels; the check already has them."""
        self._others.add(outputs, labels)
        self._labels.append(label_of(labels))

    def said(self) -> list[Finding]:
        """The finding that the labels may also belong to another output.

        Raises:
            RecipeError: they belong to another output.
        """
        own, metric = self._taken, self._taken.fit.metric
        fits = fitting_metrics(self._seen, guess(self._seen), self._seen.labels_of(self._labels))
        fitting = {one.output for one in fits if read_alike(metric, one.metric)}
        others = [one for one in self._others.fitting if one.fit.output in fitting]
        found, as_well = labelled_output([own, *others])
        # an output that follows the labels only under another class numbering is too weak a reason to refuse the recipe
        if found is not own and own not in as_well and self._is_better(found):
            raise RecipeError(
                f"the labels belong to output '{found.fit.output}': the float model's own {metric} is "
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
