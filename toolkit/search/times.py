"""Layer times for a precision search: from the reports of earlier runs, or of engines that are built for it."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.backends.payoff_trials import Candidate, log_fingerprint
from toolkit.backends.prepare import Bench, unmeasured
from toolkit.backends.unit_times import unit_times
from toolkit.base.errors import BackendError, QtoolError
from toolkit.base.files import sha256_json
from toolkit.base.gpu import find_gpu
from toolkit.base.log import Log
from toolkit.base.precision import Precision
from toolkit.base.text import count
from toolkit.search.gpus import GpuSpec, find, known_as
from toolkit.search.layer_times import LayerTimes, read_times
from toolkit.search.search import SearchedPlan, SearchResult

if TYPE_CHECKING:
    from toolkit.contract.passes import Context
    from toolkit.evaluation.budget import Budget
    from toolkit.search.cost import CostModel


def earlier_times(
    paths: Sequence[str], layers: Sequence[str], quantized: Precision, context: Context, gpu: str
) -> LayerTimes:
    """The layer times in the reports of earlier runs, at the opt shapes of this run's first profile.

    Args:
        paths: report.json files or run folders, as the recipe names them.
        layers: names of the layers that can be quantized.
        quantized: the quantized precision.
        context: gives the profiles, the float type and the recipe, and gets a note for each report.
        gpu: the GPU that the rest is predicted for.

    Raises:
        RecipeError: see ``read_times``.
    """
    pipeline = context.services.get("pipeline")
    first = next(iter(context.profiles), None)
    found = read_times(
        [pipeline.recipe.resolve(path) if pipeline is not None else Path(path) for path in paths],
        layers, quantized, context.rest, first.name if first is not None else "",
        {name: extent.opt for name, extent in first.shapes.items()} if first is not None else None,
        pipeline.source().fingerprint() if pipeline is not None else "", gpu,
    )  # fmt: skip
    for note in found.notes:
        context.journal.noted(note, rule="search-times")
    return found


def gpu_for(asked: str, context: Context) -> GpuSpec:
    """The GPU that times are predicted for: the one asked for, else the one here, else an A10.

    Raises:
        RecipeError: no datasheet figures are known of the one asked for.
    """
    here = None if asked else find_gpu()
    found = known_as(here.name) if here is not None else None
    if here is not None and found is None:
        context.journal.noted(
            f"no datasheet figures are known of the {here.name}: what is not measured is predicted for the {_GPU}",
            rule="search-times",
        )
    return found or find(asked or _GPU)


def measuring_bench(context: Context) -> Bench | str:
    """Where this run's engines can be built and measured, or why nowhere.

    Outside a recipe's run only a backend that ``context.services`` names is used: a search in a script does not build
    engines unasked.
    """
    if not {"pipeline", "backend"} & set(context.services):
        return "context.services names no backend"
    try:
        bench = Bench.of(context)
    except QtoolError as error:
        return str(error)
    lacks = bench.backend.cannot_measure() if bench.settings.measure else "[engine] measure is false"
    return lacks or bench


_GPU = "A10"
_CLEARLY = 1.01
"""A plan in between must be this much faster than both ends: engines of the same kernels differ by 1 to 2 percent."""


@dataclass
class _Engine:
    """What was measured of one engine, in milliseconds, at the first profile's opt shapes.

    Attributes:
        latency: of one inference.
        ms: by layer, with its conversions and what else belongs to it.
        rest: of the engine's layers that belong to no such layer.
        ties: sets of layers that share some kernel or block.
    """

    latency: float
    ms: dict[str, float] = field(default_factory=dict)
    rest: float = 0.0
    ties: list[list[str]] = field(default_factory=list)


class EngineTimes:
    """Builds engines of a search's plans and tells what they and their layers take.

    Args:
        candidate: makes the model and plan in which the named layers stay float.
        searched: the layers that the search decides on.
        work: multiply-accumulates by layer, of these and all other convolutions and products; layers of which they are
            not known are left out.
        bench: where engines are built.
        context: for notes and progress.
        quantized: the quantized precision.
        folder: where the log, the timing cache and models under work lie; a temporary one where None.
        name: what the log's name begins with.
    """

    def __init__(
        self,
        candidate: Candidate,
        searched: Collection[str],
        work: Mapping[str, int],
        bench: Bench,
        context: Context,
        quantized: Precision,
        folder: Path | None,
        name: str,
    ) -> None:
        self.candidate, self.searched, self.work = candidate, sorted(searched), work
        self.bench, self.context, self.quantized, self.folder = bench, context, quantized, folder
        self.profile = next(iter(bench.profiles.names), "default")
        self.log = Log(folder / f"{name}.times.jsonl" if folder is not None else None, log_fingerprint(bench))
        self._built = 0

    def layers(self) -> LayerTimes:
        """Layer times of two engines: one with every layer quantized, one with none.

        Each engine's layer times are brought to its latency, since the profiler's own cost counts for every layer; what
        belongs to no layer is the rest. Layers that either engine runs in one block share its time by their
        multiply-accumulates in both.

        Returns:
            No times where an engine cannot be built or measured; the journal says why.
        """
        try:
            small, plain = self._engine(()), self._engine(self.searched)
        except QtoolError as error:
            self.note(f"layer times are predicted, not measured: {error}")
            return LayerTimes()
        shared = _shared(small, plain, self.work)
        eight, half = _spread(small, shared, self.work), _spread(plain, shared, self.work)
        rest = plain.rest * _factor(plain)
        found = LayerTimes(rest=rest / 1e3, borders=True)
        gpu = find_gpu()
        found.gpu = gpu.name if gpu else ""
        found.seconds = {(name, False): ms / 1e3 for name, ms in half.items()}
        # what both engines run in float is counted as in the plain one: the difference belongs to the quantized layers
        fixed = sum(ms for name, ms in half.items() if name not in self.searched) + rest
        own = sum(ms for name, ms in eight.items() if name in self.searched)
        factor = max((small.latency - fixed) / own, 0.0) if own else 0.0
        found.seconds |= {(n, True): eight[n] * factor / 1e3 for n in self.searched if n in eight}
        where = f" on the {found.gpu}" if found.gpu else ""
        text = (
            f"layer times were measured{where}, profile '{self.profile}': the engine with "
            f"{count(len(self.searched), 'layer')} asked for in {self.quantized} takes {small.latency:.4g} ms, "
            f"in {self.context.rest} {plain.latency:.4g} ms"
        )
        inside = {name for group in shared for name in group}
        if inside and not (small.ms and plain.ms):
            text += "; it tells no layer times: layers share its latency by their multiply-accumulates"
        elif inside:
            text += f"; {count(len(inside), 'layer')} in common blocks share their time by multiply-accumulates"
        self.note(text)
        if later := self._later():
            self.note(f"what the passes after the search do ({', '.join(later)}) is in none of its engines")
        return found

    def whole(self, kept: Iterable[str]) -> float | None:
        """Seconds of one inference of the plan that keeps these layers float; None, with a note, where it fails."""
        try:
            return self._engine(kept).latency / 1e3
        except QtoolError as error:
            self.note(f"the engine of the chosen plan was not measured: {error}")
            return None

    def _later(self) -> list[str]:
        """The recipe's passes after the first one that searches."""
        pipeline = self.context.services.get("pipeline")
        uses = [entry["use"] for entry in pipeline.recipe.passes] if pipeline is not None else []
        return uses[uses.index("search_precision") + 1 :] if "search_precision" in uses else []

    def note(self, text: str) -> None:
        """Tell the journal."""
        self.context.journal.noted(text, rule="search-times")

    def _engine(self, kept: Iterable[str]) -> _Engine:
        """Build and measure one engine, or find it in the log."""
        left = frozenset(kept)
        self.context.progress("search_precision: engines", self._built, 3)
        settings = self.bench.settings
        if left == set(self.searched):
            # with implicit quantization TensorRT gives INT8 to whatever has ranges
            settings = settings.model_copy(update={"quantization": "explicit", "calibrator": "ranges"})
        if settings.timing_cache is None and self.folder is not None:
            settings = settings.model_copy(update={"timing_cache": self.folder / "payoff.timing"})
        model, plan = self.bench.lowered(*self.candidate(dict.fromkeys(left, "a trial without its pairs")), settings)
        asks = {node: str(ask.precision) for node, ask in plan.items() if not ask.free}
        amax = {} if settings.quantization == "explicit" or self.bench.ranges is None else {
            name: one.amax for name, one in self.bench.ranges.tensors.items()
        }  # fmt: skip
        key = sha256_json([model.fingerprint(), asks, settings.quantization, amax, self.profile])
        entry = self.log.get(key)
        if entry is None:
            entry = self._measured(model, plan, settings)
            self.log.add(key, {**entry, "float": sorted(left)})
        self._built += 1
        return _Engine(entry["latency"], entry["ms"], entry["rest"], entry["ties"])

    def _measured(self, model: Any, plan: Any, settings: Any) -> dict[str, Any]:
        pipeline = self.context.services.get("pipeline")
        batches = pipeline.calibrator_batches() if pipeline is not None and settings.calibrator != "ranges" else ()
        said: list[str] = []
        with tempfile.TemporaryDirectory(prefix="qtool-search-") as name:
            path = (self.folder or Path(name)) / "qtool-trial.onnx"
            build = self.bench.build(model, plan, settings, path, batches, said.append, self.context.progress)
        why = unmeasured(build, self.bench.profiles, said).get(self.profile)
        if why is not None:
            raise BackendError(
                f"the latency of profile '{self.profile}' was not measured: {why}",
                where="search_precision",
                remedy="set measure = false in the pass to search with predicted times",
            )
        times = unit_times(model, build, list(self.work), self.profile)
        ms = {name: one[self.profile] for name, one in times.ms.items()}
        return {"latency": build.latency[self.profile]["opt"], "ms": ms, "rest": times.rest.get(self.profile, 0.0),
                "ties": times.ties, "seconds": build.seconds}  # fmt: skip


