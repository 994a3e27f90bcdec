"""Plans that are worth running, from what is known of their noise and of the limit on it.

A plan's worth is what it gains over the best plan so far, times the probability that it meets the budget: the expected
improvement under a constraint, where the improvement itself, a price, is known (M. Schonlau, W. J. Welch, D. R. Jones,
"Global versus local search in constrained optimization of computer models", 1998; J. R. Gardner et al., "Bayesian
optimization with inequality constraints", ICML 2014). Candidates are the nested plans of greedy orders by noise over
price, as for a knapsack, and plans that differ in up to three layers from the best ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from toolkit.base.types import Array
from toolkit.search.plans.demands import Demands

_EXPONENTS = (1.0, 0.5, 0.25, 0.0)
"""How much a layer's price counts in an order of layers."""
_FLIPS, _ROUNDS, _STARTS, _SHOWN = 24, 4, 3, 40
_EACH = 6
"""Of so few layers every plan can be looked at."""
_LEAST_GAIN, _LEAST_WORTH = 1e-3, 1e-2
"""As shares of the price of all layers."""
LEAST_MORE = 0.04
"""Where this is less: as a share of what is quantized already."""


class Proposals:
    """Plans worth running: those whose gain, times their chance to meet the budget, is largest.

    Args:
        demands: what is known of plans' noise and of the limits on it.
        price: by layer what keeping it float costs.
        caution: the power of the chance in comparing plans; above 1, plans likely to meet the budget come first.
        each: whether every plan is looked at where the layers are very few.
    """

    def __init__(self, demands: Demands, price: Mapping[str, float], caution: float = 1.0, each: bool = False) -> None:
        self._demands, self._caution, self._each = demands, caution, each
        self._price = np.asarray([price[name] for name in demands.names], np.float64)

    def best(self, kept: Collection[str], spare: float, done: Collection[frozenset[str]]) -> list[list[str]]:
        """Plans that give up less than ``spare``, the most worthwhile first; none where nothing is worth running.

        Args:
            kept: what stays float in the best plan so far.
            spare: the price of what it keeps.
            done: plans about which everything is known.
        """
        worthy = heapq.nsmallest(_SHOWN, self._worthy(kept, spare, done))
        return [[name for name, quantized in zip(self._demands.names, row) if not quantized] for *_, row in worthy]

    def promise(self, kept: Collection[str], spare: float, done: Collection[frozenset[str]]) -> float:
        """What the most worthwhile plan is expected to gain, times its chance, as a share of all layers' price."""
        return max((-worth for worth, *_ in self._worthy(kept, spare, done)), default=0.0) / float(self._price.sum())

    def _worthy(
        self, kept: Collection[str], spare: float, done: Collection[frozenset[str]]
    ) -> list[tuple[float, bytes, Array]]:
        """Plans worth running, each with its worth, less than 0, and a unique key."""
        base = self._demands.quantized(kept)
        ended = {self._demands.quantized(one).tobytes() for one in done}
        found: set[bytes] = set()
        # no two are the same plan, so that rows are never compared
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
        """The worth of plans [plans, layers] that give up less than ``spare``; 0 where one is not worth running."""
        total = self._price.sum()
        gain = spare - (~plans) @ self._price
        chance = self._demands.chance(plans)
        worth = np.where(gain > _LEAST_GAIN * total, gain, 0.0) * chance
        least = min(_LEAST_WORTH * total, max(LEAST_MORE * (total - spare), _LEAST_GAIN * total))
        return np.asarray(np.where(worth > least, worth * chance ** (self._caution - 1), 0.0))

    def _nested(self, base: Array) -> Array:
        """The first n layers float, for all n and several orders by harm over price."""
        plans = []
        for order in self._demands.orders(base, self._price, _EXPONENTS):
            rank = np.empty(len(order), int)
            rank[order] = np.arange(len(order))
            plans.append(rank[None] >= np.arange(len(order))[:, None])
        return np.concatenate(plans)

    def _near(self, base: Array) -> Array:
        """Plans that differ by one layer, or by two or three of those that are nearest to changing."""
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
