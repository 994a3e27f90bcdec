"""Where a pass has engines built and timed, as a pass sees it: what builds them is the backends' concern."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from toolkit.contract.findings import Finding
from toolkit.contract.plan import PrecisionPlan
from toolkit.contract.ranges import Ranges
from toolkit.graph.model import Model

Candidate = Callable[[Mapping[str, Finding]], tuple[Model, PrecisionPlan]]
"""The model and the plan with all pairs but those of the nodes named, each with the reason why it stays float."""

NOISE = 0.01
"""Engines of the same kernels that are measured in turn differ by as much."""
LONG = 60.0
"""Seconds from which on a build takes long. A recogniser of 10 MB with a dynamic width (TensorRT 8.6.0, H200) takes 273
to build in float16 at level 3 and 111 at level 2, its engine of level 2 runs 3.6 % slower."""
CLEARLY_FASTER = 0.95
"""Trials tell which of two engines is faster where they differ by more: what a build gains by a higher level was up to
5 % (a recogniser in float16 on an H200: 0.498 ms at level 3, 0.516 at 2, 0.524 at 1)."""
LEAST_MS = 0.001
"""Smaller differences count as none: CUDA events tell half a microsecond."""


@dataclass(frozen=True)
class TurnsFound:
    """Latencies of several engines that were measured in turn.

    Attributes:
        turns: by profile and engine the median milliseconds of each turn.
        lacks: by profile why it was not measured.
    """

    turns: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    lacks: Mapping[str, str] = field(default_factory=dict)


def ratio_in_turn(ours: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """An engine's latency over another's, both measured in the same turns, and what that may be off by.

    The ratio is the median of the turns' ratios: what the clocks do between two turns is in both engines. Its noise is
    half of what they lie apart, of five turns or more without the smallest and the largest, but at least ``NOISE``, and
    no less than ``LEAST_MS`` of the other's latency.

    Args:
        ours: median milliseconds of each turn.
        other: the other engine's, turn by turn.
    """
    ratios = sorted(mine / theirs for mine, theirs in zip(ours, other, strict=True))
    inner = ratios[1:-1] if len(ratios) >= 5 else ratios
    return statistics.median(ratios), max((inner[-1] - inner[0]) / 2, NOISE, LEAST_MS / statistics.median(other))


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one inference at a profile's opt shapes: median, and the 5th and 95th percentile."""

    ms: float
    low: float
    high: float

    @property
    def noise(self) -> float:
        """Half of the range between the percentiles, in milliseconds."""
        return max(self.high - self.low, 0.0) / 2


@dataclass(frozen=True)
class Measurement:
    """One engine, built and timed.

    Attributes:
        key: fingerprint of what was built; candidates that make the same engine have the same key.
        latency: by profile.
        ms: node to {profile: milliseconds}, where the engine tells, with the conversions that belong to the node.
        rest: profile to milliseconds of the engine's layers that belong to none of these nodes.
        ties: profile to sets of nodes whose times are known only together.
        lacks: profile to the error that kept its latency from being measured.
        reused: whether an earlier, interrupted run measured it.
        engine: the name that its engine is kept by; empty where it is not kept.
        anew: why an engine that was to be built by another GPU or beside others was built once more; empty where none
            was.
        ahead_s: seconds that building it took, where that was begun ahead.
        beside: how many engines were built beside it meanwhile.
    """

    key: str
    latency: dict[str, Latency]
    ms: dict[str, dict[str, float]] = field(default_factory=dict)
    rest: dict[str, float] = field(default_factory=dict)
    ties: dict[str, list[list[str]]] = field(default_factory=dict)
    lacks: dict[str, str] = field(default_factory=dict)
    reused: bool = False
    engine: str = ""
    anew: str = ""
    ahead_s: float = 0.0
    beside: int = 0


class Bench(Protocol):
    """Builds engines and times them; what it measured is kept, so that an interrupted search goes on."""

    @property
    def profiles(self) -> Sequence[str]:
        """Names of the profiles that are timed, the first one first; ``default`` where the recipe has none."""
        ...

    @property
    def prefers_speed(self) -> bool:
        """Whether a short time counts more than much in the quantized type."""
        ...

    @property
    def implicit(self) -> bool:
        """Whether TensorRT itself takes the faster of a layer's quantized and float kernels."""
        ...

    @property
    def has_rough(self) -> bool:
        """Whether an engine can be built in less time than a run's own."""
        ...

    @property
    def trial_seconds(self) -> float | None:
        """How long the first engine took that was built in less time, or the one that was begun ahead; None where there
        is none yet.
        """
        ...

    def float_ahead(
        self, model: Model, plan: PrecisionPlan, ranges: Ranges | None = None
    ) -> AbstractContextManager[None]:
        """In the block the engine of a model without pairs, as a run would build it, is built beside all else, where
        that can be: ``measure`` takes it then, also for a trial.
        """
        ...

    def make_room(self) -> bool:
        """Wait until another engine may be built here: for one begun ahead, unless that takes long and both fit.

        Returns:
            Whether it takes long, and is still being built.
        """
        ...

    def several(self) -> AbstractContextManager[None]:
        """In the block other GPUs build what ``ahead`` names, where work runs elsewhere and there are any."""
        ...

    @property
    def spare(self) -> int:
        """How many engines other GPUs would begin at once."""
        ...

    def ahead(
        self,
        model: Model,
        plan: PrecisionPlan,
        ranges: Ranges | None = None,
        *,
        float_only: bool = False,
        rough: bool = False,
    ) -> str:
        """Have a candidate's engine built by another GPU that is free: ``measure`` may be asked for it next.

        Returns:
            What ``forget`` knows it by.
        """
        ...

    def forget(self, engine: str) -> None:
        """Give up an engine that ``ahead`` was told of: its GPU is free for others."""
        ...

    def cannot_measure(self) -> str:
        """Why no latency can be measured here, in words; empty where it can."""
        ...

    def in_turn(self, *engines: str) -> TurnsFound | None:
        """Latencies of kept engines, measured in turn or found among what was measured before.

        Args:
            engines: the names that they are kept by.

        Returns:
            None where one of them is not kept any more.

        Raises:
            QtoolError: they cannot be measured.
        """
        ...

    def measure(
        self,
        model: Model,
        plan: PrecisionPlan,
        nodes: Collection[str],
        ranges: Ranges | None = None,
        *,
        float_only: bool = False,
        repeat: int = 0,
        anew: bool = False,
        rough: bool = False,
    ) -> Measurement:
        """Lower, build and time one candidate, or find it among what was measured before.

        Args:
            model: the graph with the candidate's Q/DQ pairs; not changed.
            plan: its plan.
            nodes: the nodes to tell the times of.
            ranges: amax by tensor, for implicit quantization, and the values seen, for float16's limits.
            float_only: nothing is to be quantized, implicitly either.
            repeat: 0; 1 to build and measure the same candidate once more, and so on.
            anew: build it although it was measured before.
            rough: build it in less time, as a trial that is only compared with others: unless its engine as a run
                would build it is there, or that is what tells whether it is slower than the float engine.

        Raises:
            QtoolError: the engine cannot be built or timed.
        """
        ...
