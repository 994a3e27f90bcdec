"""What is known of the noise that a plan may make: of the model as a whole, or of each output with its own limit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property, reduce

import numpy as np

from toolkit.base.types import Array
from toolkit.search.plans.plan_noise import NoiseLimit, PlanNoise

_WORST_COUNTS = 3
"""The power of an output's excess in what a layer's noise counts there: the output furthest over its limit decides."""
_EXCESS = 20.0
"""In nepers; what is further from its limit counts no more, or no less."""


class Demand:
    """A limit on noise, and what plans are known to make of the noise that it limits.

    Args:
        noise: of the layers that add to it.
        limit: what is known of the limit.
        columns: the places of these layers among all, int [layers of ``noise``]; None where they are all.
    """

    def __init__(self, noise: PlanNoise, limit: NoiseLimit, columns: Array | None = None) -> None:
        self.noise, self.limit, self.columns = noise, limit, columns

    @property
    def layers(self) -> list[int]:
        """The places of the layers that add to it, where these are not all."""
        return [int(place) for place in self.columns] if self.columns is not None else []

    def chance(self, plans: Array) -> Array:
        """The probability that plans, bool [plans, all layers], are within the limit; float64 [plans]."""
        if self.columns is None:
            return self.limit.chance(*self.noise.of(plans))
        # plans that differ in other layers are one here
        own = np.ascontiguousarray(plans[:, self.columns])
        packed = np.packbits(own, axis=1)
        _, first, same = np.unique(packed.view(np.dtype((np.void, packed.shape[1]))), return_index=True,
                                   return_inverse=True)  # fmt: skip
        return self.limit.chance(*self.noise.of(own[first]))[same.reshape(-1)]

    def added(self, base: Array) -> Array:
        """What each of all layers adds to the noise near a plan, bool [all layers]; float64 [all layers]."""
        base = base if self.columns is None else base[self.columns]
        count = len(base)
        on, off = np.repeat(base[None], count, 0), np.repeat(base[None], count, 0)
        on[np.arange(count), np.arange(count)], off[np.arange(count), np.arange(count)] = True, False
        with_it, without = (np.exp(self.noise.of(plans)[0]) for plans in (on, off))
        return np.maximum(with_it - np.where(off.any(axis=1), without, 0.0), 1e-3 * self.noise.harm)


class Demands:
    """All demands on a plan, which meets the budget where it is within the limit of each.

    Args:
        names: the layers.
        parts: the demands; where there are several, the noise of one output says nothing of another's.
    """

    def __init__(self, names: Sequence[str], parts: Sequence[Demand]) -> None:
        self.names, self._parts = list(names), list(parts)

    def apart(self) -> list[tuple[list[int], Demands]]:
        """Demands that no layer ties to each other: for each group of them their places, and demands on its layers.

        Layers that add to no demand are in none.
        """
        if any(part.columns is None for part in self._parts):
            return [(list(range(len(self._parts))), self)]
        groups = list[tuple[list[int], set[int]]]()
        for place, part in enumerate(self._parts):
            tied = [group for group in groups if not group[1].isdisjoint(part.layers)]
            groups = [group for group in groups if group not in tied]
            places = sorted([place, *(one for group in tied for one in group[0])])
            groups.append((places, reduce(set.union, (group[1] for group in tied), set(part.layers))))
        return [(places, self._on(places, sorted(layers))) for places, layers in sorted(groups, key=lambda one: one[0])]

    def _on(self, places: Sequence[int], layers: Sequence[int]) -> Demands:
        """Some of the demands, on some of the layers."""
        now = {layer: at for at, layer in enumerate(layers)}
        parts = [self._parts[place] for place in places]
        again = [
            Demand(part.noise, part.limit, np.asarray([now[one] for one in part.layers], np.intp)) for part in parts
        ]
        return Demands([self.names[layer] for layer in layers], again)

    def quantized(self, kept: Collection[str]) -> Array:
        """A plan as the layers that it quantizes, bool [layers]."""
        inside = set(kept)
        return np.asarray([name not in inside for name in self.names], bool)

    def chance(self, plans: Array) -> Array:
        """The probability that plans, bool [plans, layers], meet the budget; float64 [plans]."""
        found = self._parts[0].chance(plans)
        for part in self._parts[1:]:
            found = found * part.chance(plans)
        return found

    def harm(self, base: Array) -> Array:
        """What quantizing each layer costs near a plan, bool [layers]: the noise that it adds; of several demands the
        noise over the limit, where it counts most for the output that is furthest over its own. float64 [layers].
        """
        if len(self._parts) == 1:
            return self._parts[0].added(base)
        added, level = self._by_part(base)
        return self._weights(level) @ added

    def orders(self, base: Array, price: Array, exponents: Sequence[float]) -> list[Array]:
        """Orders of the layers by what quantizing them costs over their price, to a power each, the costliest first.

        With several demands the layers that follow are weighed anew after each: once an output is within its limit,
        its layers are no longer the ones to keep float.

        Args:
            base: the plan near which layers are weighed, bool [layers].
            price: what keeping each layer float costs, float64 [layers].
            exponents: the powers.
        """
        if len(self._parts) == 1:
            harm = self.harm(base)
            return [np.argsort(-(harm / price**exponent), kind="stable") for exponent in exponents]
        added, _ = self._by_part(base)
        whole = np.ones(len(base), bool)
        all_of_it = np.exp(self._by_part(whole)[1])
        # noises add up to what all layers together make
        added = added * (all_of_it / np.maximum(added.sum(axis=1), 1e-300))[:, None]
        return [self._in_turn(added, price**exponent) for exponent in exponents]

    def _in_turn(self, added: Array, price: Array) -> Array:
        """The layer whose noise counts most for its price, then the next by what noise is left; int [layers]."""
        left, order = added.sum(axis=1), []
        open_ones = np.ones(added.shape[1], bool)
        for _ in range(added.shape[1]):
            worth = np.where(open_ones, self._weights(np.log(np.maximum(left, 1e-300))) @ added / price, -1.0)
            order.append(int(np.argmax(worth)))
            open_ones[order[-1]] = False
            left = np.maximum(left - added[:, order[-1]], 0.0)
        return np.asarray(order)

    def _by_part(self, base: Array) -> tuple[Array, Array]:
        """By demand what each layer adds to the noise, and the logarithm of the noise, both over the demand's limit.

        Returns:
            float64 [demands, layers] and [demands].
        """
        added, level = np.zeros((len(self._parts), len(self.names))), np.empty(len(self._parts))
        for row, (part, middle) in enumerate(zip(self._parts, self._middles)):
            own = base if part.columns is None else base[part.columns]
            # no noise is within any limit, even one of none
            excess = float(part.noise.of(own[None])[0][0]) - middle if own.any() else -np.inf
            level[row] = np.clip(excess, -_EXCESS, _EXCESS)
            places = slice(None) if part.columns is None else part.columns
            added[row, places] = np.exp(np.clip(np.log(part.added(base)) - middle, -_EXCESS, _EXCESS))
        return added, level

    @cached_property
    def _middles(self) -> list[float]:
        return [part.limit.middle for part in self._parts]

    @staticmethod
    def _weights(level: Array) -> Array:
        """What noise counts at each output, by the logarithm of its noise over the limit; at most 1, float64."""
        excess = np.clip(level, -_EXCESS, _EXCESS)
        return np.asarray(np.exp(_WORST_COUNTS * (excess - excess.max())))
