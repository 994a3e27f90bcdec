"""The ``[evaluation]`` of a new recipe: the metric that the labels fit, and a limit based on the float model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from toolkit.base.errors import DataError, ModelError
from toolkit.base.text import plain, toml_string
from toolkit.contract.findings import Finding
from toolkit.data.dataset import CalibrationData
from toolkit.data.images import holds_images
from toolkit.evaluation.comparison.outputs import class_like, discrete_outputs
from toolkit.evaluation.guessing.guess import Guess, guess
from toolkit.evaluation.guessing.parts import bins_among, masked_positions, one_sided_among
from toolkit.evaluation.labels.label_fit import FittingMetric
from toolkit.evaluation.metrics.options import options_for
from toolkit.evaluation.metrics.table import (
    METRICS,
    LabelFigures,
    has_error,
    is_rate_of_errors,
    is_share,
    task_of,
    usual_drop,
    usual_drop_by,
    usual_limits,
)
from toolkit.evaluation.numerics.intervals import variance_bound
from toolkit.evaluation.observation.observed import SeenModel
from toolkit.evaluation.tasks import reader
from toolkit.graph.model import Model
from toolkit.graph.sessions.endless_loops import EndlessLoopError
from toolkit.graph.sessions.runnable import not_run
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.new.chosen_metric import ChosenMetric, FloatValue, chosen_metric
from toolkit.run.recipe.recipe import Recipe
from toolkit.run.task.task import first_seen, samples_unlike
from toolkit.search.budget.budget import DISTANCES, unlabelled

_ROUGH = 2.0
"""A limit by labels whose variance is known only to within more than this factor is left to each run."""
_SHARE = 0.01
"""Allowed drop of a user-defined metric, about which nothing else is known."""
_NO_TEST_DATA = (
    "# Without test data the outputs are compared on samples held out of calibration.",
    "# data = \"test.npz\"                 # with labels under 'label'",
)
_OWN_LIMIT = "# The task is inferred from samples, and has its own limit."


@dataclass
class NewEvaluation:
    """The ``[evaluation]`` table of a new recipe.

    Attributes:
        lines: lines of the recipe.
        said: decisions and their reasons.
        warnings: findings that the user should look into.
    """

    lines: list[str] = field(default_factory=list)
    said: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)

    def decided(self, one: Finding, *lines: str) -> None:
        """Add a decision with its lines."""
        self.said.append(one)
        self.lines += lines


def new_evaluation(
    model: Model, data: Path | None, test: Path | None, metric: str | None, named: str, before: str, target: Path | None
) -> NewEvaluation:
    """Write the table ``[evaluation]``.

    Args:
        model: the float model.
        data: calibration data, part of which is held out to measure on if there is no test data.
        test: test data.
        metric: the metric that the user requested; None for one that the labels fit.
        named: the test data's path as written in the recipe.
        before: the text of the recipe up to this table.
        target: the path of the new recipe.

    Raises:
        DataError: the metric does not fit the labels, or there are no labels for it.
    """
    own = test if test is not None else data
    made = NewEvaluation([f"data = {named}"] if test is not None else list(_NO_TEST_DATA))
    if own is None:
        if metric is not None:
            _metric(made, metric, fits=False)
            _usual_limit(made, metric)
        else:
            made.decided(ReportCode.NEW_WITHOUT_SAMPLES(), _OWN_LIMIT)
        return made
    recipe = Recipe.parse("\n".join([before, *made.lines]), target)
    inputs = Inputs(Job(recipe, RunFolder.of(recipe.name, None)), model)
    watched = _watched(made, inputs)
    labelled = _labelled(model, own)
    if isinstance(labelled, Finding):
        if metric is not None:
            raise DataError(
                f"--metric {metric} needs labels of all samples, and {labelled.values['without_at']} has none",
                where=str(own),
                remedy="keep the labelled samples by themselves, and name them with --test",
            )
        made.warnings.append(labelled)
        part = f"{labelled.values['labelled']} of {labelled.values['samples']} samples"
        made.lines.append(f"# Only {part} have labels: the answers are compared with the float model's.")
        _compared(made, inputs, watched)
    elif labelled is None:
        _without_labels(made, inputs, own, metric, watched)
    elif metric is not None and ":" in metric:
        _metric(made, metric, fits=False)
        _usual_limit(made, metric)
    elif (found := _fitting(made, inputs, labelled, metric, watched)) is not None:
        name = found.fit.metric
        if test is not None and data is not None and not holds_images(data) and not _all_labelled(model, data):
            made.said.append(unlabelled(data.name, name, by_float=name in DISTANCES))
        _chosen(made, model, found, watched)
        _limit(made, name, found.value, len(labelled) if test is not None else max(1, len(labelled) // 5))
    return made


def _watched(made: NewEvaluation, inputs: Inputs) -> SeenModel | None:
    """The model's outputs on samples; oddities, or the reason that it cannot be run, become warnings."""
    watched = seen_model(inputs)
    if isinstance(watched, Finding):
        made.warnings.append(watched)
        return None
    if watched is not None:
        made.warnings += [note for one in watched.outputs if (note := one.contradiction) is not None]
        made.warnings += samples_unlike(inputs)
    return watched


