"""A model of the noise of plans, and of the noise up to which they meet the budget, fitted to the plans that ran.

A plan is q in {0, 1}^layers, 1 for a quantized layer, and h_i is the noise that layer i adds by itself. The noise of
a plan is modelled as

n(q) = f(q) (1 + e(q)),   f(q) = sum_i h_i q_i,   e ~ GP(0, k),
k(q, q') = doubt^2 (a^2 + (b^2 sum_i h_i^2 q_i q'_i + c^2 sum_{i<j} h_i h_j q_i q_j q'_i q'_j) / (f(q) f(q')))

with a = ``_SCALE``, b = ``_SINGLE`` and c = ``_PAIR``: the covariance of a polynomial of second degree without squares
(C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for Machine Learning", 2006; prediction by equations 2.23 and
2.24). The mean and variance of 1 + e give those of log n as for a log-normal variable. The limit on noise is either
known or has a posterior on a grid of its logarithm, with the likelihood of the plans that ran.

The h_i are rescaled by a common factor if plans show more than ``_ALIKE`` times the sum of their layers' noise, or less
than its inverse: layers may have been measured on few samples that show hardly any noise, for example with nearly all
of the probability in one class.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np

from toolkit.base.types import Array

_SCALE, _SINGLE, _PAIR, _ROUGH = 0.5, 0.5, 0.35, 0.03
"""Relative standard deviations: of the common error of all harms, of each harm, of each pair, of the residual."""
_ALIKE = 4.0
"""Harms are rescaled only if plans show more than this many times the noise that they predict, or less than 1 / it."""
_LEAST, _MOST = 1e-6, 1e3
_FLOOR = 0.05
_TIE = 0.35
"""Standard deviation, in nepers, of the noise at which a plan still meets a limit on answers by chance."""
_DEPTH, _STEPS, _FADES = 12.0, 121, 5.0
_COUNTED, _POWERS = 100, (0.5, 1.0, 2.0)
_EXPECTED, _FAR = 0.3, 10.0
"""Standard deviation, in nepers, of the expected share of lost answers; factor to which shares are clipped."""


class _Ran(NamedTuple):
    """A plan's noise relative to the sum of its layers' harms, and the relative standard deviation of that noise."""

    plan: Array
    times: float
    error: float
    as_harm: bool


class PlanNoise:
    """A Gaussian process over plans (see the module): layers and pairs of layers may add more or less than their harm.

    It finds layers that are only good when they are quantized together.

    Args:
        harm: for each layer the noise that it adds when it is quantized.
        doubt: factor on the standard deviation of the harms' error; 1 is usual.
    """

    def __init__(self, harm: Mapping[str, float], doubt: float = 1.0) -> None:
        self._doubt = doubt
        finite = [value for value in harm.values() if math.isfinite(value)]
        # a harm too small to measure is small, not zero
        least = max(max(finite, default=0.0) * _LEAST, 1e-30)
        most = max(max(finite, default=1.0), least) * _MOST
        self.names = list(harm)
        self._alone = np.asarray([min(max(value, least), most) for value in harm.values()], np.float64)
        self._seen: dict[bytes, _Ran] = {}

    def quantized(self, kept: Collection[str]) -> Array:
        """A plan as a mask of the layers that it quantizes, bool [groups]."""
        inside = set(kept)
        return np.asarray([name not in inside for name in self.names], bool)

    def observe(self, kept: Collection[str], noise: float, error: float = 0.0, as_harm: bool = False) -> None:
        """Record the noise of a plan that ran, in place of an earlier value.

        Args:
            kept: the layers that stay float in it.
            noise: its noise.
            error: the relative standard deviation of the noise, if it ran on a subset of the samples.
            as_harm: whether it ran on the same samples as the layers' harms.
        """
        plan = self.quantized(kept)
        if plan.any() and 0 < noise < math.inf:
            self._seen[plan.tobytes()] = _Ran(plan, noise / float(plan @ self._alone), error, as_harm)
            vars(self).pop("_unit", None)

    @cached_property
    def _unit(self) -> float:
        """The harms' common factor, from the plans that ran; see the module."""
        ran = [math.log(one.times) for one in self._seen.values() if not one.as_harm]
        times = statistics.median(ran) if ran else 0.0
        return math.exp(math.copysign(max(abs(times) - math.log(_ALIKE), 0.0), times))

    @property
    def harm(self) -> Array:
        """The noise that each layer adds, in the unit of the plans' noise; float64 [groups]."""
        return self._alone * self._unit

    def of(self, plans: Array) -> tuple[Array, Array]:
        """The noise of plans, bool [plans, groups]: its logarithm and standard deviation in nepers, each [plans]."""
        own = plans.astype(np.float64)
        total = np.maximum(own @ self.harm, 1e-140)
        share, spread = np.ones(len(own)), np.full(len(own), self._prior(own, total))
        if self._seen:
            ran = list(self._seen.values())
            seen = np.asarray([one.plan for one in ran], np.float64)
            sums = seen @ self.harm
            found = np.asarray([one.times / (1.0 if one.as_harm else self._unit) for one in ran])
            errors = found * np.asarray([math.hypot(_ROUGH, one.error) for one in ran])
            both = self._alike(seen, seen, sums, sums) + np.diag(errors**2)
            mine = self._alike(own, seen, total, sums)
            solved = np.linalg.solve(both, np.column_stack([found - 1, mine.T]))
            share = 1 + mine @ solved[:, 0]
            spread = spread - np.einsum("ps,sp->p", mine, solved[:, 1:])
        share = np.maximum(share, _FLOOR)
        wide = np.sqrt(np.log1p(np.maximum(spread, 1e-8) / share**2))
        return np.log(total * share), np.asarray(np.where(plans.any(axis=1), wide, 0.0))

    def _alike(self, first: Array, second: Array, one: Array, other: Array) -> Array:
        """The covariance between two sets of plans, relative to their sums of harms; [first plans, second plans]."""
        singles = (first * self.harm**2) @ second.T
        sums = (first * self.harm) @ second.T
        return self._shares(singles, (sums**2 - singles) / 2, np.outer(one, other))

    def _prior(self, own: Array, total: Array) -> Array:
        """The prior variance of each plan's relative noise; [plans]."""
        singles = own @ self.harm**2
        return self._shares(singles, (total**2 - singles) / 2, np.maximum(total**2, 1e-300))

    def _shares(self, singles: Array, pairs: Array, squares: Array) -> Array:
        """The covariance, given its sums over single layers and pairs, and the product of the plans' sums of harms."""
        wrong = _SCALE**2 + (_SINGLE**2 * singles + _PAIR**2 * pairs) / squares
        return np.asarray(self._doubt**2 * wrong)


