"""What a search over measured engines decides on, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from toolkit.contract.bench import Latency
from toolkit.contract.findings import Finding


@dataclass(frozen=True)
class Unit:
    """A node that placement quantizes.

    Attributes:
        name: the node's name.
        role: its operator and its weight's shape; units of the same role are tried together.
        size: elements of its weight.
    """

    name: str
    role: str
    size: int = 0


@dataclass
class Trial:
    """One engine, built and measured.

    Attributes:
        kept: the units that stayed float in it.
        latency: by profile.
        ms: unit to {profile: milliseconds}, where the engine reports it.
        ties: sets of units whose times are known only together.
        key: fingerprint of what was built; placements that make the same engine have the same key.
        turns: by profile the latency over the float engine's and what it may be off by, where both were measured in
            turn.
    """

    kept: frozenset[str]
    latency: dict[str, Latency]
    ms: dict[str, dict[str, float]] = field(default_factory=dict)
    ties: list[list[str]] = field(default_factory=list)
    key: str = ""
    turns: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass
class PayoffResult:
    """What the search found.

    Attributes:
        kept: the units that stay float: all of them where no placement of pairs is faster.
        reasons: why, for each of them.
        best: the quantized engine with the least latency, None where none could be built.
        without: the engine without pairs.
        score: the best engine's mean over the profiles of latency over the float engine's.
        noise: what ``score`` may be off by.
        builds: engines that were built and measured.
    """

    kept: frozenset[str]
    reasons: dict[str, Finding]
    best: Trial | None
    without: Trial
    score: float
    noise: float
    builds: int


def latencies(trial: Trial, without: Trial) -> dict[str, Any]:
    """Values of a finding: both engines' milliseconds, profile by profile."""
    profiles = list(trial.latency)
    return {
        "profiles": profiles,
        "ms": [trial.latency[name].ms for name in profiles],
        "without_ms": [without.latency[name].ms for name in profiles],
    }
