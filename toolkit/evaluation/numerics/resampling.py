"""How far a metric would differ on other samples: the delete-a-group jackknife.

The metric is computed on all samples but those of one group, for each of G groups. Its spread shows how it varies from
one draw of samples to another, for any metric: mean IoU and F1 are not shares of right samples, and an error has no
answers to count. J. W. Tukey, "Bias and confidence in not-quite large samples", Ann. Math. Stat. 29 (1958); for groups
J. Shao and D. Tu, The Jackknife and Bootstrap, Springer (1995), 2.3.
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
"""Stands for the unit of a row that has no label: it is in no group, since the metric without it is the same."""
_GROUPS = 16
"""A standard error by so many values is itself known to a fifth of it; one value of some metrics takes a second."""


@dataclass(frozen=True)
class MetricScore:
    """A metric of some samples.

    Attributes:
        value: in the metric's units; None without a metric.
        answers: how many answers the value is a share of; 0 where it is no share, or that is not known.
        left_out: what it would be without each of some groups of the samples, see above; empty where the
            metric does not tell, NaN without a group that has all labels.
        samples: how many samples have a label, for a metric that can be computed on some of them; those of a pair
            both. They are joined to groups where there are two or more.
        spread: of an error what it would be for the best constant, by the labels; 0 where that is not known.
        untold: why it is not known how far the value would differ on other samples; None where something does, or the
            samples are too few for it.
    """

    value: float | None = None
    answers: int = 0
    left_out: tuple[float, ...] = ()
    samples: int = 0
    spread: float = 0.0
    untold: Finding | None = None


@runtime_checkable
class Resampled(Protocol):
    """A metric that can tell its value on some of its samples."""

    def units(self) -> Array:
        """Which unit each row belongs to, int [rows]: rows of one unit are never parted, as a pair of samples.

        ``NO_UNIT`` where a row has no label. It depends on labels alone, so that groups are the same for two models.
        """

    def value_among(self, kept: Array) -> float:
        """The value over the rows that are kept, bool [rows]; NaN where these say nothing."""


class Summed:
    """A metric that is a function of sums over its samples.

    Attributes:
        rows: by batch what each sample adds, float64 [batch, sums].
    """

    def __init__(self, sums: int) -> None:
        self.rows: list[Array] = [np.zeros((0, sums))]

    def take(self, *columns: Array) -> None:
        """Take in what the samples of a batch add to each sum, [batch] each."""
        self.rows.append(np.stack([np.asarray(one, np.float64) for one in columns], axis=1))

    def sums(self, kept: Array | None = None) -> Array:
        """What all samples, or those that are kept, add up to, float64 [sums]."""
        rows = np.concatenate(self.rows)
        return np.asarray((rows if kept is None else rows[kept]).sum(axis=0))

    def of(self, sums: Array) -> float:
        """The value from what ``sums`` returns: the first over the second; NaN where that is 0."""
        return float(sums[0]) / float(sums[1]) if sums[1] else math.nan

    def value(self) -> float:
        """The value over all samples."""
        return self.of(self.sums())

    @property
    def label_spread(self) -> float:
        """See ``MetricScore.spread``."""
        return 0.0

    def units(self) -> Array:
        """Each sample by itself."""
        return np.arange(sum(map(len, self.rows)))

    def value_among(self, kept: Array) -> float:
        """The value over the samples that are kept, bool [samples]."""
        return self.of(self.sums(kept))


def score_of(metric: Metric, name: str | None) -> MetricScore:
    """A metric's value, and how far it would differ on other samples.

    That is unknown where the metric's value over all samples is not its ``value``: a user's metric derived from
    a built-in one may define its own ``value``, in another unit.

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

    None where it is not known: where no group makes a difference, nothing shows by how much others would.

    sqrt((G - 1) / G sum((d_g - mean d)^2)), with d_g the difference without the g-th of G groups. A group without which
    the metric of either model says nothing is left out: it has no d_g.

    Args:
        before: ``MetricScore.left_out`` of the one model.
        after: that of the other.
    """
    apart = _apart(before, after)
    return float(math.sqrt((len(apart) - 1) * apart.var())) or None if len(apart) > 1 else None


def is_alone(samples: int, before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether a metric of two models comes from a single sample or group, so that no error can be known.

    It is where the metric says nothing without that one; how the others differ tells little then.

    Args:
        samples: ``MetricScore.samples``; 0 for a metric that never tells.
        before: ``MetricScore.left_out`` of the one model.
        after: that of the other.
    """
    known = len(_apart(before, after))
    return samples > 0 and (known < 2 or known < len(before))


def _apart(before: Sequence[float], after: Sequence[float]) -> Array:
    """The differences d_g that are numbers, float64 [groups]."""
    apart = np.subtract(before, after) if len(before) == len(after) else np.zeros(0)
    return np.asarray(apart[np.isfinite(apart)])
