"""The metric of a new recipe: one that the labels fit, for the output that the float model predicts them with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from toolkit.base.errors import DataError, RecipeError
from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation.comparison.outputs import widened
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.guessing.judged import refuse_unread
from toolkit.evaluation.labels.float_check import RANKING, FloatCheck
from toolkit.evaluation.labels.label_choice import MeasuredFit, labelled_output, measured_fits, read_alike
from toolkit.evaluation.labels.label_fit import FittingMetric, classes_read, fitting_metrics
from toolkit.evaluation.metrics.by_name import label_of
from toolkit.evaluation.metrics.table import METRICS, has_error
from toolkit.evaluation.observation.observed import SeenModel
from toolkit.graph.model import Model
from toolkit.graph.sessions.runnable import not_run
from toolkit.graph.sessions.session import session
from toolkit.report.codes import ReportCode
from toolkit.run.task.labels import not_finite, refuse_stray, unfit
from toolkit.run.task.output_choice import output_unsure

_MEASURED = 64
"""Number of samples that the float model is run on, one by one: the limit needs only the right order of magnitude."""
_WHOLE = 0.5
"""Share of completely correct samples from which whole samples are judged, if labels have one value per position."""


@dataclass(frozen=True)
class FloatValue:
    """The float model's value of a metric.

    Attributes:
        value: in the metric's units; None if it is not a number.
        samples: number of samples it was measured on.
        spread: see ``FloatCheck.spread``.
        suspicion: a finding if the value is implausible; None otherwise.
        answers: number of answers that the value is a share of, or characters or words for an error rate; 0 for other
            metrics.
        says_little: see ``FloatCheck.says_little``.
    """

    value: float | None
    samples: int
    spread: float
    suspicion: Finding | None
    answers: int = 0
    says_little: Finding | None = None

    @classmethod
    def of(cls, check: FloatCheck) -> FloatValue:
        """What a check found."""
        return cls(check.value(), check.samples, check.spread, check.suspicion(), check.answers, check.says_little())


@dataclass(frozen=True)
class ChosenMetric:
    """The metric of a new recipe.

    Attributes:
        fit: the metric and the output that it reads.
        value: the float model's value; None if onnxruntime cannot run the model.
        as_well: a finding if the labels may also belong to another output; None otherwise.
    """

    fit: FittingMetric
    value: FloatValue | None
    as_well: Finding | None = None


def chosen_metric(
    model: Model, data: CalibrationData, asked: str | None, seen: SeenModel | None
) -> ChosenMetric | Finding:
    """The metric of the output that the labels belong to; or a finding why there is none, if none was requested.

    Raises:
        DataError: the labels do not fit the requested metric, or do not allow a judgement by it, or a label is NaN or
            infinite.
        RecipeError: no output has a shape that the requested metric reads.
    """
    samples = [replace(sample, inputs={}) for sample in data.samples()]
    given = [label_of(sample.labels) for sample in samples]
    labels = seen.labels_of(given) if seen is not None else [one[0] for one in given]
    first = model.graph.outputs[0].name
    if seen is None or not any(one.samples for one in seen.outputs):
        return unfit(labels, seen) if asked is None else _without_outputs(model, data, FittingMetric(asked, first))
    broken = not_finite(labels, samples, seen)
    if broken is not None and asked is None:
        return broken
    if broken is not None:
        raise DataError(
            f"--metric {asked} cannot read the label: it is NaN or infinite",
            where=str(broken.values["origin"]),
            remedy="repair the labels, or remove the sample",
        )
    seen.read = classes_read(labels)
    fits = fitting_metrics(seen, guess(seen), labels)
    if asked is not None:
        _refuse_unread(seen, asked)
        own = [one.output for one in fits if read_alike(asked, one.metric)]
        fits = [FittingMetric(asked, output) for output in dict.fromkeys(own or [first])]
    elif not fits:
        refuse_stray(labels, samples, seen)
        return unfit(labels, seen)
    found = _measured(fits, model, data, seen, required=asked is not None)
    if found is None:
        return unfit(labels, seen)
    if isinstance(found, Finding):
        return found
    taken, others = labelled_output(found)
    _refuse_silent(taken, _answers(model, data, seen, _MEASURED), data.name)
    as_well = output_unsure(taken, others) if others else None
    taken = _more_telling(taken, found)
    return ChosenMetric(taken.fit, FloatValue.of(taken.check), as_well)


def _measured(
    fits: Sequence[FittingMetric], model: Model, data: CalibrationData, seen: SeenModel, required: bool
) -> list[MeasuredFit] | Finding | None:
    """The float model's values of metrics; without ``required`` the finding that one needs an extra, or None.

    Raises:
        DataError: the labels do not fit the ``required`` metric.
        RecipeError: the ``required`` metric needs an extra that is not installed.
    """
    extra = METRICS[fits[0].metric].extra
    try:
        return measured_fits(fits, seen, _answers(model, data, seen))
    except RecipeError:
        if required or not extra:
            raise
        return ReportCode.NEW_METRIC_NEEDS_EXTRA(metric=fits[0].metric, extra=extra)
    except DataError as error:
        if not required:
            return None
        raise DataError(
            f"--metric {fits[0].metric} does not fit the labels: {error.what}", where=data.name, remedy=error.remedy
        ) from error


def _more_telling(taken: MeasuredFit, found: Sequence[MeasuredFit]) -> MeasuredFit:
    """A metric of the same output instead of one that says little: by position, by ranking or by error."""
    if taken.fit.metric == "exact" and (taken.check.value() or 0.0) < _WHOLE:
        # if hardly any sample is correct in all positions, accuracy per position is more informative
        single = FittingMetric("top1", taken.fit.output)
        taken = next((one for one in found if one.fit == single), taken)
    if taken.check.says_little() is not None:
        ranking = FittingMetric(RANKING, taken.fit.output)
        taken = next((one for one in found if one.fit == ranking), taken)
    return _by_error(taken, found) if taken.fit.metric == "psnr" else taken


def _by_error(taken: MeasuredFit, found: Sequence[MeasuredFit]) -> MeasuredFit:
    """The squared error in place of a PSNR that hardly any error bounds, as where labels are a float model's own
    pictures: however little is added, it falls by many decibels.
    """
    error = next((one for one in found if one.fit == FittingMetric("mse", taken.fit.output)), None)
    own = error.check.value() if error is not None else None
    if error is None or own is None or has_error("mse", own, error.check.spread):
        return taken
    return error


def _without_outputs(model: Model, data: CalibrationData, asked: FittingMetric) -> ChosenMetric:
    """The requested metric, for a model whose outputs onnxruntime cannot compute.

    Raises:
        DataError: onnxruntime cannot run nodes that the outputs depend on.
    """
    left = not_run(model).plugins
    if left:
        raise DataError(
            f"--metric {asked.metric} cannot be measured: onnxruntime cannot run {', '.join(left)}",
            where=data.name,
            remedy="leave --metric out: the tensors that those nodes read are then compared with the float model's",
        )
    return ChosenMetric(asked, None)


def _refuse_silent(
    taken: MeasuredFit, further: Iterator[tuple[Mapping[str, Array], Mapping[str, Array]]], source: str
) -> None:
    """Check that the metric can be computed; the first usable label may come after the samples measured so far.

    Raises:
        DataError: it cannot; a run would refuse it.
    """
    while (lacking := taken.check.silence()) is not None:
        batch = next(further, None)
        if batch is None:
            raise DataError(
                f"the metric {taken.fit.metric} cannot judge the {taken.check.samples} samples: {lacking}",
                where=source,
                remedy="give samples with labels that it can use, or leave --metric out",
            )
        taken.check.add(*batch)


def _refuse_unread(seen: SeenModel, asked: str) -> None:
    """``refuse_unread`` for the requested metric."""
    try:
        refuse_unread(seen, asked, None)
    except RecipeError as error:
        error.at("--metric")
        raise


def _answers(
    model: Model, data: CalibrationData, seen: SeenModel, skip: int = 0
) -> Iterator[tuple[Mapping[str, Array], Mapping[str, Array]]]:
    """The float model's outputs and the labels for the first samples, or with ``skip`` for all samples after those."""
    loaded = session(model)
    wanted = [one.name for one in seen.outputs if one.samples]
    for sample in islice(data.samples(), skip, None if skip else _MEASURED):
        yield {name: widened(value) for name, value in loaded.run(sample.inputs, wanted).items()}, sample.labels
