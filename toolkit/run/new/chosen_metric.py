"""The metric of a new recipe: one that labels fit, for the output whose float answers agree with them."""

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
"""Samples that the float model runs on, one by one: the limit only has to be of the right order."""
_WHOLE = 0.5
"""The share of samples from which on they count as wholes, where labels are one per position."""


@dataclass(frozen=True)
class FloatValue:
    """The float model's own value of a metric.

    Attributes:
        value: in the metric's units; None where it is no number.
        samples: how many samples it is from.
        spread: see ``FloatCheck.spread``.
        suspicion: what is plainly wrong with it; None where nothing is.
        answers: how many answers it is a share of, of a rate of errors characters or words; 0 where it is none.
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
        fit: the metric and the output that it looks at.
        value: the float model's own; None where onnxruntime cannot run the model.
        as_well: the finding that the labels may also be another output's; None where they are this one's.
    """

    fit: FittingMetric
    value: FloatValue | None
    as_well: Finding | None = None


def chosen_metric(
    model: Model, data: CalibrationData, asked: str | None, seen: SeenModel | None
) -> ChosenMetric | Finding:
    """The metric of the output that the labels belong to; or why there is no metric, where none was asked for.

    Raises:
        DataError: the labels do not fit the metric that was asked for, or it says nothing about them, or one is NaN or
            infinite.
        RecipeError: no output has the shape of what it reads.
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
        # where hardly any whole sample is right, single positions say more
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
    """The metric that was asked for, of a model that gives no outputs here.

    Raises:
        DataError: onnxruntime cannot run nodes that the outputs depend on.
    """
    left = not_run(model).plugins
    if left:
        raise DataError(
            f"--metric {asked.metric} cannot be measured: onnxruntime cannot run {', '.join(left)}",
            where=data.name,
            remedy="leave --metric out: what those nodes read is compared with the float model's",
        )
    return ChosenMetric(asked, None)


def _refuse_silent(
    taken: MeasuredFit, further: Iterator[tuple[Mapping[str, Array], Mapping[str, Array]]], source: str
) -> None:
    """Check that the metric says something about the samples; the first label may come after those measured.

    Raises:
        DataError: it does not; a run would refuse it.
    """
    while (lacking := taken.check.silence()) is not None:
        batch = next(further, None)
        if batch is None:
            raise DataError(
                f"the metric {taken.fit.metric} says nothing about the {taken.check.samples} samples: {lacking}",
                where=source,
                remedy="give samples whose labels it can be judged by, or leave --metric out",
            )
        taken.check.add(*batch)


def _refuse_unread(seen: SeenModel, asked: str) -> None:
    """``refuse_unread`` for the metric that was asked for."""
    try:
        refuse_unread(seen, asked, None)
    except RecipeError as error:
        error.at("--metric")
        raise


def _answers(
    model: Model, data: CalibrationData, seen: SeenModel, skip: int = 0
) -> Iterator[tuple[Mapping[str, Array], Mapping[str, Array]]]:
    """The float model's outputs for the first samples, or for all after those, and their labels."""
    loaded = session(model)
    wanted = [one.name for one in seen.outputs if one.samples]
    for sample in islice(data.samples(), skip, None if skip else _MEASURED):
        yield {name: widened(value) for name, value in loaded.run(sample.inputs, wanted).items()}, sample.labels
