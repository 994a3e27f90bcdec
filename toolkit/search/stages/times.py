"""Layer times for a search: from the reports of earlier runs, or from engines that are built for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from toolkit.base.errors import BackendError, QtoolError
from toolkit.base.gpu import find_gpu
from toolkit.base.precision import Precision
from toolkit.contract.bench import CLEARLY_FASTER, Bench, Candidate, Measurement
from toolkit.contract.context import Context
from toolkit.contract.findings import Code, Finding
from toolkit.contract.ranges import Ranges
from toolkit.search.codes import TrialCode
from toolkit.search.cost.gpus import GpuSpec, gpu_spec, known_as
from toolkit.search.cost.layer_times import LayerTimes, read_times
from toolkit.search.plans.search import SearchResult
from toolkit.search.plans.searched_plan import SearchedPlan
from toolkit.search.trial_engines.quick_builds import compared, trial_takes_long, trials_pay

if TYPE_CHECKING:
    from toolkit.evaluation.budget import Budget
    from toolkit.search.cost.cost_model import CostModel


def earlier_times(
    paths: Sequence[str], layers: Sequence[str], quantized: Precision, context: Context, gpu: str
) -> LayerTimes:
    """The layer times in the reports of earlier runs, at the opt shapes of this run's first profile.

    Args:
        paths: report.json files or run folders, as the recipe names them.
        layers: names of the layers that can be quantized.
        quantized: the quantized precision.
        context: holds the profiles, the float type and the source model, and gets a note for each report.
        gpu: the GPU that missing times are predicted for.

    Raises:
        RecipeError: see ``read_times``.
    """
    first = next(iter(context.profiles), None)
    found = read_times(
        [context.base / path for path in paths],
        layers, quantized, context.rest, first.name if first is not None else "",
        {name: extent.opt for name, extent in first.shapes.items()} if first is not None else None,
        context.source.fingerprint() if context.source is not None else "", gpu,
    )  # fmt: skip
    for note in found.notes:
        context.journal.noted(note)
    return found


def gpu_for(asked: str, context: Context) -> GpuSpec:
    """The GPU that times are predicted for: the requested one, else the local one, else an A10.

    Raises:
        RecipeError: there are no datasheet figures for the requested GPU.
    """
    here = None if asked else find_gpu()
    found = known_as(here.name) if here is not None else None
    if here is not None and found is None:
        context.journal.noted_once(Code.GPU_UNKNOWN(gpu=here.name, predicted_for=_GPU))
    return found or gpu_spec(asked or _GPU)


_GPU = "A10"
CLEARLY = 1.01
"""A plan in between must be this many times faster than both ends: engines of the same kernels differ by 1 to 2 %."""


@dataclass
class _EngineTime:
    """One engine's measurements in milliseconds, at the first profile's opt shapes.

    Attributes:
        latency: of one inference.
        ms: for each layer its time, with conversions and everything else that belongs to it.
        rest: the time of engine layers that belong to no layer of the model.
        ties: sets of layers that share a kernel or block.
    """

    latency: float
    ms: dict[str, float] = field(default_factory=dict)
    rest: float = 0.0
    ties: list[list[str]] = field(default_factory=list)

    @classmethod
    def of(cls, found: Measurement, profile: str) -> _EngineTime:
        """Extract the measurement at one profile."""
        ms = {name: times[profile] for name, times in found.ms.items() if profile in times}
        return cls(found.latency[profile].ms, ms, found.rest.get(profile, 0.0), found.ties.get(profile, []))


@dataclass
class KnownTimes:
    """What a search knows of latencies before it measures accuracy.

    Attributes:
        layers: measured layer times; empty if nothing was measured.
        ends: by the groups kept float, none or all, the measured latency in seconds.
        nothing_pays: whether the search optimizes time and no plan is predicted to be faster than float.
    """

    layers: LayerTimes
    ends: dict[tuple[str, ...], float] = field(default_factory=dict)
    nothing_pays: bool = False


class EngineTimes:
    """Has engines of a search's plans built, and returns their latencies and layer times.

    Args:
        candidate: creates the model and plan in which the named layers stay float.
        searched: the layers that the search decides on.
        work: multiply-accumulates of these layers and all other convolutions and matrix products; layers with an
            unknown count are left out.
        bench: builds and measures engines.
        ranges: the ranges that the pairs are made from.
        context: for notes and progress.
        quantized: the quantized precision.
        by: the pass that searches, for the progress bar.
    """

    def __init__(
        self,
        candidate: Candidate,
        searched: Collection[str],
        work: Mapping[str, int],
        bench: Bench,
        ranges: Ranges | None,
        context: Context,
        quantized: Precision,
        by: str,
    ) -> None:
        self.candidate, self.searched, self.work = candidate, sorted(searched), work
        self.bench, self.ranges, self.context, self.quantized, self.by = bench, ranges, context, quantized, by
        self.profile = bench.profiles[0]
        self._built: set[frozenset[str]] = set()

    @property
    def margin(self) -> float:
        """The ratio of an engine's time to a plan's predicted time from which on the plan's engine is built.

        If building takes long, engines are trial builds at other optimization levels; a gain that their comparison
        would not show is not worth minutes of building.
        """
        return 1 / CLEARLY_FASTER if self.take_long else CLEARLY

    @property
    def take_long(self) -> bool:
        """Whether a trial has shown that building takes long."""
        return trial_takes_long(self.bench)

    def layers(self) -> LayerTimes:
        """Layer times from two engines: one with every layer quantized, and one with none.

        Each engine's layer times are scaled so that their sum is its latency, since the profiler adds time to every
        layer; the time of engine layers that belong to no layer is the rest. Layers that either engine runs in a block
        get shares of its time in proportion to their multiply-accumulates, in both engines.

        Returns:
            Empty if an engine cannot be built or measured; the journal says why.
        """
        try:
            with self.bench.remote_builds():
                self._prebuild(self.searched)
                self._engine(())
                plain = self._engine(self.searched)
                # trial builds that do not show which engine is faster are built again with the run's settings
                small = self._engine(())
        except QtoolError as error:
            self.note(Code.TIMES_PREDICTED(why=str(error)))
            return LayerTimes()
        shared = _shared(small, plain, self.work)
        eight, half = _spread(small, shared, self.work), _spread(plain, shared, self.work)
        rest = plain.rest * _factor(plain)
        found = LayerTimes(rest=rest / 1e3, borders=True)
        gpu = find_gpu()
        found.gpu = gpu.name if gpu else ""
        found.seconds = {(name, False): ms / 1e3 for name, ms in half.items()}
        # float layers of both engines take their time in the plain engine: the difference is the quantized layers'
        fixed = sum(ms for name, ms in half.items() if name not in self.searched) + rest
        own = sum(ms for name, ms in eight.items() if name in self.searched)
        factor = max((small.latency - fixed) / own, 0.0) if own else 0.0
        found.seconds |= {(n, True): eight[n] * factor / 1e3 for n in self.searched if n in eight}
        self.note(
            Code.TIMES_MEASURED(
                gpu=found.gpu, profile=self.profile, layers=len(self.searched), quantized=self.quantized,
                ms=small.latency, rest=self.context.rest, rest_ms=plain.latency,
                sharing=len({name for group in shared for name in group}), by_layer=bool(small.ms and plain.ms),
            )
        )  # fmt: skip
        if later := self.context.following:
            self.note(Code.LATER_PASSES(passes=later))
        return found

    def whole(self, kept: Iterable[str]) -> float | None:
        """Latency in seconds of the plan that keeps these layers float; None, with a note, if it cannot be measured."""
        try:
            return self._engine(kept).latency / 1e3
        except QtoolError as error:
            self.note(Code.PLAN_NOT_TIMED(error=str(error)))
            return None

    def ends(self) -> dict[tuple[str, ...], float]:
        """Latency in seconds of the engines with every layer quantized and with none, by the layers kept float."""
        found = {end: self.whole(end) for end in ((), tuple(self.searched))}
        return {end: seconds for end, seconds in found.items() if seconds is not None}

    def note(self, what: Finding) -> None:
        """Add a finding to the journal."""
        self.context.journal.noted(what)

    def _prebuild(self, kept: Iterable[str]) -> None:
        """Have the engine that is measured next built on another GPU, if one is free."""
        if self.bench.free_gpus:
            left = frozenset(kept)
            model, plan = self.candidate(dict.fromkeys(left, Code.TRIAL()))
            bare, trial = left == set(self.searched), trials_pay(self.bench)
            self.bench.prebuild(model, plan, self.ranges, float_only=bare, trial=trial)

    def _engine(self, kept: Iterable[str]) -> _EngineTime:
        """Build and measure one plan's engine."""
        left = frozenset(kept)
        self.context.progress(f"{self.by}: engines", len(self._built), 3)
        model, plan = self.candidate(dict.fromkeys(left, Code.TRIAL()))
        bare = left == set(self.searched)
        found = compared(self.bench, model, plan, self.work, self.ranges, self.context.journal, float_only=bare)
        if self.profile not in found.latency:
            raise BackendError(
                f"the latency of profile '{self.profile}' was not measured: {found.lacks.get(self.profile, '')}",
                where=self.by,
                remedy="set measure = false in the pass to search with predicted times",
            )
        self._built.add(left)
        return _EngineTime.of(found, self.profile)


