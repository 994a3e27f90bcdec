"""The likely noise of plans, and the noise up to which they meet the budget, learnt from those that ran.

A plan is q in {0, 1}^layers, 1 where a layer is quantized, and h_i the noise that layer i adds by itself. The noise of
a plan is modelled as

    n(q) = f(q) (1 + e(q)),   f(q) = sum_i h_i q_i,   e ~ GP(0, k),
    k(q, q') = doubt^2 (a^2 + (b^2 sum_i h_i^2 q_i q'_i + c^2 sum_{i<j} h_i h_j q_i q_j q'_i q'_j) / (f(q) f(q')))

with a = ``_SCALE``, b = ``_SINGLE`` and c = ``_PAIR``: the covariance of a polynomial of second degree without squares
(C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for Machine Learning", 2006; prediction by equations 2.23 and
2.24). Mean and variance of 1 + e give those of log n as for a log-normal variable. The limit on noise is known or
has a posterior on a grid of its logarithm, whose likelihood is that of the plans that ran.

The h_i get a common factor where plans show more than ``_ALIKE`` times the noise that their layers sum up to, or less
than its inverse: layers may have been measured on few samples that show hardly any of it, such as those whose class
has nearly all of the probability.
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
"""Standard deviations, as shares: of the error of all harms together, of each, of each pair, of the rest."""
_ALIKE = 4.0
"""Up to so many times, the noise of plans is what their layers' noise says; beyond, its unit is another."""
_LEAST, _MOST = 1e-6, 1e3
_FLOOR = 0.05
_TIE = 0.35
"""How far from the limit on noise a plan may lie, in nepers, and meet a limit on answers or miss it by chance."""
_DEPTH, _STEPS, _FADES = 12.0, 121, 5.0
_COUNTED, _POWERS = 100, (0.5, 1.0, 2.0)
_EXPECTED, _FAR = 0.3, 10.0
"""How far the share of answers that a plan is expected to lose may be from what its noise says, in nepers."""


class _Ran(NamedTuple):
    """What a plan showed: its noise as a multiple of what its layers' harms sum up to, and how far that may be off."""

    plan: Array
    times: float
    error: float
    as_harm: bool


class PlanNoise:
    """A Gaussian process over plans, see this module: what a layer or a pair of layers adds may differ from its harm.

    So layers that are good only together are found to be so.

    Args:
        harm: by layer the noise that it adds when it is quantized.
        doubt: how much more than usual the harms may be off.
    """

    def __init__(self, harm: Mapping[str, float], doubt: float = 1.0) -> None:
        self._doubt = doubt
        finite = [value for value in harm.values() if math.isfinite(value)]
        # a harm too small to be measured is small, not zero
        least = max(max(finite, default=0.0) * _LEAST, 1e-30)
        most = max(max(finite, default=1.0), least) * _MOST
        self.names = list(harm)
        self._alone = np.asarray([min(max(value, least), most) for value in harm.values()], np.float64)
        self._seen: dict[bytes, _Ran] = {}

    def quantized(self, kept: Collection[str]) -> Array:
        """A plan as the layers that it quantizes, bool [groups]."""
        inside = set(kept)
        return np.asarray([name not in inside for name in self.names], bool)

    def observe(self, kept: Collection[str], noise: float, error: float = 0.0, as_harm: bool = False) -> None:
        """Take in the noise of a plan that ran, in place of what it showed before.

        Args:
            kept: what stays float in it.
            noise: what it showed.
            error: how far that may be off because it ran on a part of the samples, as a share.
            as_harm: whether it ran on the samples that the layers' harms are from.
        """
        plan = self.quantized(kept)
        if plan.any() and 0 < noise < math.inf:
            self._seen[plan.tobytes()] = _Ran(plan, noise / float(plan @ self._alone), error, as_harm)
            vars(self).pop("_unit", None)

    @cached_property
    def _unit(self) -> float:
        """The harms' common factor, by the plans that ran; see this module."""
        ran = [math.log(one.times) for one in self._seen.values() if not one.as_harm]
        times = statistics.median(ran) if ran else 0.0
        return math.exp(math.copysign(max(abs(times) - math.log(_ALIKE), 0.0), times))

    @property
    def harm(self) -> Array:
        """The noise that each layer adds, in the unit of the plans' noise; float64 [groups]."""
        return self._alone * self._unit

    def of(self, plans: Array) -> tuple[Array, Array]:
        """The logarithm of each plan's noise and its standard deviation in nepers; bool [plans, groups]."""
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
        """The covariance of two sets of plans, as shares of their sums of harms."""
        singles = (first * self.harm**2) @ second.T
        sums = (first * self.harm) @ second.T
        return self._shares(singles, (sums**2 - singles) / 2, np.outer(one, other))

    def _prior(self, own: Array, total: Array) -> Array:
        """The variance of each plan's share before any plan ran; [plans]."""
        singles = own @ self.harm**2
        return self._shares(singles, (total**2 - singles) / 2, np.maximum(total**2, 1e-300))

    def _shares(self, singles: Array, pairs: Array, squares: Array) -> Array:
        """The covariance from its sums over single layers and pairs, and the product of the plans' sums of harms."""
        wrong = _SCALE**2 + (_SINGLE**2 * singles + _PAIR**2 * pairs) / squares
        return np.asarray(self._doubt**2 * wrong)


