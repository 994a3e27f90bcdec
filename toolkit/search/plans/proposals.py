"""Plans that are worth running, given what is known of their noise and of the limit on it.

A plan's worth is its gain over the best plan so far, times the probability that it meets the budget: the expected
improvement under a constraint, with a known improvement, the price (M. Schonlau, W. J. Welch, D. R. Jones,
"Global versus local search in constrained optimization of computer models", 1998; J. R. Gardner et al., "Bayesian
optimization with inequality constraints", ICML 2014). Candidates are the nested plans of greedy orders by noise over
price, as for a knapsack, and plans that differ from the best ones in up to three layers.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from toolkit.base.types import Array
from toolkit.search.plans.demands import Demands

_EXPONENTS = (1.0, 0.5, 0.25, 0.0)
"""The exponents of a layer's price in the orders of layers."""
_FLIPS, _ROUNDS, _STARTS, _SHOWN = 24, 4, 3, 40
_EACH = 6
"""With at most this many layers every plan can be considered."""
_LEAST_GAIN, _LEAST_WORTH = 1e-3, 1e-2
"""The smallest gain and worth of a proposal, as shares of the price of all layers."""
LEAST_MORE = 0.04
"""The smallest worth as a share of the price that is quantized already, if this is less than ``_LEAST_WORTH``."""


class Proposals:
    """Plans worth running: those with the largest product of gain and probability to meet the budget.

    Args:
        demands: what is known of plans' noise and of the limits on it.
        price: for each layer the cost of keeping it float.
        caution: the exponent of the probability in comparisons; above 1, plans likely to meet the budget come first.
        each: whether to consider every plan if there are at most six layers.
    """

    def __init__(self, demands: Demands, price: Mapping[str, float], caution: float = 1.0, each: bool = False) -> None:
        self._demands, self._caution, self._each = demands, caution, each
        self._price = np.asarray([price[name] for name in demands.names], np.float64)

    def best(self, kept: Collection[str], spare: float, done: Collection[frozenset[str]]) -> list[list[str]]:
        """Plans with less than the price ``spare`` in float, the most worthwhile first; empty if none is worth running.

        Args:
            kept: the layers that stay float in the best plan so far.
            spare: the price of the layers that it keeps float.
            done: plans whose results are known already.
        """
        worthy = heapq.nsmallest(_SHOWN, self._worthy(kept, spare, done))
        return [[name for name, quantized in zip(self._demands.names, row) if not quantized] for *_, row in worthy]

    def promise(self, kept: Collection[str], spare: float, done: Collection[frozenset[str]]) -> float:
        """The largest product of a plan's gain and probability, as a share of all layers' price; 0 if there is none."""
        return max((-worth for worth, *_ in self._worthy(kept, spare, done)), default=0.0) / float(self._price.sum())

    def _worthy(
        self, kept: Collection[str], spare: float, done: Collection[frozenset[str]]
    ) -> list[tuple[float, bytes, Array]]:
        """Plans worth running, as (-worth, unique key, mask of quantized layers [layers])."""
        base = self._demands.quantized(kept)
        ended = {self._demands.quantized(one).tobytes() for one in done}
        found: set[bytes] = set()
        # keys are unique, so rows are never compared
        worthy: list[tuple[float, bytes, Array]] = []

        def look(plans: Array) -> None:
            new = {key: row for row in plans if (key := row.tobytes()) not in found}
            for (key, row), worth in zip(new.items(), self._worth(np.asarray([*new.values()]), spare) if new else ()):
                found.add(key)
                if worth > 0 and key not in ended:
                    worthy.append((-float(worth), key, row))

        def leading(count: int) -> list[Array]:
            return [row for *_, row in heapq.nsmallest(count, worthy)]

        if self._each and len(base) <= _EACH:
            codes = np.arange(2 ** len(base))[:, None]
            look((codes >> np.arange(len(base)) & 1).astype(bool))
            return worthy
        look(self._nested(base))
        look(self._near(base))
        for _ in range(_ROUNDS):
            before = leading(1)
            for row in leading(_STARTS):
                look(self._near(row))
            if not before or np.array_equal(before[0], leading(1)[0]):
                break
        return worthy

    def chance(self, kept: Collection[str]) -> float:
        """The probability that a plan meets the budget."""
        return float(self._demands.chance(self._demands.quantized(kept)[None])[0])

    def _worth(self, plans: Array, spare: float) -> Array:
        """The worth of plans, bool [plans, layers], if less than ``spare`` is to stay float; 0 if not worth running."""
        total = self._price.sum()
        gain = spare - (~plans) @ self._price
        chance = self._demands.chance(plans)
        worth = np.where(gain > _LEAST_GAIN * total, gain, 0.0) * chance
        least = min(_LEAST_WORTH * total, max(LEAST_MORE * (total - spare), _LEAST_GAIN * total))
        return np.asarray(np.where(worth > least, worth * chance ** (self._caution - 1), 0.0))

    def _nested(self, base: Array) -> Array:
        """Plans with the first n layers of an order float, for all n and several orders by noise over price."""
        plans = []
        for order in self._demands.orders(base, self._price, _EXPONENTS):
            rank = np.empty(len(order), int)
            rank[order] = np.arange(len(order))
            plans.append(rank[None] >= np.arange(len(order))[:, None])
        return np.concatenate(plans)

    def _near(self, base: Array) -> Array:
        """Plans that differ from ``base`` in one layer, or in two or three of the layers closest to changing."""
        bargain = self._demands.harm(base) / self._price
        inside = [int(i) for i in np.argsort(bargain, kind="stable") if not base[i]][:_FLIPS]
        outside = [int(i) for i in np.argsort(-bargain, kind="stable") if base[i]][:_FLIPS]
        dear = sorted(inside, key=lambda i: -self._price[i])[: _FLIPS // 4]
        flips: list[Sequence[int]] = [(i,) for i in range(len(base))]
        flips += [(i, j) for i in inside for j in outside]
        few = inside[: _FLIPS // 2]
        flips += [(i, j) for n, i in enumerate(few) for j in few[:n]]
        few = outside[: _FLIPS // 2]
        flips += [(d, i, j) for d in dear for n, i in enumerate(few) for j in few[:n]]
        plans = np.repeat(base[None], len(flips), 0)
        rows = np.repeat(np.arange(len(flips)), [len(places) for places in flips])
        plans[rows, [i for places in flips for i in places]] ^= True
        return plans
