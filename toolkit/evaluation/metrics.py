"""Accuracy metrics: what the recipe's ``metric`` names, fed batch by batch."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from toolkit.base.errors import RecipeError, did_you_mean, shortened
from toolkit.base.types import Array
from toolkit.evaluation.metric_base import Metric as Metric
from toolkit.evaluation.metric_base import MetricOptions as MetricOptions
from toolkit.evaluation.metric_base import answers_of as answers_of
from toolkit.evaluation.metric_base import check_labels as check_labels
from toolkit.evaluation.metric_base import classes_of, pick
from toolkit.evaluation.metric_base import label_of as label_of
from toolkit.evaluation.metric_table import METRICS


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
        scores, label = pick(outputs, self.output, labels)
        self.classes = classes_of(scores, label)
        if self.k == 1:
            self.right += int((scores.argmax(axis=-1) == label).sum())
        else:
            k = min(self.k, scores.shape[-1])
            best = np.argpartition(scores, -k, axis=-1)[..., -k:]
            self.right += int((best == label[..., None]).any(axis=-1).sum())
        self.count += label.size

    @property
    def answers(self) -> int:
        """How many positions were looked at."""
        return self.count

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
        scores, label = pick(outputs, self.output, labels)
        self.classes = classes_of(scores, label)
        same = scores.argmax(axis=-1) == label
        self.right += int(same.reshape(len(same), -1).all(axis=1).sum())
        self.count += len(same)

    @property
    def answers(self) -> int:
        """How many samples were looked at."""
        return self.count

    def value(self) -> float:
        """Share of samples, 0 to 1."""
        return self.right / max(self.count, 1)


_HOMES = {
    "metrics_classes": "balanced_accuracy f1 average_precision",
    "metrics_text": "ctc_exact cer wer perplexity",
    "metrics_dense": "mse mae miou psnr ssim",
    "metrics_rank": "recall_at_1 recall_at_5 spearman",
    "metrics_boxes": "map map50",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


def make_metric(
    name: str, output: str | None = None, allow_code: bool = False, options: MetricOptions | None = None
) -> Metric:
    """A fresh metric by name: one that ``METRICS`` lists, or ``module:Name`` where code is allowed.

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
    if name not in METRICS:
        raise RecipeError(
            f"no metric is called '{shortened(name)}'", remedy=did_you_mean(name, [*METRICS, "module:Name"])
        )
    options = options or MetricOptions()
    if name in _HOME:
        made_by: dict[str, Callable[[str | None, MetricOptions], Metric]]
        made_by = importlib.import_module(f"toolkit.evaluation.{_HOME[name]}").BUILT_IN
        return made_by[name](output, options)
    own: dict[str, Callable[[], Metric]] = {
        "top1": lambda: TopK(1, output),
        "top5": lambda: TopK(5, output),
        "exact": lambda: Exact(output),
    }
    return own[name]()
