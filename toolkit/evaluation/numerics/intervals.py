"""Confidence intervals of shares of answers, and the rule by which a limit on a share is met, missed or unproven."""

from __future__ import annotations

import math
from enum import Enum
from functools import cache

ONE_SIDED, TWO_SIDED = 1.645, 1.96
"""Numbers of standard errors for a one-sided and a two-sided 95 % interval."""
_ONE_SIDED_SHARE = 0.05
_MANY, _HALVINGS = 1_000, 60
_UNLIKELY = 0.025
_ROUNDING = 1e-9
_FINEST = 1e-9
"""A finer limit allows no lost answer, since it would need more answers than anybody has."""


class LimitStanding(str, Enum):
    """Whether a limit is met on the available samples, the best first."""

    MET = "met"
    UNPROVEN = "unproven"
    MISSED = "missed"

    def __str__(self) -> str:
        return str(self.value)


def around(value: float, error: float) -> tuple[float, float]:
    """The 95 % interval of a value with this standard error."""
    return value - TWO_SIDED * error, value + TWO_SIDED * error


def wilson(successes: float, count: float, z: float = TWO_SIDED) -> tuple[float, float]:
    """The confidence interval of a share, 0 to 1, by default 95 %: E. B. Wilson, "Probable inference", JASA 22 (1927).

    Args:
        successes: number of successes of ``count``; need not be whole.
        count: number of answers; of independent ones, if errors within a sample are correlated.
        z: number of standard errors to either side.
    """
    if count <= 0:
        return 0.0, 1.0
    share, spread = min(max(successes / count, 0.0), 1.0), z * z / count
    middle = share + spread / 2
    reach = z * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    high = (middle + reach) / (1 + spread)
    # by the product of both ends, since the difference of centre and half-width would lose digits
    return share * share / (1 + spread) / high if share else 0.0, min(high, 1.0)


def enough(limit: float) -> int:
    """The number of answers needed to judge a limit on the lost share; 0 if none may be lost.

    By the rule of three: if none of n is lost, the true share is at most 3 / n with 95 percent confidence.
    """
    return math.ceil(3 / limit - 1e-6) if limit >= _FINEST else 0


def standing(lost: float, answers: float, limit: float, independent: float | None = None) -> LimitStanding:
    """Whether at most a share ``limit`` of answers is lost.

    Met: no more is lost, on enough answers. Unproven: with fewer answers, no more is lost, or one answer if the limit
        is finer than one, unless that is too unlikely to be chance. Missed: anything else. A limit of 0 is judged only
        on the available answers.

    Args:
        lost: number of lost answers, minus gained ones if compared with labels; need not be whole.
        answers: number of answers.
        limit: the largest share that may be lost, 0 to 1.
        independent: number of independent answers, for the probability; None for all.
    """
    if answers <= 0 or not math.isfinite(lost):
        return LimitStanding.MISSED
    if limit <= 0 or answers >= enough(limit):
        return LimitStanding.MET if lost <= limit * answers + _ROUNDING else LimitStanding.MISSED
    count = min(independent if independent is not None else answers, answers)
    likely = _at_least(max(lost, 0.0) * count / answers, count, limit) >= _UNLIKELY
    return LimitStanding.UNPROVEN if lost <= max(limit * answers, 1.0) + _ROUNDING and likely else LimitStanding.MISSED


@cache
def variance_bound(count: int) -> float:
    """The one-sided 95 % upper limit of a variance, as a multiple of the mean squared deviation of n values.

    For normally distributed values, the sum of squared deviations over the variance follows a chi-squared distribution
    with n - 1 degrees of freedom, so the limit is n / q with q its 5 % quantile. From 1,000 degrees of freedom on, q is
    by E. B. Wilson and M. M. Hilferty, "The distribution of chi-square", PNAS 17 (1931).

    Args:
        count: the number n of independent values; the limit of one value is infinite.
    """
    free = count - 1
    if free < 1:
        return math.inf
    if free >= _MANY:
        return count / free * (1 - 2 / (9 * free) - ONE_SIDED * math.sqrt(2 / (9 * free))) ** -3
    low, high = 0.0, float(free)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _chi_squared(middle, free) > _ONE_SIDED_SHARE else (middle, high)
    return count / high


def _chi_squared(value: float, free: int) -> float:
    """The distribution function of chi-squared, by the series of the incomplete gamma function, for value <= free."""
    shape, half = free / 2, value / 2
    if half <= 0:
        return 0.0
    term = total = math.exp(shape * math.log(half) - half - math.lgamma(shape + 1))
    place = shape
    while term > total * _ROUNDING:
        place += 1
        term *= half / place
        total += term
    return total


def _at_least(lost: float, count: float, share: float) -> float:
    """The probability that at least ``lost`` of ``count`` answers are lost, each with the probability ``share``."""
    if share >= 1:
        return 1.0
    total, trials = 0.0, round(count)
    for less in range(math.ceil(lost - _ROUNDING)):
        total += math.comb(trials, less) * share**less * (1 - share) ** (trials - less)
    return 1.0 - total


def worst(*found: LimitStanding) -> LimitStanding:
    """The worst of several; met if there are none."""
    order = list(LimitStanding)
    return max(found, key=order.index, default=LimitStanding.MET)
