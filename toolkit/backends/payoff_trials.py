"""``only_if_faster``: the engines with more and fewer pairs are built, measured and kept in a log."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from toolkit.backends.base import EngineSettings
from toolkit.backends.payoff_search import Latency, PayoffResult, PayoffSearch, Trial, Unit, told
from toolkit.backends.prepare import Bench, unmeasured
from toolkit.backends.unit_times import unit_times
from toolkit.base.errors import BackendError, RecipeError, did_you_mean
from toolkit.base.files import sha256_json, write_json
from toolkit.base.gpu import find_gpu
from toolkit.base.versions import code_fingerprint, versions
from toolkit.placement.ops import POOLS, TARGETS

if TYPE_CHECKING:
    from toolkit.backends.layer import Build
    from toolkit.contract.passes import Context
    from toolkit.contract.plan import PrecisionPlan
    from toolkit.graph.model import Model
    from toolkit.placement.pairs import Placement

Candidate = Callable[[Mapping[str, str]], "tuple[Model, PrecisionPlan]"]
"""The model and the plan with all pairs but those of the nodes named, each with the reason why it stays float."""


class TrialLog(Protocol):
    """Where measurements are kept, so that an interrupted search goes on where it stopped."""

    def get(self, key: str) -> dict[str, Any] | None:
        """What was kept under a key, or None."""
        ...

    def add(self, key: str, content: Mapping[str, Any]) -> None:
        """Keep a measurement; it is on disk when this returns."""
        ...


def measurable(bench: Bench, context: Context) -> None:
    """Check that latencies can be measured here.

    Raises:
        RecipeError: there is no GPU, no backend that measures, or measuring is switched off.
    """
    lacks = "measure is false" if not bench.settings.measure else bench.backend.cannot_measure()
    if not lacks:
        return
    pipeline, where = context.services.get("pipeline"), "only_if_faster"
    if pipeline is not None:
        where = pipeline.recipe.locate("pass", _position(pipeline.recipe.passes), "only_if_faster")
    raise RecipeError(
        f"only_if_faster builds engines with and without Q/DQ pairs and compares their latencies, and {lacks}",
        where=where,
        remedy="run on a machine with a GPU, TensorRT and cuda-python, or remove only_if_faster",
    )


def _position(passes: list[dict[str, Any]]) -> int:
    """The index of the first pass that measures."""
    return next((i for i, entry in enumerate(passes) if entry.get("only_if_faster")), 0)


def log_fingerprint(bench: Bench) -> str:
    """What measured latencies depend on besides the model: settings, profiles, GPU and versions."""
    settings = bench.settings.model_dump(mode="json", exclude={"timing_cache"})
    backend = [bench.backend.name, bench.backend.version()]
    wanted = [repr(bench.profiles), bench.calibration_profile, str(bench.rest)]
    return sha256_json([settings, backend, repr(find_gpu()), wanted, versions(), code_fingerprint()])


def units_of(model: Model, placement: Placement) -> list[Unit]:
    """What placement quantizes and could give back: layers, Concats and pools, in the graph's order.

    Additions are no units of their own: they run in the kernel of the convolution before them.
    """
    found = []
    for node in model.nodes:
        if node.name not in placement.layers or node.name in placement.complete:
            continue
        if node.op in TARGETS:
            values = [v for t in node.inputs[:2] if (v := model.constant(t)) is not None]
            shape = list(values[-1].shape) if values else "without weights"
            found.append(Unit(node.name, f"{node.op} {shape}", values[-1].size if values else 0))
        elif node.op == "Concat" or node.op in POOLS:
            found.append(Unit(node.name, node.op))
    return found


class Trials:
    """Builds and measures engines for a ``PayoffSearch``.

    Args:
        candidate: makes the model with fewer pairs.
        units: what can be given back.
        bench: where engines are built.
        context: for the journal, the progress bar and the recipe's calibration batches.
        log: where measurements are kept.
        folder: where timing cache and models under work lie; a temporary one where None.
        builds: how many engines there may be, for the progress bar.
    """

    def __init__(
        self,
        candidate: Candidate,
        units: list[Unit],
        bench: Bench,
        context: Context,
        log: TrialLog | None,
        folder: Path | None,
        builds: int,
    ) -> None:
        self.candidate, self.units, self.bench, self.context = candidate, units, bench, context
        self.log, self.folder, self.builds = log, folder, builds
        self.done: list[Trial] = []
        self.reused = 0

    def measure(self, kept: frozenset[str], repeat: int) -> Trial | None:
        """Build and measure the engine whose ``kept`` units are float; None where it cannot be built.

        Raises:
            BackendError: the engine without any pairs cannot be built or measured.
        """
        bare = len(kept) == len(self.units)
        self.context.progress("only_if_faster: engines", len(self.done), self.builds)
        settings = self.bench.settings
        if bare:
            # with implicit quantization TensorRT gives INT8 to whatever has ranges
            settings = settings.model_copy(update={"quantization": "explicit", "calibrator": "ranges"})
        if settings.timing_cache is None and self.folder is not None:
            # kernels that several engines have in common are timed once
            settings = settings.model_copy(update={"timing_cache": self.folder / "payoff.timing"})
        model, plan = self.bench.lowered(*self.candidate(dict.fromkeys(kept, "a trial without its pairs")), settings)
        # an ask that sets no constraint makes no other engine
        asks = {node: str(ask.precision) for node, ask in plan.items() if not ask.free}
        key = sha256_json([model.fingerprint(), asks, settings.quantization, self._ranges(settings)])
        entry = self.log.get(f"{key}/{repeat}") if self.log is not None else None
        if entry is not None:
            self.reused += 1
        else:
            try:
                entry = self._built(model, plan, settings)
            except BackendError as error:
                if bare:
                    raise
                pairs = len(self.units) - len(kept)
                self.context.journal.noted(
                    f"an engine with {pairs} of {len(self.units)} units quantized could not be measured: {error}",
                    rule="only-if-faster",
                )
                return None
            if self.log is not None:
                self.log.add(f"{key}/{repeat}", {**entry, "float": sorted(kept)})
        trial = Trial(kept, {p: Latency(*v) for p, v in entry["latency"].items()}, entry["ms"], entry["ties"], key)
        self.done.append(trial)
        return trial

    def _ranges(self, settings: EngineSettings) -> dict[str, float]:
        """The ranges that make an engine without pairs quantized."""
        ranges = self.bench.ranges
        if settings.quantization != "implicit" or ranges is None:
            return {}
        return {name: one.amax for name, one in ranges.tensors.items()}

    def _built(self, model: Model, plan: PrecisionPlan, settings: EngineSettings) -> dict[str, Any]:
        pipeline = self.context.services.get("pipeline")
        batches = pipeline.calibrator_batches() if pipeline is not None and settings.calibrator != "ranges" else ()
        said: list[str] = []
        with tempfile.TemporaryDirectory(prefix="qtool-faster-") as name:
            # always the same place in the run folder: what a killed run left there is written over
            path = (self.folder or Path(name)) / "qtool-trial.onnx"
            build = self.bench.build(model, plan, settings, path, batches, said.append, self.context.progress)
        names = [unit.name for unit in self.units]
        return {"latency": self._latency(build, said), "seconds": build.seconds,
                **unit_times(model, build, names).to_json()}  # fmt: skip

    def _latency(self, build: Build, said: list[str]) -> dict[str, list[float]]:
        for name, why in unmeasured(build, self.bench.profiles, said).items():
            raise BackendError(
                f"the latency of profile '{name}' was not measured: {why}",
                where="only_if_faster",
                remedy="see `qtool run` without only_if_faster: what its engine's measurement needs is missing here",
            )
        found = {}
        for name in self.bench.profiles.names or ["default"]:
            times = build.latency[name]
            found[name] = [times["opt"], times.get("opt p05", times["opt"]), times.get("opt p95", times["opt"])]
        return found


def not_faster(
    candidate: Candidate,
    units: list[Unit],
    bench: Bench,
    context: Context,
    *,
    words: tuple[str, str],
    builds: int,
    weights: Mapping[str, float],
    log: TrialLog | None = None,
) -> dict[str, str]:
    """The units that are to stay float because quantizing them does not pay, each with the reason.

    Args:
        candidate: makes the model and plan in which the named units stay float.
        units: what can be given back.
        bench: where engines are built; its backend must measure.
        context: gets notes on what was found, and progress.
        words: the quantized and the float type, for people.
        builds: engines to build at most.
        weights: what each profile counts for; 1 where not named.
        log: where measurements are kept.

    Raises:
        RecipeError: ``weights`` names no profile, or makes all count for nothing.
        BackendError: the engine without pairs cannot be built or measured.
    """
    names = bench.profiles.names or ["default"]
    for name in weights:
        if name not in names:
            raise RecipeError(
                f"profile_weights names the profile '{name}'", where="only_if_faster", remedy=did_you_mean(name, names)
            )
    if not any(weights.get(name, 1.0) > 0 for name in names):
        raise RecipeError(
            "profile_weights counts every profile for 0", where="only_if_faster", remedy="give one of them a weight"
        )
    pipeline = context.services.get("pipeline")
    hidden = pipeline.folder.hidden if pipeline is not None else context.services.get("folder")
    path = pipeline.path if pipeline is not None else hidden
    trials = Trials(candidate, units, bench, context, log, hidden, builds)

    def keep(search: PayoffSearch, verdict: PayoffResult | None = None) -> None:
        if path is not None:
            write_json(path / "faster.json", _summary(search, verdict))

    search = PayoffSearch(units, trials.measure, builds, weights, words, keep)
    verdict = search.run()
    context.progress("only_if_faster: engines", builds, builds)
    later = [p["use"] for p in pipeline.recipe.passes[_position(pipeline.recipe.passes) + 1 :]] if pipeline else []
    if later:
        context.journal.noted(
            f"what the passes after it do ({', '.join(later)}) is not in the engines that were measured",
            rule="only-if-faster",
        )
    keep(search, verdict)
    if path is not None:
        context.services.setdefault("files", []).append(str(path / "faster.json"))
    _tell(verdict, units, context, words, trials.reused)
    return verdict.reasons


def _tell(verdict: PayoffResult, units: list[Unit], context: Context, words: tuple[str, str], reused: int) -> None:
    quantized, plain = words
    kept = len(verdict.kept)
    built = f"{verdict.builds} engines measured" + (f" ({reused} before this run)" if reused else "")
    if kept == len(units):
        text = f"{built}; all pairs are given back: {next(iter(verdict.reasons.values()))}"
    else:
        assert verdict.best is not None
        text = (
            f"{built}; {len(units) - kept} of {len(units)} units stay {quantized}: {told(verdict.best)}, without pairs "
            f"{told(verdict.without)} ({plain}); {verdict.score:.3f} of the time, give or take {verdict.noise:.3f}"
        )
    context.journal.noted(text, rule="only-if-faster")


def _summary(search: PayoffSearch, verdict: PayoffResult | None) -> dict[str, Any]:
    """The search for faster.json: while it goes on, and with its verdict."""

    def trial(one: Trial) -> dict[str, Any]:
        return {
            "float": sorted(one.kept),
            "latency_ms": {p: {"opt": t.ms, "p05": t.low, "p95": t.high} for p, t in one.latency.items()},
            "of_float": search.score(one),
            "noise": search.noise(one),
        }

    return {
        "schema": "qtool-faster-1",
        "units": {unit.name: unit.role for unit in search.units.values()},
        "builds": search.builds,
        "best": trial(search.best),
        "done": verdict is not None,
        "given_back": verdict.reasons if verdict is not None else {},
        "trials": [trial(one) for one in search.trials.values()],
    }