def _without_labels(
    made: NewEvaluation, inputs: Inputs, own: Path, metric: str | None, watched: SeenModel | None
) -> None:
    """Compare with the float model because the samples have no labels.

    Raises:
        DataError: the user requested a metric, which needs labels.
    """
    if metric is not None:
        raise DataError(
            f"--metric {metric} needs labels, and there are none",
            where=str(own),
            remedy="store them under the key 'label', or leave --metric out to compare with the float model",
        )
    lacking = "Images have no labels" if holds_images(own) else "There are no labels"
    made.lines.append(f"# {lacking}: the answers are compared with the float model's.")
    _compared(made, inputs, watched)


def _compared(made: NewEvaluation, inputs: Inputs, watched: SeenModel | None) -> None:
    """Compare with the float model, judged by the task."""
    if _of_images(inputs.job.recipe):
        made.decided(ReportCode.NEW_TASK_IN_RUN(), _OWN_LIMIT)
    else:
        _by_task(made, inputs.source(), watched)


def _fitting(
    made: NewEvaluation, inputs: Inputs, labelled: CalibrationData, metric: str | None, watched: SeenModel | None
) -> ChosenMetric | None:
    """The metric that the labels fit; if there is none, outputs are compared with the float model's."""
    # the reference model has no Q/DQ pairs that the recipe strips
    found = chosen_metric(inputs.reference(), labelled, metric, watched)
    if not isinstance(found, Finding):
        return found
    made.warnings.append(found)
    made.lines.append("# No built-in metric fits the labels: outputs are compared with the float model's.")
    _by_task(made, inputs.source(), watched)
    return None


def _chosen(made: NewEvaluation, model: Model, found: ChosenMetric, watched: SeenModel | None) -> None:
    """Write the metric, its output if it must be named, and the task that it implies."""
    fit = found.fit
    if found.as_well is not None:
        made.warnings.append(found.as_well)
        made.lines.append(f"# {plain(sentence(found.as_well))}")
    output = fit.output if found.as_well is not None or fit.output != model.graph.outputs[0].name else None
    # without a value the model was not run and the labels were not checked
    _metric(made, fit.metric, output, fits=found.value is not None)
    if watched is not None:
        judged = guess(watched, task_of(fit.metric), fit.output)
        _blank(made, judged, guess(replace(watched, read=frozenset()), task_of(fit.metric), fit.output))
        _task(made, judged, watched)
        _threshold(made, fit, judged)


def _metric(made: NewEvaluation, metric: str, output: str | None = None, fits: bool = True) -> None:
    """Write the metric: one that the labels were found to fit, or one that was requested."""
    said = ReportCode.NEW_METRIC(metric=metric, output=output) if fits else ReportCode.NEW_METRIC_ASKED(metric=metric)
    made.decided(said, f"metric = {toml_string(metric)}")
    made.lines += [f"output = {toml_string(output)}"] if output is not None else []


def _blank(made: NewEvaluation, found: Guess, unlabelled: Guess) -> None:
    """Write CTC's blank if labels and outputs disagree on it: a run might not see all the labels that exist."""
    readings = [[part for part in one.parts if "blank" in part.settings] for one in (found, unlabelled)]
    blank, other = (int(parts[0].settings["blank"]) if parts else None for parts in readings)
    if blank is not None and blank != other:
        made.decided(ReportCode.NEW_BLANK(blank=blank, named=other), f"blank = {blank}")


def _threshold(made: NewEvaluation, fit: FittingMetric, found: Guess) -> None:
    """Write the score threshold of a label, if the metric applies one to the output."""
    threshold = options_for(fit.metric, fit.output, found.parts).threshold
    if threshold is not None:
        said = ReportCode.NEW_THRESHOLD(output=fit.output, threshold=threshold)
        made.decided(said, f"# threshold = {threshold}")


def _task(made: NewEvaluation, found: Guess, seen: SeenModel) -> None:
    """Write the task and why; if the guess is unsure, the line is a comment and a run infers the task again."""
    named = f"task = {toml_string(found.task)}"
    why = found.finding()
    made.decided(why, f"# {plain(sentence(why))}", named if found.sure else f"# {named}")
    made.said += one_sided_among(found.parts, seen) + masked_positions(found.parts, seen)


def seen_model(inputs: Inputs) -> SeenModel | Finding | None:
    """The reference model with its outputs for the samples from which a run infers its task.

    A finding with the reason if it cannot be run; None without samples, and for images, whose scaling is left to the
    user.

    Args:
        inputs: the inputs of a recipe whose ``[evaluation]`` so far names only its samples.
    """
    recipe = inputs.job.recipe
    if _of_images(recipe):
        return None
    try:
        found = first_seen(inputs)
    except EndlessLoopError:
        raise
    except ModelError as error:
        return ReportCode.NEW_NOT_RUN(why=error.what)
    return found.model if found is not None else None


def _of_images(recipe: Recipe) -> bool:
    """Whether samples are images: outputs are meaningful only after the user has set how to scale them."""
    sources = [recipe.resolve(data) for data in (recipe.calibration.data, recipe.evaluation.data) if data is not None]
    return any(map(holds_images, sources))


