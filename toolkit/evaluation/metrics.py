"""Accuracy metrics: what the recipe's ``metric`` names, fed batch by batch."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from toolkit.base.errors import DataError, RecipeError, did_you_mean, shortened
from toolkit.base.types import Array


class Metric(Protocol):
    """A score over all batches. A metric of your own is a class with these three members and no arguments."""

    higher_is_better: bool

    def update(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Take in one batch."""

    def value(self) -> float:
        """The score of everything taken in."""


class TopK:
    """Share of positions whose label is among the k largest values of the last axis.

    ``output`` is float of shape [batch, ..., classes], the label an integer array of shape [batch, ...].

    Attributes:
        classes: how many classes the output has; 0 before the first batch.
    """

    higher_is_better = True

    def __init__(self, k: int = 1, output: str | None = None) -> None:
        self.k, self.output = k, output
        self.right = self.count = self.classes = 0

    def update(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Take in one batch.

        Raises:
            DataError: the label's shape does not match the output's.
        """
        scores, label = _pick(outputs, self.output, labels)
        self.classes = _classes(scores, label)
        if self.k == 1:
            self.right += int((scores.argmax(axis=-1) == label).sum())
        else:
            k = min(self.k, scores.shape[-1])
            best = np.argpartition(scores, -k, axis=-1)[..., -k:]
            self.right += int((best == label[..., None]).any(axis=-1).sum())
        self.count += label.size

    def value(self) -> float:
        """Share of right positions, 0 to 1."""
        return self.right / max(self.count, 1)


class Exact:
    """Share of samples all of whose positions are right; output, label and ``classes`` as for ``TopK``."""

    higher_is_better = True

    def __init__(self, output: str | None = None) -> None:
        self.output = output
        self.right = self.count = self.classes = 0

    def update(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Take in one batch.

        Raises:
            DataError: the labels do not fit the output.
        """
        scores, label = _pick(outputs, self.output, labels)
        self.classes = _classes(scores, label)
        same = scores.argmax(axis=-1) == label
        self.right += int(same.reshape(len(same), -1).all(axis=1).sum())
        self.count += len(same)

    def value(self) -> float:
        """Share of samples, 0 to 1."""
        return self.right / max(self.count, 1)


class MeanSquaredError:
    """Mean squared difference between the output and the label, which have the same shape."""

    higher_is_better = False

    def __init__(self, output: str | None = None) -> None:
        self.output = output
        self.total, self.count = 0.0, 0

    def update(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Take in one batch.

        Raises:
            DataError: the label's shape is not the output's.
        """
        values, label = _pick(outputs, self.output, labels)
        if label.shape != values.shape:
            raise _unlike_shapes(values, label, "give a label of the output's shape")
        difference = values.astype(np.float64) - label
        self.total += float(np.vdot(difference, difference))
        self.count += difference.size

    def value(self) -> float:
        """Mean over all elements, in squared units of the output."""
        return self.total / max(self.count, 1)


_BUILT_IN: dict[str, Callable[[str | None], Metric]] = {
    "top1": lambda output: TopK(1, output),
    "top5": lambda output: TopK(5, output),
    "exact": Exact,
    "mse": MeanSquaredError,
}


def make_metric(name: str, output: str | None = None, allow_code: bool = False) -> Metric:
    """A fresh metric by name: top1, top5, exact, mse, or ``module:Name`` where code is allowed.

    Raises:
        RecipeError: there is no such metric.
        NotAllowedError: it is code and code is not allowed.
    """
    if ":" in name:
        from toolkit.base.code import load_object

        found: Any = load_object(name, allow_code, "metric")
        made = inspect.isclass(found) or inspect.isroutine(found)
        # a metric that the caller made is a model for fresh ones
        metric: Metric = found() if made else copy.deepcopy(found)
        return metric
    if name not in _BUILT_IN:
        raise RecipeError(
            f"no metric is called '{shortened(name)}'", remedy=did_you_mean(name, [*_BUILT_IN, "module:Name"])
        )
    return _BUILT_IN[name](output)


def _pick(outputs: Mapping[str, Array], output: str | None, labels: Mapping[str, Array]) -> tuple[Array, Array]:
    if output is not None and output not in outputs:
        raise RecipeError(f"the model has no output '{output}'", remedy=did_you_mean(output, outputs))
    name = output if output is not None else next(iter(outputs))
    if not labels:
        raise DataError("the metric needs labels and the data has none", remedy="store them under the key 'label'")
    return outputs[name], label_of(labels)


def label_of(labels: Mapping[str, Array]) -> Array:
    """The label among what the data calls labels."""
    return labels.get("label", labels.get("labels", next(iter(labels.values()))))


def check_labels(label: Array, classes: int) -> None:
    """Check that labels are numbers of classes.

    Raises:
        DataError: they are no whole numbers, or outside 0 to ``classes`` - 1.
    """
    if label.dtype.kind not in "biuf" or (
        label.dtype.kind == "f" and not (np.isfinite(label) & (label == np.rint(label))).all()
    ):
        raise DataError(
            f"the labels are {label.dtype.name}, not numbers of classes", remedy="number the classes from 0"
        )
    if label.size and (int(label.min()) < 0 or int(label.max()) >= classes):
        low, high = int(label.min()), int(label.max())
        reach = f"the labels reach from {low} to {high}" if low != high else f"the label is {low}"
        raise DataError(
            f"{reach}, and the output has {classes} classes",
            remedy="number the classes from 0, or choose the output by [evaluation] output",
        )


def _classes(scores: Array, label: Array) -> int:
    """How many classes an output has, whose labels are checked against it."""
    if label.shape != scores.shape[:-1]:
        remedy = "give one label for each position of the output, or choose the output by [evaluation] output"
        raise _unlike_shapes(scores, label, remedy)
    check_labels(label, scores.shape[-1])
    return int(scores.shape[-1])


def _unlike_shapes(values: Array, label: Array, remedy: str) -> DataError:
    return DataError(f"labels have shape {list(label.shape)}, the output {list(values.shape)}", remedy=remedy)