class NoiseLimit:
    """What is known about the noise up to which a plan meets the budget.

    Args:
        most: the noise of the plan that quantizes everything.
        exact: the limit on noise, where the budget has one.
        learnt: whether it has other limits too, for which the noise they allow is to be learnt.
    """

    def __init__(self, most: float, exact: float | None, learnt: bool) -> None:
        top = math.log(most) if 0 < most < math.inf else 0.0
        depth = np.linspace(-1.0, _DEPTH, _STEPS)
        # a limit that no noise meets is 0 where it is too small for a float
        self._exact = math.inf if exact is None else math.log(exact) if exact > 0 else -math.inf
        self._learnt = learnt
        self._at = (top - depth)[:, None]
        # by the limit, and by the power of the noise with which lost answers grow
        self._weight = np.repeat(np.exp(-np.maximum(depth, 0) / _FADES)[:, None], len(_POWERS), axis=1)

    @property
    def middle(self) -> float:
        """The logarithm of the noise that is as likely to be within the limit as over it, by what is known."""
        if not self._learnt:
            return self._exact
        reached = np.cumsum(self._weight.sum(axis=1))
        return min(self._exact, float(self._at[np.searchsorted(reached, reached[-1] / 2), 0]))

    def observe(self, noise: float, meets: bool) -> None:
        """Take in whether a plan of such noise met the limits that are learnt."""
        if 0 < noise < math.inf:
            chance = _normal((self._at - math.log(noise)) / _TIE)
            self._weight = self._weight * (chance if meets else 1 - chance)
            self._weight = np.maximum(self._weight / self._weight.sum(), 1e-9)

    def observe_lost(self, noise: float, lost: float, answers: float, most: float) -> None:
        """Take in how many answers were lost with such noise, where a share of them is limited.

        An answer is lost where the error exceeds what sets it apart from another: the share that is lost grows with the
        error's size, the square root of the noise, where answers lie close together evenly, and faster where they are
        compared with a floor; the plans show which. Similar plans lose the same answers: each counts for
        half, and for a hundred answers at most.

        Args:
            noise: the plan's.
            lost: the share of answers that is lost, or expected to be.
            answers: out of how many.
            most: the largest share that may be lost, over 0.
        """
        if 0 < noise < math.inf and answers > 0:
            share = np.minimum(most * self._times(noise), 1.0)
            self._believe(min(answers, _COUNTED) * (max(lost, 0.0) * np.log(share) - share) / 2)

    def observe_expected(self, noise: float, expected: float, most: float) -> None:
        """``observe_lost`` for an expected share, from how near all answers are to being lost.

        It is no count: its chance part, the answers' margins, is the same for all plans, and shares of two plans
        differ as their noise does. Beyond ten times the limit, or a tenth of it, a share says no more than that.

        Args:
            noise: the plan's.
            expected: the share of answers.
            most: the largest share that may be expected, over 0.
        """
        if 0 < noise < math.inf and expected >= 0:
            seen, predicted = (np.clip(times, 1 / _FAR, _FAR) for times in (expected / most, self._times(noise)))
            self._believe(-np.square(np.log(seen / predicted) / _EXPECTED) / 2)

    def _times(self, noise: float) -> Array:
        """By limit and power, how many times the share at the limit is lost with such noise."""
        return np.asarray(np.exp((math.log(noise) - self._at) * np.asarray(_POWERS)))

    def _believe(self, likely: Array) -> None:
        """Multiply the posterior by a likelihood, given as its logarithm by limit and power."""
        self._weight = self._weight * np.exp(likely - likely.max())
        self._weight = np.maximum(self._weight / self._weight.sum(), 1e-9)

    def chance(self, level: Array, spread: Array) -> Array:
        """The probability that plans whose noise has these logarithms and standard deviations meet it; [plans]."""
        found = _normal((self._exact - level) / (spread + 1e-9))
        if self._learnt:
            wide, weight = np.sqrt(spread**2 + _TIE**2), self._weight.sum(axis=1)
            found = found * (_normal((self._at[:, 0] - level[:, None]) / wide[:, None]) @ weight / weight.sum())
        return np.asarray(found)


def _normal(value: Array) -> Array:
    """The normal distribution's cumulative probability, to 2e-4 (E. Page, Applied Statistics 26(1), 1977)."""
    bounded = np.clip(value, -8, 8)
    return np.asarray(1 / (1 + np.exp(-bounded * (1.5976 + 0.07056 * bounded**2))))