def confirmed(found: SearchResult, cost: CostModel, engines: EngineTimes, budget: Budget) -> SearchResult:
    """Measure the chosen plan's engine, and choose another plan if it is faster.

    A plan between all layers quantized and none is chosen by sums of layer times; it is kept only if its engine is
    faster than both ends by more than the noise. If building takes long and no such gain is predicted, it is not built.
    """
    chosen, names = found.best, tuple(engines.searched)
    if not chosen.meets or chosen.kept in ((), names):
        return found
    ends = [plan for plan in found.plans if plan.meets and plan.kept in ((), names)]
    if not any(plan.kept == names for plan in ends):
        time = cost.time(names)
        ends.append(
            SearchedPlan(names, {}, found.reference, budget.lacks(found.reference, found.reference, time), time, 0.0)
        )
    best = min(ends, key=lambda plan: plan.seconds)
    timed = {"predicted_ms": chosen.seconds * 1e3}
    if best.meets and engines.take_long and best.seconds < chosen.seconds * engines.margin:
        _take(best, found)
        engines.note(TrialCode.PLAN_NOT_BUILT(**timed, taken_ms=best.seconds * 1e3, all_quantized=not best.kept))
        return found
    seconds = engines.whole(chosen.kept)
    if seconds is None:
        return found
    timed["ms"] = seconds * 1e3
    cost.learn(chosen.kept, seconds)
    found.plans[:] = [
        replace(plan, seconds=seconds, lacks=budget.lacks(plan.outcome, found.reference, seconds))
        if plan.kept == chosen.kept else plan for plan in found.plans
    ]  # fmt: skip
    found.best = next(plan for plan in found.plans if (plan.kept, plan.amax) == (chosen.kept, chosen.amax))
    if best.meets and (best.seconds < seconds * CLEARLY or not found.best.meets):
        _take(best, found)
        timed["taken_ms"] = best.seconds * 1e3
    engines.note(Code.PLAN_TIMED(**timed, all_quantized=not found.best.kept))
    return found


