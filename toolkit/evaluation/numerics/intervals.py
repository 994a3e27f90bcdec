"""Confidence intervals of shares of answers, and the rule by which a limit on a share is met, missed or unproven."""

from __future__ import annotations

import math
from enum import Enum

ONE_SIDED, TWO_SIDED = 1.645, 1.96
"""Numbers of standard errors for a one-sided and a two-sided 95 % interval."""
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