def confirmed(found: SearchResult, cost: CostModel, engines: EngineTimes, budget: Budget) -> SearchResult:
    """The search's result with its chosen plan's engine measured, and another plan taken where that one is faster.

    A plan between all quantized and none is chosen by sums of layer times; it is taken only if its engine is faster
    than theirs by more than the noise.
    """
    chosen, names = found.best, tuple(engines.searched)
    if not chosen.meets or chosen.kept in ((), names):
        return found
    seconds = engines.whole(chosen.kept)
    if seconds is None:
        return found
    said = f"the chosen plan's engine takes {seconds * 1e3:.4g} ms; {chosen.seconds * 1e3:.4g} ms were predicted"
    cost.learn(chosen.kept, seconds)
    found.plans[:] = [
        replace(plan, seconds=seconds, lacks=budget.lacks(plan.outcome, found.reference, seconds))
        if plan.kept == chosen.kept else plan for plan in found.plans
    ]  # fmt: skip
    found.best = next(plan for plan in found.plans if (plan.kept, plan.amax) == (chosen.kept, chosen.amax))
    ends = [plan for plan in found.plans if plan.meets and plan.kept in ((), names)]
    if not any(plan.kept == names for plan in ends):
        time = cost.time(names)
        ends.append(
            SearchedPlan(names, {}, found.reference, budget.lacks(found.reference, found.reference, time), time, 0.0)
        )
    best = min(ends, key=lambda plan: plan.seconds)
    if best.meets and (best.seconds < seconds * _CLEARLY or not found.best.meets):
        found.best = best
        found.plans[:] = [*(plan for plan in found.plans if plan is not best), best]
        what = "all layers quantized" if not best.kept else "none quantized"
        said += f", and with {what} {best.seconds * 1e3:.4g} ms: that one is taken"
    engines.note(said)
    return found


def _factor(engine: _Engine) -> float:
    """What brings an engine's layer times to its latency."""
    total = sum(engine.ms.values()) + engine.rest
    return engine.latency / total if total else 1.0


def _shared(first: _Engine, second: _Engine, work: Mapping[str, int]) -> list[set[str]]:
    """Sets of layers that either engine runs together, those that overlap as one; all where one tells no times."""
    if not (first.ms and second.ms):
        return [set(work)]
    found: list[set[str]] = []
    for tie in map(set, [*first.ties, *second.ties]):
        touching = [group for group in found if group & tie]
        found = [group for group in found if not group & tie] + [tie.union(*touching)]
    return found


def _spread(engine: _Engine, shared: Sequence[set[str]], work: Mapping[str, int]) -> dict[str, float]:
    """Milliseconds of each layer, whose sum with the rest is the engine's latency."""
    factor = _factor(engine)
    ms = {name: engine.ms.get(name, 0.0) * factor for name in work}
    for group in shared:
        whole = sum(ms[name] for name in group) if engine.ms else engine.latency
        weight = sum(work[name] for name in group)
        ms |= {name: whole * (work[name] / weight if weight else 1 / len(group)) for name in group}
    return ms
