"""Plans near a good one that are better if they hold: layers given back, and others kept in their place."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from itertools import combinations

import numpy as np

from toolkit.base.types import Array

_SPREAD = 0.35
"""Standard deviation of what a sum of harms says of a plan's noise, in nepers: 1.5 dB."""
_LEAST_CHANCE = 0.15
_MOST_LEARNT = 20.0


class Swaps:
    """Proposes plans by what their layers harm and what keeping them float costs.

    The noise of a plan is that of the best one with the harm of what is given back added and that of what is kept
    instead taken off; what a plan then really shows is what its layers' harm is from then on, so that layers which are
    good only together are proposed together.

    Args:
        harm: by layer the noise that it adds when it is quantized.
        price: by layer what keeping it float costs.
    """

    def __init__(self, harm: Mapping[str, float], price: Mapping[str, float]) -> None:
        finite = [value for value in harm.values() if math.isfinite(value)]
        # what was too little to be measured is little and not nothing
        least = max(max(finite, default=0.0) * 1e-4, 1e-30)
        most = max(max(finite, default=1.0), least) * 1e3
        self._harm = {name: min(max(value, least), most) for name, value in harm.items()}
        self._price = dict(price)
        self._within, self._beyond = 0.0, math.inf

    def saw(self, noise: float, meets: bool) -> None:
        """Take in how noisy a plan was that met the budget, or did not."""
        if meets:
            self._within = max(self._within, noise)
        elif noise > self._within:
            self._beyond = min(self._beyond, noise)

    def learn(self, best: Collection[str], noise: float, tried: Collection[str], found: float) -> None:
        """Take in the noise of a plan that was tried, where the best one had ``noise``."""
        back, instead = set(best) - set(tried), set(tried) - set(best)
        added, saved = (sum(self._harm[name] for name in names) for names in (back, instead))
        if back and math.isfinite(found):
            factor = (found - noise + saved) / added
            for name in back:
                self._harm[name] *= min(max(factor, 1 / _MOST_LEARNT), _MOST_LEARNT)

    def best(self, kept: Collection[str], noise: float, known: Callable[[frozenset[str]], bool]) -> list[str] | None:
        """The plan near this one whose gain, times its chance to meet the budget, is largest; None where none is left.

        Args:
            kept: what stays float in the best plan so far.
            noise: what that plan shows.
            known: whether a plan was tried.
        """
        names = sorted(self._harm)
        inside, outside = [n for n in names if n in set(kept)], [n for n in names if n not in set(kept)]
        moves: list[tuple[float, tuple[str, ...], tuple[str, ...]]] = []
        for given, taken in ((1, 0), (2, 0), (1, 1), (2, 1), (1, 2)):
            backs, instead = list(combinations(inside, given)), list(combinations(outside, taken))
            scores = self._scores(backs, instead, noise)
            for place in np.argsort(-scores, axis=None, kind="stable")[: 4 * len(names)]:
                row, column = divmod(int(place), max(len(instead), 1))
                if scores[row, column] > 0:
                    moves.append((float(scores[row, column]), backs[row], instead[column]))
        for _, back, taken_instead in sorted(moves, key=lambda move: -move[0]):
            plan = (set(kept) - set(back)) | set(taken_instead)
            if not known(frozenset(plan)):
                return sorted(plan)
        return None

    def _scores(self, backs: list[tuple[str, ...]], instead: list[tuple[str, ...]], noise: float) -> Array:
        """[backs, instead]: the gain in price, times the chance that the plan meets the budget; 0 where it is small."""

        def total(sets: list[tuple[str, ...]], of: Mapping[str, float]) -> Array:
            return np.asarray([sum(of[name] for name in names) for names in sets], np.float64)

        if not backs or not instead:
            return np.zeros((len(backs), len(instead)))
        gain = total(backs, self._price)[:, None] - total(instead, self._price)[None]
        added = total(backs, self._harm)[:, None] - total(instead, self._harm)[None]
        floor = noise * 1e-2
        predicted = np.log(np.maximum(noise + added, max(floor, 1e-300)))
        within = max(self._within, noise)
        limit = math.log(max(within, 1e-300))
        if math.isfinite(self._beyond):
            limit = (limit + math.log(max(self._beyond, within, 1e-300))) / 2
        else:
            limit += _SPREAD
        chance = 1 / (1 + np.exp(np.clip(1.7 * (predicted - limit) / _SPREAD, -50, 50)))
        return np.asarray(np.where((gain > 0) & (chance > _LEAST_CHANCE), gain * chance, 0.0))
