"""How a pass has engines built and timed; building them is up to the backends."""

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
"""The model and the plan with all pairs except those of the nodes named, each with the reason why it stays in float."""

NOISE = 0.01
"""Engines with the same kernels, measured in turn, differ by up to this ratio."""
LONG = 60.0
"""Seconds above which a build counts as long. A recogniser of 10 MB with a dynamic width (TensorRT 8.6.0, H200) takes
273 to build in float16 at level 3 and 111 at level 2, its engine of level 2 runs 3.6 % slower."""
CLEARLY_FASTER = 0.95
"""Trials show which of two engines is faster if they differ by more: a higher level gained up to 5 % (a recogniser in
float16 on an H200: 0.498 ms at level 3, 0.516 at 2, 0.524 at 1)."""
LEAST_MS = 0.001
"""Smaller differences count as none: CUDA events resolve half a microsecond."""


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
    """An engine's latency relative to another's, both measured in the same turns, and its uncertainty.

    The ratio is the median of the turns' ratios: clock changes between two turns affect both engines. Its noise is half
    their spread, for five turns or more without the smallest and the largest, but at least ``NOISE``, and no less than
    ``LEAST_MS`` of the other's latency.

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
        ms: node to {profile: milliseconds}, where the engine reports them, including the node's conversions.
        rest: profile to milliseconds of the engine's layers that belong to none of these nodes.
        ties: profile to sets of nodes whose times are known only together.
        lacks: profile to the error that prevented measuring its latency.
        reused: whether an earlier, interrupted run measured it.
        engine: the name that its engine is kept under; empty if it is not kept.
        rebuilt: why an engine to be built by another GPU or in parallel with others was built again; empty if none was.
        prebuild_s: seconds that building it took, if the build was started early.
        parallel: how many engines were built in parallel with it.
    """

    key: str
    latency: dict[str, Latency]
    ms: dict[str, dict[str, float]] = field(default_factory=dict)
    rest: dict[str, float] = field(default_factory=dict)
    ties: dict[str, list[list[str]]] = field(default_factory=dict)
    lacks: dict[str, str] = field(default_factory=dict)
    reused: bool = False
    engine: str = ""
    rebuilt: str = ""
    prebuild_s: float = 0.0
    parallel: int = 0


class Bench(Protocol):
    """Builds engines and times them; measurements are kept, so that an interrupted search can resume."""

    @property
    def profiles(self) -> Sequence[str]:
        """Names of the profiles that are timed, the first one first; ``default`` where the recipe has none."""
        ...

    @property
    def prefers_speed(self) -> bool:
        """Whether low latency counts more than a large share in the quantized type."""
        ...

    @property
    def implicit(self) -> bool:
        """Whether TensorRT itself takes the faster of a layer's quantized and float kernels."""
        ...

    @property
    def has_trial_level(self) -> bool:
        """Whether an engine can be built in less time than a run's own."""
        ...

    @property
    def trial_seconds(self) -> float | None:
        """How long the first engine built in less time took, or the one started early; None if there is none yet."""
        ...

    def prebuild_float(
        self, model: Model, plan: PrecisionPlan, ranges: Ranges | None = None
    ) -> AbstractContextManager[None]:
        """Within the block, if possible, build the engine of a model without pairs in parallel, as a run would build
        it; ``measure`` then uses it, also for a trial.
        """
        ...

    def make_room(self) -> bool:
        """Wait until another engine may be built here: for a build started early, unless it takes long and both fit.

        Returns:
            Whether that build takes long and is still running.
        """
        ...

    def remote_builds(self) -> AbstractContextManager[None]:
        """Within the block, other GPUs build what ``prebuild`` names, if work is distributed and there are any."""
        ...

    @property
    def free_gpus(self) -> int:
        """How many engines other GPUs could start building right now."""
        ...

    def prebuild(
        self,
        model: Model,
        plan: PrecisionPlan,
        ranges: Ranges | None = None,
        *,
        float_only: bool = False,
        trial: bool = False,
    ) -> str:
        """Have a candidate's engine built on another free GPU, for a later ``measure``.

        Returns:
            The key that ``forget`` takes.
        """
        ...

    def forget(self, engine: str) -> None:
        """Abandon a build that ``prebuild`` started, which frees its GPU."""
        ...

    def cannot_measure(self) -> str:
        """Why no latency can be measured here, in words; empty if it can."""
        ...

    def in_turn(self, *engines: str) -> TurnsFound | None:
        """Latencies of kept engines, measured in turn or taken from earlier measurements.

        Args:
            engines: the names that they are kept under.

        Returns:
            None if one of them is no longer kept.

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
        rebuild: bool = False,
        trial: bool = False,
    ) -> Measurement:
        """Lower, build and time one candidate, or return an earlier measurement of it.

        Args:
            model: the graph with the candidate's Q/DQ pairs; not changed.
            nodes: the nodes whose times are reported.
            ranges: amax by tensor, for implicit quantization, and the values seen, for float16's limits.
            float_only: quantize nothing, not even implicitly.
            repeat: 0; 1 to build and measure the same candidate again, and so on.
            rebuild: build it even if it was measured before.
            trial: build it in less time, as a trial that is only compared with others, unless its engine as a run would
                build it exists, or is needed to tell whether it is slower than the float engine.

        Raises:
            QtoolError: the engine cannot be built or timed.
        """
        ...