class NoiseLimit:
    """What is known about the noise up to which a plan meets the budget.

    Args:
        most: the noise of the fully quantized plan.
        exact: the budget's limit on noise, if it has one.
        learnt: whether the budget has other limits, whose equivalent noise is learnt from plans.
    """

    def __init__(self, most: float, exact: float | None, learnt: bool) -> None:
        top = math.log(most) if 0 < most < math.inf else 0.0
        depth = np.linspace(-1.0, _DEPTH, _STEPS)
        # a limit too small for a float is 0, which no noise meets
        self._exact = math.inf if exact is None else math.log(exact) if exact > 0 else -math.inf
        self._learnt = learnt
        self._at = (top - depth)[:, None]
        # [limit, power of the noise with which lost answers grow]
        self._weight = np.repeat(np.exp(-np.maximum(depth, 0) / _FADES)[:, None], len(_POWERS), axis=1)

    @property
    def middle(self) -> float:
        """The posterior median of the limit, as a logarithm of noise."""
        if not self._learnt:
            return self._exact
        reached = np.cumsum(self._weight.sum(axis=1))
        return min(self._exact, float(self._at[np.searchsorted(reached, reached[-1] / 2), 0]))

    def observe(self, noise: float, meets: bool) -> None:
        """Record whether a plan with this noise met the learnt limits."""
        if 0 < noise < math.inf:
            chance = _normal((self._at - math.log(noise)) / _TIE)
            self._weight = self._weight * (chance if meets else 1 - chance)
            self._weight = np.maximum(self._weight / self._weight.sum(), 1e-9)

    def observe_lost(self, noise: float, lost: float, answers: float, most: float) -> None:
        """Record how many answers a plan with this noise lost, if a share of them is limited.

        An answer is lost if the error exceeds its margin over another answer. If margins are evenly spread near 0, the
        lost share grows with the size of the error, the square root of the noise; it grows faster for answers that are
        compared with a threshold. The power is learnt from the plans. Similar plans lose the same answers, so each
        answer counts as half, and a plan as a hundred answers at most.

        Args:
            noise: the plan's noise.
            lost: the share of answers that are lost or expected to be.
            answers: the number of answers.
            most: the largest share that may be lost, over 0.
        """
        if 0 < noise < math.inf and answers > 0:
            share = np.minimum(most * self._times(noise), 1.0)
            self._believe(min(answers, _COUNTED) * (max(lost, 0.0) * np.log(share) - share) / 2)

    def observe_expected(self, noise: float, expected: float, most: float) -> None:
        """``observe_lost`` for an expected share, computed from the margins of all answers.

        The share is not a count: its random part, the answers' margins, is the same for all plans, and the shares of
        two plans differ as their noise does. Shares are clipped to ten times and a tenth of the limit.

        Args:
            noise: the plan's noise.
            expected: the expected share of lost answers.
            most: the largest share that may be expected, over 0.
        """
        if 0 < noise < math.inf and expected >= 0:
            seen, predicted = (np.clip(times, 1 / _FAR, _FAR) for times in (expected / most, self._times(noise)))
            self._believe(-np.square(np.log(seen / predicted) / _EXPECTED) / 2)

    def _times(self, noise: float) -> Array:
        """The predicted share of lost answers at this noise, relative to the share at the limit; [limit, power]."""
        return np.asarray(np.exp((math.log(noise) - self._at) * np.asarray(_POWERS)))

    def _believe(self, likely: Array) -> None:
        """Multiply the posterior by a likelihood, given as its logarithm; [limit, power]."""
        self._weight = self._weight * np.exp(likely - likely.max())
        self._weight = np.maximum(self._weight / self._weight.sum(), 1e-9)

    def chance(self, level: Array, spread: Array) -> Array:
        """The probability that plans are within the limit, given the mean and deviation of their log noise; [plans]."""
        found = _normal((self._exact - level) / (spread + 1e-9))
        if self._learnt:
            wide, weight = np.sqrt(spread**2 + _TIE**2), self._weight.sum(axis=1)
            found = found * (_normal((self._at[:, 0] - level[:, None]) / wide[:, None]) @ weight / weight.sum())
        return np.asarray(found)


def _normal(value: Array) -> Array:
    """The normal cumulative distribution function, to 2e-4 (E. Page, Applied Statistics 26(1), 1977)."""
    bounded = np.clip(value, -8, 8)
    return np.asarray(1 / (1 + np.exp(-bounded * (1.5976 + 0.07056 * bounded**2))))