def _take(best: SearchedPlan, found: SearchResult) -> None:
    """Make ``best`` the plan that was found, last in the list of plans."""
    found.best = best
    found.plans[:] = [*(plan for plan in found.plans if plan is not best), best]


def _factor(engine: _EngineTime) -> float:
    """The factor that scales an engine's layer times to its latency."""
    total = sum(engine.ms.values()) + engine.rest
    return engine.latency / total if total else 1.0


def _shared(first: _EngineTime, second: _EngineTime, work: Mapping[str, int]) -> list[set[str]]:
    """Sets of layers that either engine runs together, merged if they overlap; one set of all if one has no times."""
    if not (first.ms and second.ms):
        return [set(work)]
    found: list[set[str]] = []
    for tie in map(set, [*first.ties, *second.ties]):
        touching = [group for group in found if group & tie]
        found = [group for group in found if not group & tie] + [tie.union(*touching)]
    return found


def _spread(engine: _EngineTime, shared: Sequence[set[str]], work: Mapping[str, int]) -> dict[str, float]:
    """Milliseconds of each layer; their sum and the rest make up the engine's latency."""
    factor = _factor(engine)
    ms = {name: engine.ms.get(name, 0.0) * factor for name in work}
    for group in shared:
        whole = sum(ms[name] for name in group) if engine.ms else engine.latency
        weight = sum(work[name] for name in group)
        ms |= {name: whole * (work[name] / weight if weight else 1 / len(group)) for name in group}
    return ms
