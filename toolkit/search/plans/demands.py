"""How much noise a plan may have, as far as it is known: in total, or per output if outputs have their own limits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property, reduce

import numpy as np

from toolkit.base.types import Array
from toolkit.search.plans.plan_noise import NoiseLimit, PlanNoise

_WORST_COUNTS = 3
"""The power of an output's noise over its limit in that output's weight: the output furthest over its limit decides."""
_EXCESS = 20.0
"""In nepers: distances from a limit are clipped to this in either direction."""


class Demand:
    """A limit on noise, and a model of the noise of plans that it limits.

    Args:
        noise: the noise model of the layers that contribute to it.
        limit: what is known of the limit.
        columns: the indices of these layers among all, int [layers of ``noise``]; None if they are all of the layers.
    """

    def __init__(self, noise: PlanNoise, limit: NoiseLimit, columns: Array | None = None) -> None:
        self.noise, self.limit, self.columns = noise, limit, columns

    @property
    def layers(self) -> list[int]:
        """The indices of the contributing layers; empty if they are all of the layers."""
        return [int(place) for place in self.columns] if self.columns is not None else []

    def chance(self, plans: Array) -> Array:
        """The probability that plans, bool [plans, all layers], are within the limit; float64 [plans]."""
        if self.columns is None:
            return self.limit.chance(*self.noise.of(plans))
        # plans that differ only in other layers are evaluated once
        own = np.ascontiguousarray(plans[:, self.columns])
        packed = np.packbits(own, axis=1)
        _, first, same = np.unique(packed.view(np.dtype((np.void, packed.shape[1]))), return_index=True,
                                   return_inverse=True)  # fmt: skip
        return self.limit.chance(*self.noise.of(own[first]))[same.reshape(-1)]

    def added(self, base: Array) -> Array:
        """The noise that each layer adds near a plan, bool [all layers]; float64 [layers of this demand]."""
        base = base if self.columns is None else base[self.columns]
        count = len(base)
        on, off = np.repeat(base[None], count, 0), np.repeat(base[None], count, 0)
        on[np.arange(count), np.arange(count)], off[np.arange(count), np.arange(count)] = True, False
        with_it, without = (np.exp(self.noise.of(plans)[0]) for plans in (on, off))
        return np.maximum(with_it - np.where(off.any(axis=1), without, 0.0), 1e-3 * self.noise.harm)


class Demands:
    """All demands on a plan; the plan meets the budget if it is within the limit of each.

    Args:
        names: the layers.
        parts: the demands; if there are several, they are taken as independent.
    """

    def __init__(self, names: Sequence[str], parts: Sequence[Demand]) -> None:
        self.names, self._parts = list(names), list(parts)

    def apart(self) -> list[tuple[list[int], Demands]]:
        """Groups of demands that share no layer: for each group the indices of its demands, and demands on its layers.

        Layers that contribute to no demand are in no group.
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
        """The demands with these indices, restricted to these layers."""
        now = {layer: at for at, layer in enumerate(layers)}
        parts = [self._parts[place] for place in places]
        again = [
            Demand(part.noise, part.limit, np.asarray([now[one] for one in part.layers], np.intp)) for part in parts
        ]
        return Demands([self.names[layer] for layer in layers], again)

    def quantized(self, kept: Collection[str]) -> Array:
        """A plan as a mask of the layers that it quantizes, bool [layers]."""
        inside = set(kept)
        return np.asarray([name not in inside for name in self.names], bool)

    def chance(self, plans: Array) -> Array:
        """The probability that plans, bool [plans, layers], meet the budget; float64 [plans]."""
        found = self._parts[0].chance(plans)
        for part in self._parts[1:]:
            found = found * part.chance(plans)
        return found

    def harm(self, base: Array) -> Array:
        """The cost in noise of quantizing each layer near a plan, bool [layers]; float64 [layers].

        With one demand it is the noise that the layer adds. With several it is that noise over each limit, summed with
        weights that are largest for the output furthest over its limit.
        """
        if len(self._parts) == 1:
            return self._parts[0].added(base)
        added, level = self._by_part(base)
        return self._weights(level) @ added

    def orders(self, base: Array, price: Array, exponents: Sequence[float]) -> list[Array]:
        """Orders of the layers by the noise that quantizing them adds, over a power of their price, largest first.

        With several demands the remaining layers are weighed again after each layer: once an output is within its
        limit, its layers are no longer the ones to keep float.

        Args:
            base: the plan near which layers are weighed, bool [layers].
            price: the cost of keeping each layer float, float64 [layers].
            exponents: the powers of the price, one per order.

        Returns:
            For each exponent the layers' indices, int [layers].
        """
        if len(self._parts) == 1:
            harm = self.harm(base)
            return [np.argsort(-(harm / price**exponent), kind="stable") for exponent in exponents]
        added, _ = self._by_part(base)
        whole = np.ones(len(base), bool)
        all_of_it = np.exp(self._by_part(whole)[1])
        # scale each demand's noises so that they sum to the noise of all layers together
        added = added * (all_of_it / np.maximum(added.sum(axis=1), 1e-300))[:, None]
        return [self._in_turn(added, price**exponent) for exponent in exponents]

    def _in_turn(self, added: Array, price: Array) -> Array:
        """The layer whose noise counts most for its price, then the next given the noise that is left; int [layers]."""
        left, order = added.sum(axis=1), []
        open_ones = np.ones(added.shape[1], bool)
        for _ in range(added.shape[1]):
            worth = np.where(open_ones, self._weights(np.log(np.maximum(left, 1e-300))) @ added / price, -1.0)
            order.append(int(np.argmax(worth)))
            open_ones[order[-1]] = False
            left = np.maximum(left - added[:, order[-1]], 0.0)
        return np.asarray(order)

    def _by_part(self, base: Array) -> tuple[Array, Array]:
        """The noise that each layer adds per demand, and the logarithm of the plan's noise, both relative to the limit.

        Returns:
            float64 [demands, layers] and [demands].
        """
        added, level = np.zeros((len(self._parts), len(self.names))), np.empty(len(self._parts))
        for row, (part, middle) in enumerate(zip(self._parts, self._middles)):
            own = base if part.columns is None else base[part.columns]
            # no noise is within any limit, even a limit of 0
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
        """The weight of each output's noise, given the logarithm of its noise over the limit; float64, at most 1."""
        excess = np.clip(level, -_EXCESS, _EXCESS)
        return np.asarray(np.exp(_WORST_COUNTS * (excess - excess.max())))
