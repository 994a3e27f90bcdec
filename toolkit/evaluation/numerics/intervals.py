"""How certain a share of answers is, and the one rule by which a limit on it is met, missed or not proven."""

from __future__ import annotations

import math
from enum import Enum

ONE_SIDED, TWO_SIDED = 1.645, 1.96
"""How many standard errors exclude all but 5 percent above, and all but 2.5 percent to either side."""
_UNLIKELY = 0.025
_ROUNDING = 1e-9
_FINEST = 1e-9
"""Nobody has as many answers as a finer limit needs: such a limit allows none to be lost."""


class LimitStanding(str, Enum):
    """How a limit stands on the available samples, the best first."""

    MET = "met"
    UNPROVEN = "unproven"
    MISSED = "missed"

    def __str__(self) -> str:
        return str(self.value)


def around(value: float, error: float) -> tuple[float, float]:
    """The 95 % interval of a value whose standard error is known."""
    return value - TWO_SIDED * error, value + TWO_SIDED * error


def wilson(successes: float, count: float, z: float = TWO_SIDED) -> tuple[float, float]:
    """The interval of a share, 0 to 1, of 95 % by default: E. B. Wilson, "Probable inference", JASA 22 (1927).

    Args:
        successes: how many of ``count``; need not be whole.
        count: answers; where those of one sample go wrong together, as many as are independent.
        z: how many standard errors it reaches to either side.
    """
    if count <= 0:
        return 0.0, 1.0
    share, spread = min(max(successes / count, 0.0), 1.0), z * z / count
    middle = share + spread / 2
    reach = z * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    high = (middle + reach) / (1 + spread)
    # the product of both ends is known; the difference of centre and half-width would cancel
    return share * share / (1 + spread) / high if share else 0.0, min(high, 1.0)


def enough(limit: float) -> int:
    """How many answers it takes to judge a share that may be lost; 0 where none may.

    The rule of three: where none of n is lost, as many as 3 / n may be elsewhere, with 95 percent confidence.
    """
    return math.ceil(3 / limit - 1e-6) if limit >= _FINEST else 0


def standing(lost: float, answers: float, limit: float, independent: float | None = None) -> LimitStanding:
    """Whether at most a share ``limit`` of answers is lost.

    Met: no more is lost, on enough answers to say so. Not proven: fewer answers, and no more is lost, or one answer
    where the limit is finer than one, unless that is too unlikely to be chance. Missed: anything else. A limit of 0
    is judged on the available answers alone.

    Args:
        lost: answers lost less those won, where answers are compared with labels; need not be whole.
        answers: out of how many.
        limit: the largest share that may be lost, 0 to 1.
        independent: how many answers count as independent, for the interval; all where None.
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
    """The worst of several; met where there are none."""
    order = list(LimitStanding)
    return max(found, key=order.index, default=LimitStanding.MET)
