"""Standard errors of metrics over samples, by the delete-a-group jackknife.

The metric is computed on all samples but those of one group, for each of G groups. The spread of these values shows how
the metric varies between sets of samples, also for metrics that are not shares of right answers, such as mean IoU, F1
and errors. J. W. Tukey, "Bias and confidence in not-quite large samples", Ann. Math. Stat. 29 (1958); for groups J.
Shao and D. Tu, The Jackknife and Bootstrap, Springer (1995), 2.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.metric import Metric, answers_of, metric_code, value_of

NO_UNIT = -1
"""The unit of a row without a label, which is in no group, since leaving it out changes nothing."""
_GROUPS = 16
"""With this number of groups a standard error is accurate to a fifth; more take time, since some metrics need a
second.
"""


@dataclass(frozen=True)
class MetricScore:
    """The value of a metric on samples, with figures of its variation.

    Attributes:
        value: the value in the metric's units; None without a metric.
        answers: number of answers that the value is a share of; 0 if it is not a share, or not known.
        left_out: values with one of several groups of samples left out each, see above; empty if the metric does not
            support it, NaN if the group left out has all labels.
        samples: number of samples with a label, for a metric that can be computed on some of the samples; both of a
            pair count.
        spread: for an error, its value for the best constant, by the labels; 0 if not known.
        untold: why the variation over samples is not known; None if it is, or if there are too few samples for it.
    """

    value: float | None = None
    answers: int = 0
    left_out: tuple[float, ...] = ()
    samples: int = 0
    spread: float = 0.0
    untold: Finding | None = None


@runtime_checkable
class Resampled(Protocol):
    """A metric that can be computed on some of its samples."""

    def units(self) -> Array:
        """The unit of each row, int [rows]; rows of a unit, such as a pair of samples, are never separated.

        ``NO_UNIT`` for a row without a label. Units depend only on labels, so that groups are equal for two models.
        """

    def value_among(self, kept: Array) -> float:
        """The value over the rows that are ``kept``, bool [rows]; NaN if these have no value."""


class Summed:
    """A metric that is a function of sums over its samples.

    Attributes:
        rows: by batch, the terms of each sample, float64 [batch, sums].
    """

    def __init__(self, sums: int) -> None:
        self.rows: list[Array] = [np.zeros((0, sums))]

    def take(self, *columns: Array) -> None:
        """Add the terms of a batch's samples, one array [batch] per sum."""
        self.rows.append(np.stack([np.asarray(one, np.float64) for one in columns], axis=1))

    def sums(self, kept: Array | None = None) -> Array:
        """The sums over all samples, or over those that are ``kept``, float64 [sums]."""
        rows = np.concatenate(self.rows)
        return np.asarray((rows if kept is None else rows[kept]).sum(axis=0))

    def of(self, sums: Array) -> float:
        """The value for ``sums``: the first over the second; NaN if that is 0."""
        return float(sums[0]) / float(sums[1]) if sums[1] else math.nan

    def value(self) -> float:
        """The value over all samples."""
        return self.of(self.sums())

    @property
    def label_spread(self) -> float:
        """See ``MetricScore.spread``."""
        return 0.0

    def units(self) -> Array:
        """Each sample is a unit of its own."""
        return np.arange(sum(map(len, self.rows)))

    def value_among(self, kept: Array) -> float:
        """The value over the samples that are ``kept``, bool [samples]."""
        return self.of(self.sums(kept))


def score_of(metric: Metric, name: str | None) -> MetricScore:
    """A metric's value, with figures of its variation over samples.

    The variation is not known if ``value_among`` all samples differs from ``value``: a user's metric derived from a
    built-in one may define its own ``value``, in another unit.

    Raises:
        DataError: it failed, or returned something other than a number.
    """
    found = _score_of(metric, name)
    return replace(found, spread=metric.label_spread) if isinstance(metric, Summed) else found


def _score_of(metric: Metric, name: str | None) -> MetricScore:
    value, answers = value_of(metric, name), answers_of(metric)
    if not math.isfinite(value):
        return MetricScore(value, answers)
    if not isinstance(metric, Resampled):
        untold = EvaluationCode.SPREAD_NOT_TOLD(metric=name) if not answers else None
        return MetricScore(value, answers, untold=untold)
    with metric_code(name, "in value_among"):
        units = np.asarray(metric.units())
        told = units != NO_UNIT
        _, numbers = np.unique(units[told], return_inverse=True)
        count = int(numbers.max(initial=-1)) + 1
        every = metric.value_among(np.ones(len(units), bool))
        if not math.isclose(every, value, rel_tol=1e-6, abs_tol=1e-12):
            untold = EvaluationCode.SPREAD_OF_ANOTHER(metric=name, value=value, among=every)
            return MetricScore(value, answers, untold=untold)
        if count < 2:
            return MetricScore(value, answers, samples=int(told.sum()))
        groups = np.full(len(units), NO_UNIT)
        groups[told] = numbers % min(count, _GROUPS)
        left_out = tuple(metric.value_among(groups != group) for group in range(min(count, _GROUPS)))
    return MetricScore(value, answers, left_out, int(told.sum()))


def drop_error(before: Sequence[float], after: Sequence[float]) -> float | None:
    """The standard error of the difference of a metric between two models on the same samples.

    None if not known: with zero variance between groups, nothing shows how much others would differ.

    sqrt((G - 1) / G sum((d_g - mean d)^2)), with d_g the difference without the g-th of G groups. Groups without which
    the metric of either model is NaN are left out.

    Args:
        before: ``MetricScore.left_out`` of one model.
        after: ``MetricScore.left_out`` of the other model.
    """
    apart = _apart(before, after)
    return float(math.sqrt((len(apart) - 1) * apart.var())) or None if len(apart) > 1 else None


def is_alone(samples: int, before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether a metric of two models depends on a single sample or group, so that its error is not known.

    That is so if the metric is NaN without it, since the differences without other groups then tell little.

    Args:
        samples: ``MetricScore.samples``; 0 for a metric without resampling.
        before: ``MetricScore.left_out`` of one model.
        after: ``MetricScore.left_out`` of the other model.
    """
    known = len(_apart(before, after))
    return samples > 0 and (known < 2 or known < len(before))


def _apart(before: Sequence[float], after: Sequence[float]) -> Array:
    """The finite differences d_g, float64 [groups]."""
    apart = np.subtract(before, after) if len(before) == len(after) else np.zeros(0)
    return np.asarray(apart[np.isfinite(apart)])
