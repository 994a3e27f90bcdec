"""The ``[evaluation]`` of a new recipe: the metric that the labels fit, and a limit in keeping with the float model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from toolkit.base.errors import DataError, ModelError
from toolkit.base.text import toml_string
from toolkit.base.types import Array
from toolkit.data.dataset import CalibrationData
from toolkit.data.images import holds_images
from toolkit.evaluation.metrics import Metric, check_labels, label_of, make_metric
from toolkit.evaluation.outputs import class_like, discrete_outputs, is_float, widened
from toolkit.graph.model import Model
from toolkit.graph.runnable import not_run
from toolkit.graph.sessions import session
from toolkit.run.new_task import guessed, task_budget, task_lines

_MEASURED = 64
"""Samples that the float model runs on, one by one: the limit is to be of the right size, no more."""
_SHARE, _ERROR, _SPREAD = 0.01, 0.05, 0.001
"""Of the float model's own value, what a share may drop and a squared error grow; and of the labels' variance."""


@dataclass(frozen=True)
class FittingMetric:
    """A built-in metric that labels and an output fit.

    Attributes:
        metric: its name.
        output: the output that it looks at.
    """

    metric: str
    output: str


@dataclass(frozen=True)
class FloatValue:
    """The float model's own value of a metric.

    Attributes:
        value: in the metric's units.
        samples: how many it is from.
        spread: variance of the labels over all their elements; 0 for labels that are classes.
        classes: how many classes the output has; 0 where the labels are none.
    """

    value: float
    samples: int
    spread: float
    classes: int


def fitting_metric(outputs: Mapping[str, Array], label: Array) -> FittingMetric | None:
    """The metric that one sample's label fits by type and shape, with the first output that it fits; None for none.

    Numbers of classes, one for each position of an output, are judged by ``top1``; labels of an output's own shape by
    ``mse``.

    Args:
        outputs: by name, of one sample, batch dimension included.
        label: of the sample.
    """
    for name, values in outputs.items():
        if not is_float(values.dtype):
            continue
        if label.shape == values.shape and label.dtype.kind in "biuf":
            return FittingMetric("mse", name)
        if label.shape == values.shape[:-1] and values.shape[-1] > 1:
            try:
                check_labels(label, values.shape[-1])
            except DataError:
                continue
            return FittingMetric("top1", name)
    return None


def evaluation_lines(model: Model, data: Path | None, test: Path | None, metric: str | None, named: str) -> list[str]:
    """The lines of ``[evaluation]``.

    Args:
        model: the float model.
        data: calibration data, whose held-back part is measured on where there is no test data.
        test: test data.
        metric: what the user asks for; None for the one that the labels fit.
        named: the test data as the recipe names it.

    Raises:
        DataError: the metric does not fit the labels, or there are none for it.
    """
    own = test if test is not None else data
    lines = [f"data = {named}"] if test is not None else []
    if test is None:
        lines.append("# Without test data the outputs are compared on samples held back from calibration.")
        lines.append("# data = \"test.npz\"                 # with labels under 'label'")
    if own is None:
        return [*lines, *([f"metric = {toml_string(metric)}", _drop(_SHARE)] if metric else [_budget(model)])]
    labelled = _labelled(model, own)
    if labelled is None:
        if metric is not None:
            raise DataError(
                f"--metric {metric} needs labels, and there are none",
                where=str(own),
                remedy="store them under the key 'label', or leave --metric out to compare with the float model",
            )
        lacking = "Images have no labels" if holds_images(own) else "There are no labels"
        lines.append(f"# {lacking}: the answers are compared with the float model's.")
        return [*lines, *_by_task(model, own)]
    if metric is not None and ":" in metric:
        return [*lines, f"metric = {toml_string(metric)}", _drop(_SHARE)]
    found = _measured(model, labelled, metric)
    if found is None:
        lines.append("# No built-in metric fits the labels: outputs are compared with the float model's.")
        return [*lines, *_by_task(model, own)]
    fit, value = found
    lines.append(f"metric = {toml_string(fit.metric)}")
    if fit.output != model.graph.outputs[0].name:
        lines.append(f"output = {toml_string(fit.output)}")
    held = len(labelled) if test is not None else max(1, len(labelled) // 5)
    told = task_lines(guessed(model, own, fit.metric, fit.output))
    return [*lines, *told, *_limit(fit.metric, value, held)]


def _labelled(model: Model, source: Path) -> CalibrationData | None:
    """The samples with their labels; None where they have none."""
    if holds_images(source):
        return None
    found = CalibrationData.open(str(source.resolve()), model, labels=True)
    try:
        next(iter(found.samples()), None)
    except DataError:
        # whatever else is wrong with the samples shows again without labels
        next(iter(CalibrationData.open(str(source.resolve()), model).samples()), None)
        return None
    return found


def _measured(model: Model, data: CalibrationData, asked: str | None) -> tuple[FittingMetric, FloatValue | None] | None:
    """The metric, and the float model's own value of it; None where no metric was asked for and none fits the labels.

    The value is None where onnxruntime cannot run the model.

    Raises:
        DataError: the labels do not fit the metric that was asked for.
    """
    first = model.graph.outputs[0].name
    fit = FittingMetric(asked, first) if asked is not None else None
    metric: Metric | None = None
    labels: list[Array] = []
    try:
        loaded = session(model)
        # what is compared in front of a plugin is no output, and no metric's business
        own = [t.name for t in model.graph.outputs if t.name in loaded.outputs]
        if not own:
            if asked is None:
                return None
            raise DataError(
                f"--metric {asked} cannot be measured: onnxruntime cannot run {', '.join(loaded.left.plugins)}",
                where=data.name,
                remedy="leave --metric out: what those nodes read is compared with the float model's",
            )
        for sample in islice(data.samples(), _MEASURED):
            outputs = {name: widened(value) for name, value in loaded.run(sample.inputs, own).items()}
            label = label_of(sample.labels)
            if metric is None:
                fits = fitting_metric(outputs, label)
                if fits is not None and (asked is None or _alike(asked, fits.metric)):
                    fit = FittingMetric(asked or fits.metric, fits.output)
                if fit is None:
                    return None
                metric = make_metric(fit.metric, fit.output)
            metric.update(outputs, sample.labels)
            labels.append(label.astype(np.float64).reshape(-1))
    except ModelError:
        return None if fit is None else (fit, None)
    except DataError as error:
        if asked is None:
            return None
        raise DataError(
            f"--metric {asked} does not fit the labels: {error.what}", where=data.name, remedy=error.remedy
        ) from error
    if metric is None or fit is None:
        return None
    classes = int(getattr(metric, "classes", 0))
    spread = 0.0 if classes else float(np.concatenate(labels).var())
    return fit, FloatValue(float(metric.value()), len(labels), spread, classes)


def _alike(asked: str, fitting: str) -> bool:
    """Whether a metric that was asked for reads labels as the fitting one does: classes, or values."""
    return (asked == "mse") == (fitting == "mse")


def _limit(name: str, measured: FloatValue | None, held: int) -> list[str]:
    """The limit of a metric's drop, with what it is made from.

    Args:
        name: the metric.
        measured: the float model's own value.
        held: how many samples a run will measure on.
    """
    if measured is None or not math.isfinite(measured.value):
        return [_drop(_SHARE)]
    said = f"# The float model's own {name} is {measured.value:.4g} on {measured.samples} samples"
    if measured.classes:
        poor = measured.value * measured.classes <= 1.5 and measured.samples >= 8
        # a limit that is finer than one sample could not be told from none
        one = 1 / max(held, 1)
        limit = max(_SHARE * measured.value, one) if not poor else _SHARE
    else:
        poor = measured.value > measured.spread > 0
        limit = max(_ERROR * measured.value, _SPREAD * measured.spread, 1e-12)
    if poor:
        return [f"{said}, no better than a guess: check the labels and the preprocessing.", _drop(limit)]
    return [f"{said}.", _drop(limit)]


def _drop(limit: float) -> str:
    """One digit, rounded up, says how rough it is."""
    power = math.floor(math.log10(limit))
    digit = math.ceil(limit / 10.0**power - 1e-6)
    return f"budget = {{ max_drop = {float(f'{digit}e{power}')} }}"


def _by_task(model: Model, source: Path) -> list[str]:
    """The task and its limit; without either where its answers cannot be told."""
    found = guessed(model, source)
    return [*task_lines(found), task_budget(found)] if found is not None else [_budget(model)]


def _budget(model: Model) -> str:
    """The limit without a metric and without samples to tell the task from."""
    return "budget = { min_agreement = 0.95 }" if _has_classes(model) else "budget = { min_sqnr_db = 20.0 }"


def _has_classes(model: Model) -> bool:
    """Whether agreement can be judged: an output has scores of classes, or all outputs are integers."""
    left = not_run(model)
    outputs = [tensor for tensor in model.graph.outputs if tensor.name not in left.tensors]
    # what is compared in place of the others has no classes
    return any(class_like(t.shape) for t in outputs) or (not left and len(discrete_outputs(model)) == len(outputs))
