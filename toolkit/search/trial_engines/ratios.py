"""One engine's latency over another's: profile by profile, and their mean weighted by profile."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from toolkit.base.errors import BackendError
from toolkit.contract.bench import Bench, Latency, TurnsFound, ratio_in_turn
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal

Ratios = Mapping[str, tuple[float, float]]
"""By profile the latency over the other engine's, and what that may be off by."""


def ratios_in_turn(bench: Bench, own: str, base: str, again: Callable[[], None], journal: Journal) -> Ratios:
    """By profile the latency of one kept engine over another's, measured in turn.

    Args:
        bench: keeps both.
        own: the name that it is kept by; empty where it is not kept.
        base: the other's.
        again: builds both once more: an earlier run measured them, and their files have gone.
        journal: gets what was not measured that way, and why.

    Returns:
        What was measured; each build's own numbers count for the rest.
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
    """Ratios in turn, and for other profiles those of two separate measurements, whose errors are independent.

    Args:
        own: an engine's latencies by profile; at least for those of ``base``.
        base: the other's.
        turns: what ``ratios_in_turn`` returned.
    """
    return {
        profile: turns.get(profile) or (own[profile].ms / one.ms, math.hypot(own[profile].noise, one.noise) / one.ms)
        for profile, one in base.items()
    }


class ProfileWeights:
    """The weights of profiles.

    Args:
        weights: by profile; 1 where not named.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = dict(weights)

    def __bool__(self) -> bool:
        """Whether any profile is weighted."""
        return bool(self._weights)

    def of(self, profile: str) -> float:
        """What one profile counts for."""
        return self._weights.get(profile, 1.0)

    def mean(self, values: Mapping[str, float]) -> float:
        """The weighted mean of a value by profile; infinite where none of them counts."""
        total = sum(map(self.of, values))
        return sum(self.of(profile) * value for profile, value in values.items()) / total if total else math.inf

    def score(self, found: Ratios) -> tuple[float, float]:
        """The mean ratio, below 1 is faster, and what it may be off by; the profiles' errors are independent."""
        total = sum(map(self.of, found))
        noise = math.hypot(*(self.of(profile) * noise for profile, (_, noise) in found.items()))
        return self.mean({profile: ratio for profile, (ratio, _) in found.items()}), noise / total if total else 0.0

    def slower(self, found: Ratios) -> list[str]:
        """The profiles that count in which an engine is slower by more than the noise."""
        return [profile for profile, (ratio, noise) in found.items() if ratio > 1 + noise and self.of(profile) > 0]

    def faster(self, found: Ratios) -> bool:
        """Whether an engine is faster by more than the noise, and slower in no profile."""
        ratio, noise = self.score(found)
        return not self.slower(found) and ratio + noise < 1
