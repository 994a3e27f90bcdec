"""The ratio of two engines' latencies, per profile and as a weighted mean over profiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from toolkit.base.errors import BackendError
from toolkit.contract.bench import Bench, Latency, TurnsFound, ratio_in_turn
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal

Ratios = Mapping[str, tuple[float, float]]
"""For each profile the latency relative to the other engine's, and the noise of this ratio."""


def ratios_in_turn(bench: Bench, own: str, base: str, again: Callable[[], None], journal: Journal) -> Ratios:
    """For each profile the ratio of two stored engines' latencies, measured in turn.

    Args:
        bench: stores both engines.
        own: the key under which the engine is stored; empty if it is not stored.
        base: the key of the other engine.
        again: builds both again, if an earlier run measured them and their files are gone.
        journal: gets the profiles that could not be measured in turn, and why.

    Returns:
        The measured profiles; for the others the separate measurements are used.
    """
    if not (own and base):
        return {}
    try:
        measured = bench.in_turn(base, own)
        if measured is None:
            again()
            measured = bench.in_turn(base, own) or TurnsFound()
    except BackendError as error:
        measured = TurnsFound(lacks=dict.fromkeys(bench.profiles, str(error)))
    for profile, why in measured.lacks.items():
        journal.noted(Code.NOT_IN_TURN(profile=profile, why=why))
    return {profile: ratio_in_turn(turns[own], turns[base]) for profile, turns in measured.turns.items()}


def ratios(own: Mapping[str, Latency], base: Mapping[str, Latency], turns: Ratios) -> Ratios:
    """Ratios measured in turn; for other profiles those of two separate measurements, with independent errors.

    Args:
        own: an engine's latencies by profile, with at least the profiles of ``base``.
        base: the other engine's latencies.
        turns: the result of ``ratios_in_turn``.
    """
    return {
        profile: turns.get(profile) or (own[profile].ms / one.ms, math.hypot(own[profile].noise, one.noise) / one.ms)
        for profile, one in base.items()
    }


class ProfileWeights:
    """The weights of profiles in comparisons of engines.

    Args:
        weights: by profile name; 1 for profiles that are not named.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = dict(weights)

    def __bool__(self) -> bool:
        """Whether any profile is weighted."""
        return bool(self._weights)

    def of(self, profile: str) -> float:
        """One profile's weight."""
        return self._weights.get(profile, 1.0)

    def mean(self, values: Mapping[str, float]) -> float:
        """The weighted mean of a value over the profiles; infinite if all weights are 0."""
        total = sum(map(self.of, values))
        return sum(self.of(profile) * value for profile, value in values.items()) / total if total else math.inf

    def score(self, found: Ratios) -> tuple[float, float]:
        """The mean ratio, below 1 if faster, and its noise; the profiles' errors are independent."""
        total = sum(map(self.of, found))
        noise = math.hypot(*(self.of(profile) * noise for profile, (_, noise) in found.items()))
        return self.mean({profile: ratio for profile, (ratio, _) in found.items()}), noise / total if total else 0.0

    def slower(self, found: Ratios) -> list[str]:
        """The profiles with a weight in which an engine is slower by more than the noise."""
        return [profile for profile, (ratio, noise) in found.items() if ratio > 1 + noise and self.of(profile) > 0]

    def faster(self, found: Ratios) -> bool:
        """Whether an engine is faster by more than the noise, and slower in no profile."""
        ratio, noise = self.score(found)
        return not self.slower(found) and ratio + noise < 1
