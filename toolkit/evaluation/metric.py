"""What metrics have in common: their form, their options, and labels that are checked against outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from toolkit.base.code import failure_of
from toolkit.base.errors import FAILURES, DataError, QtoolError, RecipeError, did_you_mean
from toolkit.base.given import shown
from toolkit.base.types import Array

UNLABELLED = -100
"""Stands at positions without a label, as in torch's losses (``ignore_index``) and Hugging Face's collators."""
UNLABELLED_PIXEL = 255
"""Stands for no class in masks, as in PASCAL VOC and Cityscapes."""
_NEARLY_ONE = 1e-3


class Metric(Protocol):
    """A score over all batches. A metric of your own is a class with these three members and no arguments."""

    higher_is_better: bool

    def update(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Take in one batch."""

    def value(self) -> float:
        """The score of everything taken in."""


@dataclass(frozen=True)
class MetricOptions:
    """What single metrics must know besides the output.

    Attributes:
        output: the output that the metric looks at; the first where None.
        blank: CTC's blank class.
        space: the class that parts words; None where every class is a word.
        layout: how a detector's outputs are read, as ``Part.to_json`` writes its part; None where that is not known.
        batch_axis: where samples lie in the output; None where there is no such axis.
        axis: where its classes, features or channels lie in a sample, counted from the end; None where that is not
            known: then the last, for pictures the first.
        threshold: the score above which a label holds, or a place is in the mask; None where that is not known.
        lengths: the output that says how many positions of each sample a reading has; all where None.
    """

    output: str | None = None
    blank: int = 0
    space: int | None = None
    layout: str | None = None
    batch_axis: int | None = 0
    axis: int | None = None
    threshold: float | None = None
    lengths: str | None = None


def answers_of(metric: Metric) -> int:
    """How many answers a metric's value is a share of; 0 where it is no share, or its class does not tell."""
    return int(getattr(metric, "answers", 0))


@contextmanager
def metric_code(metric: str | None, doing: str) -> Iterator[None]:
    """The block runs the code of a metric: what fails in it is reported as the metric's fault.

    Raises:
        DataError: something failed.
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
    """A metric's value; it may be no finite number.

    Raises:
        DataError: it failed, or returned something other than a number.
    """
    with metric_code(name, "in value"):
        value: Any = metric.value()
        if isinstance(value, str) or np.size(value) != 1:
            raise TypeError(f"it returns {value!r}, which is not a number")
        return float(np.reshape(value, ())[()])


def pick(outputs: Mapping[str, Array], options: MetricOptions, labels: Mapping[str, Array]) -> tuple[Array, Array]:
    """The output that a metric looks at, with its samples along the first axis, and the label.

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
    value, axis = outputs[name], options.batch_axis
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
    """``pick`` with the classes or features along the last axis; integers, which are the choice already, as is.

    Axes of length 1 beside the classes are dropped where samples have one label each, in both.
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
    """As ``pick_scores``, with two classes in place of one score a sample where the threshold is known.

    One-hot labels, and a teacher's probabilities, become the numbers of their classes.
    """
    return classes_from(*pick_scores(outputs, options, labels), options.threshold)


def classes_from(scores: Array, label: Array, threshold: float | None) -> tuple[Array, Array]:
    """What ``pick_classes`` makes of the scores and labels that ``pick_scores`` gives."""
    if label.shape == scores.shape and (one_hot(label) or are_shares(label)):
        return scores, label.argmax(axis=-1)
    if threshold is None or not of_one_score(scores, label):
        return scores, label
    return two_classes(scores, threshold), label.reshape(-1)


def one_hot(label: Array) -> bool:
    """Whether labels are 1 for one class of two or more and 0 for the others, along the last axis, throughout."""
    if label.dtype.kind not in "biuf" or label.ndim < 2 or label.shape[-1] < 2:
        return False
    ones = label == 1
    return bool((ones | (label == 0)).all() and (ones.sum(axis=-1) == 1).all())


def are_shares(label: Array) -> bool:
    """Whether labels are probabilities of two classes or more that add up to 1, along the last axis, throughout."""
    if label.dtype.kind != "f" or label.ndim < 2 or label.shape[-1] < 2:
        return False
    return bool((label >= 0).all() and np.allclose(label.sum(axis=-1, dtype=np.float64), 1.0, atol=_NEARLY_ONE))


def of_one_score(scores: Array, label: Array) -> bool:
    """Whether there is one score per sample, that of class 1 of two, and one label; axes of length 1 do not matter."""
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
    """The score above which a label holds: that of ``options``, else 0.5 for probabilities, 0 for others (logits)."""
    if options.threshold is not None:
        return options.threshold
    known = scores[np.isfinite(scores)]
    return 0.5 if known.size and known.min() >= 0 and known.max() <= 1 else 0.0


def never_right(scores: Array, wanted: Array) -> Array:
    """Scores in which NaN says the opposite of the label: -inf where it holds, inf where it does not.

    numpy's argmax, sorting and ranks take NaN for the largest value: an engine that returns NaN for the samples that
    have the label would seem perfect.

    Args:
        scores: float, of any shape.
        wanted: whether the label holds, bool of the same shape.
    """
    unknown = np.isnan(scores)
    return np.where(unknown, np.where(wanted, -np.inf, np.inf), scores) if unknown.any() else scores


def label_of(labels: Mapping[str, Array]) -> Array:
    """The label among what the data calls labels."""
    return labels.get("label", labels.get("labels", next(iter(labels.values()))))


def by_sample(label: Array, batch_axis: int | None) -> Array:
    """A batch's label with its samples along the first axis, [batch, ...].

    Where the output has no axis of samples, a batch is one sample, whose label may be stored by itself: as many classes
    as a graph has nodes.

    Args:
        label: as the data has it.
        batch_axis: where samples lie in the output; None where there is no such axis.
    """
    return label[None] if batch_axis is None and label.ndim and len(label) != 1 else label


def labelled(label: Array) -> Array:
    """Where positions have a label, bool of the label's shape; a sample's only label is never left out.

    Args:
        label: [batch, ...]; ``UNLABELLED`` stands where a position has none.
    """
    return np.asarray(label != UNLABELLED) if label.ndim > 1 else np.ones(label.shape, bool)


def check_labels(label: Array, classes: int) -> None:
    """Check that labels are numbers of classes, or ``UNLABELLED`` where a sample has one a position.

    Raises:
        DataError: they are no whole numbers, or outside 0 to ``classes`` - 1.
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
    """The extents of a shape other than 1."""
    return tuple(extent for extent in shape if extent != 1)


def check_finite(label: Array) -> None:
    """Check that labels are numbers throughout.

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
    """How many classes an output has; checks the labels against it.

    Raises:
        DataError: the labels' shape is not that of its positions, or they are no numbers of its classes.
    """
    if label.shape != scores.shape[:-1]:
        wanted = f"give one label for each position of the output, {list(scores.shape[:-1])}"
        if label.shape == scores.shape:
            wanted = "give the numbers of the classes, or one-hot labels, or probabilities that add up to 1"
        raise unlike_shapes(scores, label, f"{wanted}, or choose the output by [evaluation] output")
    check_labels(label, scores.shape[-1])
    return int(scores.shape[-1])


def unlike_shapes(values: Array, label: Array, remedy: str) -> DataError:
    """The fault of labels whose shape does not fit the output's."""
    return DataError(f"labels have shape {list(label.shape)}, the output {list(values.shape)}", remedy=remedy)