def _all_labelled(model: Model, source: Path) -> bool:
    return isinstance(_labelled(model, source), CalibrationData)


def _labelled(model: Model, source: Path) -> CalibrationData | Finding | None:
    """The samples with their labels; None if none have labels, a finding if only some have."""
    if holds_images(source):
        return None
    found = CalibrationData.open(str(source.resolve()), model, labels=True)
    if (some := found.labels_of_some()) is not None:
        return some
    try:
        next(iter(found.samples()), None)
    except DataError:
        # any other fault of the samples is raised without labels too
        next(iter(CalibrationData.open(str(source.resolve()), model).samples()), None)
        return None
    return found


def _limit(made: NewEvaluation, name: str, measured: FloatValue | None, held: int) -> None:
    """Write the limit of a metric's drop, with the measurement that it is based on.

    Args:
        made: receives the lines.
        name: the metric.
        measured: the float model's value.
        held: how many samples a run will measure on.
    """
    info, rough = METRICS[name], 1.0
    if measured is None or measured.value is None:
        _usual_limit(made, name)
        return
    if info.relative or (is_rate_of_errors(name) and measured.suspicion is None):
        # in the metric's unit, however small it is; 1e-12 if all labels are equal and the model meets them exactly
        known: LabelFigures = {"samples": measured.samples, "answers": measured.answers, "spread": measured.spread}
        limit = usual_drop(name, measured.value, **known, judged=held) or 1e-12
        usual = usual_drop_by(name, measured.value, **known)
        rough = usual.largest / (usual.limit or limit)
    elif is_share(name) and measured.suspicion is None:
        # with a limit below one sample, no error at all would be allowed
        limit = max(info.drop * measured.value, 1 / max(held, 1) if info.counted else 0.0, 1e-12)
    else:
        limit = info.drop
    left = rough > 1 and variance_bound(measured.samples) > _ROUGH
    own = ReportCode.NEW_FLOAT_VALUE(metric=name, value=measured.value, samples=measured.samples)
    if measured.suspicion is None:
        made.said.append(own)
    else:
        made.warnings.append(measured.suspicion)
    if measured.says_little is not None:
        made.warnings.append(measured.says_little)
    reasons = [measured.suspicion or own]
    if info.relative and measured.spread and not has_error(name, measured.value, measured.spread):
        made.said.append(ReportCode.NEW_NO_ERROR(metric=name, spread=measured.spread, written=not left))
        reasons.append(made.said[-1])
    if left:
        factor = rough if math.isfinite(rough) else None
        made.said.append(ReportCode.NEW_LIMIT_ROUGH(metric=name, samples=measured.samples, factor=factor))
        made.lines += [f"# {plain(sentence(one))}" for one in (*reasons, made.said[-1])]
        return
    comments = [f"# {plain(sentence(reason))}" for reason in reasons]
    made.decided(ReportCode.NEW_LIMIT(limit="max_drop", value=_rounded(limit)), *comments, _drop(limit))


def _usual_limit(made: NewEvaluation, metric: str) -> None:
    """Write the default limit of a metric; for a user-defined metric, a share."""
    ((name, value),) = (usual_limits(metric) or {"max_drop": _SHARE}).items()
    made.decided(ReportCode.NEW_LIMIT(limit=name, value=value), f"budget = {{ {name} = {value} }}")


def _rounded(limit: float) -> float:
    """Round up to one significant digit, which shows how rough the limit is."""
    power = math.floor(math.log10(limit))
    digit = math.ceil(limit / 10.0**power - 1e-6)
    return float(f"{digit}e{power}")


def _drop(limit: float) -> str:
    return f"budget = {{ max_drop = {_rounded(limit)} }}"


def _by_task(made: NewEvaluation, model: Model, seen: SeenModel | None) -> None:
    """Write the task and its limit, so that the user can change it; no task if the answers cannot be determined."""
    if seen is None:
        name, value = ("min_agreement", 0.95) if _has_classes(model) else ("min_sqnr_db", 20.0)
    else:
        found = guess(seen)
        _task(made, found, seen)
        made.said += bins_among(found.parts, seen)
        limits = {part.task: reader(part).least for part in found.parts}
        if len(set(limits.values())) > 1:
            listed = ", ".join(f"{least:g} of {task}" for task, least in limits.items())
            made.lines.append(f"# Each task has its own limit, unless one is set for all: min_unchanged = {listed}.")
            return
        name, value = "min_unchanged", min(limits.values(), default=0.99)
    made.decided(ReportCode.NEW_LIMIT(limit=name, value=value), f"budget = {{ {name} = {value} }}")


def _has_classes(model: Model) -> bool:
    """Whether agreement can be judged: an output has class scores, or all outputs are integers."""
    left = not_run(model)
    outputs = [tensor for tensor in model.graph.outputs if tensor.name not in left.tensors]
    # tensors compared in place of outputs that cannot be computed have no classes
    return any(class_like(t.shape) for t in outputs) or (not left and len(discrete_outputs(model)) == len(outputs))
