"""Accuracy metrics by the name in the recipe's ``metric``, updated batch by batch."""

from __future__ import annotations

import copy
import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from toolkit.base.errors import RecipeError, did_you_mean, shortened
from toolkit.base.given import shown
from toolkit.base.schema import value_words
from toolkit.base.types import Array
from toolkit.evaluation.metric import Metric as Metric
from toolkit.evaluation.metric import MetricOptions as MetricOptions
from toolkit.evaluation.metric import answers_of as answers_of
from toolkit.evaluation.metric import check_labels as check_labels
from toolkit.evaluation.metric import classes_of, labelled, pick_classes, unlike_shapes
from toolkit.evaluation.metric import label_of as label_of
from toolkit.evaluation.metrics.table import METRICS


class TopK:
    """Share of positions whose label is among the k largest values of the last axis.

    The output is float of shape [batch, ..., classes], the label an integer array of shape [batch, ...]. An integer
    output of the label's shape holds the chosen classes themselves; a single score per sample is that of class 1 of
    two, chosen if above the threshold. A position with a NaN score is never right; one whose label is -100 is left out.

    Attributes:
        classes: number of classes of the output; 0 before the first batch.
    """

    higher_is_better = True

    def __init__(self, k: int, options: MetricOptions) -> None:
        self.k, self.options = k, options
        self.right = self.count = self.classes = 0

    def update(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Add one batch.

        Raises:
            DataError: the label's shape does not match the output's.
        """
        scores, label = pick_classes(outputs, self.options, labels)
        if self.k == 1 or scores.dtype.kind in "iub":
            self.classes, same = same_as_label(scores, label)
        else:
            self.classes = classes_of(scores, label)
            k = min(self.k, scores.shape[-1])
            best = np.argpartition(scores, -k, axis=-1)[..., -k:]
            same = (best == label[..., None]).any(axis=-1) & ~np.isnan(scores).any(axis=-1)
        given = labelled(label)
        self.right += int(same[given.reshape(same.shape)].sum())
        self.count += int(given.sum())

    @property
    def answers(self) -> int:
        """Number of positions with a label."""
        return self.count

    def value(self) -> float:
        """Share of right positions, 0 to 1; NaN if none has a label."""
        return self.right / self.count if self.count else math.nan


def same_as_label(scores: Array, label: Array) -> tuple[int, Array]:
    """The number of classes, 0 if the output holds chosen classes, and whether each choice is the label, bool.

    Raises:
        DataError: the labels do not fit the output.
    """
    if scores.dtype.kind not in "iub":
        classes = classes_of(scores, label)
        # argmax treats NaN as the largest score
        same = (scores.argmax(axis=-1) == label) & ~np.isnan(scores).any(axis=-1)
        return classes, np.asarray(same)
    if scores.shape != label.shape and len(scores) == scores.size == label.size:
        scores, label = scores.reshape(-1), label.reshape(-1)
    if scores.shape != label.shape:
        raise unlike_shapes(scores, label, "give one label for each position of the output")
    return 0, np.asarray(scores == label)


class Exact:
    """Share of samples with all positions right; output, label and ``classes`` as for ``TopK``.

    A sample without any label is left out.
    """

    higher_is_better = True

    def __init__(self, options: MetricOptions) -> None:
        self.options = options
        self.right = self.count = self.classes = 0

    def update(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Add one batch.

        Raises:
            DataError: the labels do not fit the output.
        """
        scores, label = pick_classes(outputs, self.options, labels)
        self.classes, same = same_as_label(scores, label)
        given = labelled(label).reshape(len(label), -1)
        told = given.any(axis=1)
        self.right += int((same.reshape(given.shape) | ~given)[told].all(axis=1).sum())
        self.count += int(told.sum())

    @property
    def answers(self) -> int:
        """Number of samples with a label."""
        return self.count

    def value(self) -> float:
        """Share of right samples, 0 to 1; NaN if none has a label."""
        return self.right / self.count if self.count else math.nan


_HOMES = {
    "classes": "balanced_accuracy f1 average_precision auc",
    "text": "ctc_exact cer wer perplexity",
    "dense": "mse mae miou psnr ssim",
    "rank": "recall_at_1 recall_at_5 spearman",
    "boxes": "map map50",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


def make_metric(
    name: str, output: str | None = None, allow_code: bool = False, options: MetricOptions | None = None
) -> Metric:
    """A new metric by name: one that ``METRICS`` lists, or ``module:Name`` if code is allowed.

    Raises:
        RecipeError: there is no such metric, or it is code that lacks a part of ``Metric`` or says wrongly which values
            are better.
        NotAllowedError: it is code and code is not allowed.
    """
    if ":" in name:
        from toolkit.base.code import load_object

        found: Any = load_object(name, allow_code, "metric")
        made = inspect.isclass(found) or inspect.isroutine(found)
        # an instance serves as template for new ones
        metric: Metric = found() if made else copy.deepcopy(found)
        lacking = [part for part in ("higher_is_better", "update", "value") if not hasattr(metric, part)]
        if lacking:
            raise RecipeError(
                f"the metric '{shown(name)}' has no {lacking[0]}",
                remedy="a metric has higher_is_better, update(outputs, labels) and value(), which gives a number",
            )
        rising = metric.higher_is_better
        if not isinstance(rising, (bool, np.bool_)):
            raise RecipeError(
                f"higher_is_better of the metric '{shown(name)}' is {value_words(rising)}",
                remedy="set it to True or False",
            )
        return metric
    if name not in METRICS:
        raise RecipeError(
            f"no metric is called '{shortened(name)}'", remedy=did_you_mean(name, [*METRICS, "module:Name"])
        )
    options = options or MetricOptions()
    if output is not None:
        options = replace(options, output=output)
    if name in _HOME:
        made_by: dict[str, Callable[[MetricOptions], Metric]]
        made_by = importlib.import_module(f"toolkit.evaluation.metrics.{_HOME[name]}").BUILT_IN
        return made_by[name](options)
    own: dict[str, Callable[[], Metric]] = {
        "top1": lambda: TopK(1, options),
        "top5": lambda: TopK(5, options),
        "exact": lambda: Exact(options),
    }
    return own[name]()
