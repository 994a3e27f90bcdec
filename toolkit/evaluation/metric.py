"""The base of all metrics: their interface, their options, and checks of labels against outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from toolkit.base.code import failure_of
from toolkit.base.errors import FAILURES, DataError, QtoolError, RecipeError, did_you_mean
from toolkit.base.given import shown
from toolkit.base.types import Array
from toolkit.evaluation.quantized_values import dequantized

UNLABELLED = -100
"""Marks positions without a label, as in torch's losses (``ignore_index``) and Hugging Face's collators."""
UNLABELLED_PIXEL = 255
"""Marks pixels without a class in masks, as in PASCAL VOC and Cityscapes."""
_NEARLY_ONE = 1e-3
"""Tolerance for the sum of labels that are probabilities."""


class Metric(Protocol):
    """A score over all batches; a user's metric is a class with these three members and no constructor arguments."""

    higher_is_better: bool

    def update(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Add the outputs and labels of one batch."""

    def value(self) -> float:
        """The score over all batches added."""


@dataclass(frozen=True)
class MetricOptions:
    """Settings of metrics; each metric reads some of them.

    Attributes:
        output: the output that the metric reads; None for the first.
        blank: CTC's blank class.
        space: the class that separates words; None if every class is a word.
        layout: how a detector's outputs are read, as written by ``OutputPart.to_json``; None if not known.
        batch_axis: the output's axis of samples; None if there is none.
        axis: a sample's axis of classes, features or channels, counted from the end; None if not known: then the last
            is used, for pictures the first.
        threshold: the score above which a label applies, or a pixel is in the mask; None if not known.
        lengths: the output with each sample's number of valid positions for CTC; None if all positions are valid.
        among: the output with the vectors of the other tower, with which a sample's vector is compared; None for the
            other samples' vectors.
        quantized: by output whose integers are quantized values, their scale and zero point.
    """

    output: str | None = None
    blank: int = 0
    space: int | None = None
    layout: str | None = None
    batch_axis: int | None = 0
    axis: int | None = None
    threshold: float | None = None
    lengths: str | None = None
    among: str | None = None
    quantized: Mapping[str, Sequence[float]] = field(default_factory=dict)


def answers_of(metric: Metric) -> int:
    """How many answers a metric's value is a share of; 0 if it is not a share, or has no member ``answers``."""
    return int(getattr(metric, "answers", 0))


@contextmanager
def metric_code(metric: str | None, doing: str) -> Iterator[None]:
    """Context for running a metric's code, which reports exceptions as failures of the metric.

    Args:
        metric: the metric's name.
        doing: what is being run, for the message.

    Raises:
        DataError: the code raised an exception other than a ``QtoolError``.
    """
    try:
        yield
    except QtoolError:
        raise
    except FAILURES as error:
        raise DataError(
            f"the metric '{shown(str(metric))}' failed {doing}: {failure_of(error)}",
            remedy="fix the metric, or the labels that it reads; --debug shows the traceback",
        ) from error


def value_of(metric: Metric, name: str | None) -> float:
    """A metric's value, which may be NaN or infinite.

    Raises:
        DataError: the metric failed, or returned something other than a number.
    """
    with metric_code(name, "in value"):
        value: Any = metric.value()
        if isinstance(value, str) or np.size(value) != 1:
            raise TypeError(f"it returns {value!r}, which is not a number")
        return float(np.reshape(value, ())[()])


def pick(outputs: Mapping[str, Array], options: MetricOptions, labels: Mapping[str, Array]) -> tuple[Array, Array]:
    """The output that a metric reads, with its samples along the first axis, and the label.

    Quantized values are replaced by the floats that they stand for.

    Raises:
        RecipeError: there is no such output.
        DataError: there are no labels, or the output is a single number for all samples of a batch.
    """
    output = options.output
    if output is not None and output not in outputs:
        raise RecipeError(f"the model has no output '{output}'", remedy=did_you_mean(output, outputs))
    name = output if output is not None else next(iter(outputs))
    if not labels:
        raise DataError("the metric needs labels, but the data has none", remedy="store them under the key 'label'")
    value, axis = dequantized(outputs[name], options.quantized.get(name)), options.batch_axis
    if axis is None:
        value = value[None]
    elif value.ndim > axis:
        value = np.moveaxis(value, axis, 0)
    label = by_sample(label_of(labels), axis)
    if not value.ndim:
        raise unlike_shapes(value, label, "name an output that has a value for every sample")
    return value, label


def pick_scores(
    outputs: Mapping[str, Array], options: MetricOptions, labels: Mapping[str, Array]
) -> tuple[Array, Array]:
    """``pick`` with the classes or features along the last axis; integers, which are choices already, as they are.

    If samples have one label each, axes of length 1 next to the classes are dropped in both arrays.
    """
    value, label = pick(outputs, options, labels)
    if value.dtype.kind in "iub" or options.axis is None or value.ndim <= -options.axis:
        return value, label
    value = np.moveaxis(value, options.axis, -1)
    alone = label.ndim > 1 and label.size == len(label) and value.size == len(value) * value.shape[-1]
    if alone and value.shape[-1] > 1 and label.shape != value.shape[:-1]:
        label = label.reshape(-1)
    if label.ndim == 1 and value.ndim > 2 and value.size == len(value) * value.shape[-1]:
        value = value.reshape(len(value), -1)
    return value, label


def pick_classes(
    outputs: Mapping[str, Array], options: MetricOptions, labels: Mapping[str, Array]
) -> tuple[Array, Array]:
    """As ``pick_scores``, with scores of two classes instead of one score per sample if the threshold is known.

    One-hot labels and a teacher's probabilities are replaced by class numbers.
    """
    return classes_from(*pick_scores(outputs, options, labels), options.threshold)


def classes_from(scores: Array, label: Array, threshold: float | None) -> tuple[Array, Array]:
    """Convert the result of ``pick_scores`` into that of ``pick_classes``."""
    if label.shape == scores.shape and (one_hot(label) or are_shares(label)):
        return scores, label.argmax(axis=-1)
    if threshold is None or not of_one_score(scores, label):
        return scores, label
    return two_classes(scores, threshold), label.reshape(-1)


def one_hot(label: Array) -> bool:
    """Whether all labels are one-hot along the last axis, over two or more classes."""
    if label.dtype.kind not in "biuf" or label.ndim < 2 or label.shape[-1] < 2:
        return False
    ones = label == 1
    return bool((ones | (label == 0)).all() and (ones.sum(axis=-1) == 1).all())


def are_shares(label: Array) -> bool:
    """Whether all labels are probabilities that sum to 1 along the last axis, over two or more classes."""
    if label.dtype.kind != "f" or label.ndim < 2 or label.shape[-1] < 2:
        return False
    return bool((label >= 0).all() and np.allclose(label.sum(axis=-1, dtype=np.float64), 1.0, atol=_NEARLY_ONE))


def of_one_score(scores: Array, label: Array) -> bool:
    """Whether there is one score per sample, that of class 1 of two, and one label, apart from axes of length 1."""
    each = len(scores) if scores.ndim else 0
    return scores.dtype.kind not in "iub" and each > 0 and scores.size == each == label.size


def two_classes(scores: Array, threshold: float) -> Array:
    """One score per sample as scores of two classes, [samples, 2]: class 1 wins above the threshold.

    Args:
        scores: float [samples, ...], one per sample.
        threshold: see ``MetricOptions``.
    """
    flat = np.asarray(scores).reshape(len(scores))
    return np.stack([np.full_like(flat, threshold), flat], axis=1)


def threshold_of(scores: Array, options: MetricOptions) -> float:
    """The score above which a label applies: that of ``options``, else 0.5 for probabilities and 0 for logits."""
    if options.threshold is not None:
        return options.threshold
    known = scores[np.isfinite(scores)]
    return 0.5 if known.size and known.min() >= 0 and known.max() <= 1 else 0.0


def never_right(scores: Array, wanted: Array) -> Array:
    """Scores in which NaN is replaced by the wrong answer: -inf where the label applies, else inf.

    numpy's argmax, sorting and ranks take NaN for the largest value, so an engine that returns NaN for the samples with
    the label would seem perfect.

    Args:
        scores: float, of any shape.
        wanted: whether the label applies, bool of the same shape.
    """
    unknown = np.isnan(scores)
    return np.where(unknown, np.where(wanted, -np.inf, np.inf), scores) if unknown.any() else scores


def label_of(labels: Mapping[str, Array]) -> Array:
    """The array to use as the label: the entry ``label``, else ``labels``, else the first."""
    return labels.get("label", labels.get("labels", next(iter(labels.values()))))


def by_sample(label: Array, batch_axis: int | None) -> Array:
    """A batch's label with its samples along the first axis, [batch, ...].

    If the output has no batch axis, a batch is one sample, whose label may be stored without one either, for example
    one class for each node of a graph.

    Args:
        label: the label as stored in the data.
        batch_axis: the output's axis of samples; None if there is none.
    """
    return label[None] if batch_axis is None and label.ndim and len(label) != 1 else label


def labelled(label: Array) -> Array:
    """Whether each position has a label, bool of the label's shape; always True for one label per sample.

    Args:
        label: [batch, ...], ``UNLABELLED`` at positions without a label.
    """
    return np.asarray(label != UNLABELLED) if label.ndim > 1 else np.ones(label.shape, bool)


def check_labels(label: Array, classes: int) -> None:
    """Check that labels are class numbers, or ``UNLABELLED`` in labels per position.

    Raises:
        DataError: they are not integers, or outside 0 to ``classes`` - 1; the error's row is then the first sample.
    """
    if label.dtype.kind not in "biuf" or (
        label.dtype.kind == "f" and not (np.isfinite(label) & (label == np.rint(label))).all()
    ):
        kind = "text" if label.dtype.kind in "US" else label.dtype.name
        raise DataError(f"the labels are {kind}, not numbers of classes", remedy="number the classes from 0")
    given = label[labelled(label)]
    if given.size and (int(given.min()) < 0 or int(given.max()) >= classes):
        low, high = int(given.min()), int(given.max())
        reach = f"the labels reach from {low} to {high}" if low != high else f"the label is {low}"
        free = f"write {UNLABELLED} where a position has no label, " if label.ndim > 1 and low < 0 else ""
        error = DataError(
            f"{reach}, and the output has {classes} classes",
            remedy=f"{free}number the classes from 0, or choose the output by [evaluation] output",
        )
        wrong = labelled(label) & ((label < 0) | (label >= classes))
        error.row = int(np.argwhere(wrong)[0][0]) if label.ndim else 0
        raise error


def non_unit_dims(shape: Sequence[int]) -> tuple[int, ...]:
    """The extents of a shape that are not 1."""
    return tuple(extent for extent in shape if extent != 1)


def check_finite(label: Array) -> None:
    """Check that all labels are finite.

    Args:
        label: float64 [batch, ...].

    Raises:
        DataError: a label is NaN or infinite; the error's row is its sample.
    """
    rows = np.flatnonzero(~np.isfinite(label).reshape(len(label), -1).all(axis=1))
    if len(rows):
        error = DataError("the label is NaN or infinite", remedy="repair the labels, or remove the sample")
        error.row = int(rows[0])
        raise error


def classes_of(scores: Array, label: Array) -> int:
    """The number of an output's classes, after checking the labels against it.

    Raises:
        DataError: the labels do not have one entry per position, or are not class numbers of the output.
    """
    if label.shape != scores.shape[:-1]:
        wanted = f"give one label for each position of the output, {list(scores.shape[:-1])}"
        if label.shape == scores.shape:
            wanted = "give the numbers of the classes, or one-hot labels, or probabilities that add up to 1"
        raise unlike_shapes(scores, label, f"{wanted}, or choose the output by [evaluation] output")
    check_labels(label, scores.shape[-1])
    return int(scores.shape[-1])


def unlike_shapes(values: Array, label: Array, remedy: str) -> DataError:
    """The error for labels whose shape does not fit the output's."""
    return DataError(f"labels have shape {list(label.shape)}, the output {list(values.shape)}", remedy=remedy)
