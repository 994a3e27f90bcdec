"""The inputs and results of a search over measured engines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from toolkit.contract.bench import Latency
from toolkit.contract.findings import Finding


@dataclass(frozen=True)
class Unit:
    """A quantized node that may lose its pairs.

    Attributes:
        name: the node's name.
        role: its operator and weight shape; units of the same role are tried together.
        size: number of elements of its weight.
    """

    name: str
    role: str
    size: int = 0


@dataclass
class Trial:
    """One engine, built and measured.

    Attributes:
        kept: the units that stay float in it.
        latency: by profile.
        ms: unit to {profile: milliseconds}, if the engine reports them.
        ties: sets of units whose times are only known together.
        key: fingerprint of what was built; placements that result in the same engine have the same key.
        turns: by profile the latency relative to the float engine's and its noise, if both were measured in turn.
    """

    kept: frozenset[str]
    latency: dict[str, Latency]
    ms: dict[str, dict[str, float]] = field(default_factory=dict)
    ties: list[list[str]] = field(default_factory=list)
    key: str = ""
    turns: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass
class PayoffResult:
    """The result of a ``PayoffSearch``.

    Attributes:
        kept: the units that stay float; all of them if no placement of pairs is faster.
        reasons: for each of these units the reason.
        best: the quantized engine with the lowest latency, None if none could be built.
        without: the engine without pairs.
        score: the best engine's latency over the float engine's, see ``PayoffSearch.score``; infinite without one.
        noise: the noise of ``score``.
        builds: how many engines were built, including failed builds.
    """

    kept: frozenset[str]
    reasons: dict[str, Finding]
    best: Trial | None
    without: Trial
    score: float
    noise: float
    builds: int


def latencies(trial: Trial, without: Trial) -> dict[str, Any]:
    """The values of a finding: both engines' milliseconds per profile."""
    profiles = list(trial.latency)
    return {
        "profiles": profiles,
        "ms": [trial.latency[name].ms for name in profiles],
        "without_ms": [without.latency[name].ms for name in profiles],
    }
