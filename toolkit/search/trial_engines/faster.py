"""Build and measure engines with more and fewer Q/DQ pairs, and remove the pairs that do not pay off.

The result is an engine no slower than float or, with ``only_if_faster``, the fastest that was found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.base.errors import BackendError, RecipeError, did_you_mean
from toolkit.base.files import write_json
from toolkit.contract.bench import Bench, Candidate, Latency, Measurement
from toolkit.contract.context import Context
from toolkit.contract.findings import Code, Finding
from toolkit.contract.ranges import Ranges
from toolkit.graph.layers.forms import Forms
from toolkit.graph.model import Model
from toolkit.placement.ops import POOLS, TARGETS
from toolkit.placement.pairs import Placement
from toolkit.search.trial_engines.payoff_search import PayoffSearch
from toolkit.search.trial_engines.quick_builds import note_prebuild, note_trials, trial_takes_long
from toolkit.search.trial_engines.ratios import Ratios, ratios_in_turn
from toolkit.search.trial_engines.timed import PayoffResult, Trial, Unit, latencies

SETTING = "only_if_faster"
_TRIALS_FROM = 5
"""With more engines than this, trials are built at a faster optimization level."""
_GUARD_BUILDS = 6
"""The largest number of engines to build so that the run's engine is no slower than the float engine."""


def require_bench(context: Context) -> Bench:
    """The context's bench, if it can measure latencies.

    Raises:
        RecipeError: there is no bench, no GPU, no backend that measures, or measuring is switched off.
    """
    bench = context.bench
    obstacle = bench.cannot_measure() if bench is not None else "the context has no bench to build engines on"
    if bench is None or obstacle:
        raise RecipeError(
            f"only_if_faster builds engines with and without Q/DQ pairs and compares their latencies, and {obstacle}",
            remedy="run on a machine with a GPU, TensorRT and cuda-python, or remove only_if_faster",
            value=SETTING,
        )
    return bench


def units_of(model: Model, placement: Placement) -> list[Unit]:
    """The quantized nodes that may lose their pairs: layers, Concats and pools, in the graph's order.

    Additions are not units: they are fused into the convolution before them.
    """
    found = []
    forms = Forms(model)
    for node in model.nodes:
        if node.name not in placement.layers or node.name in placement.complete:
            continue
        if node.op in TARGETS:
            values = [v for t in node.inputs[:2] if (v := model.constant(t)) is not None]
            shape = list(values[-1].shape) if values else "without weights"
            found.append(Unit(node.name, f"{node.op} {shape}", values[-1].size if values else 0))
        elif node.op == "Concat" or forms.op(node) in POOLS:
            found.append(Unit(node.name, forms.op(node)))
    return found


class Trials:
    """Builds and measures candidates for a ``PayoffSearch``.

    Args:
        candidate: creates the model and plan with fewer pairs.
        units: the nodes that may stay float.
        bench: builds and measures engines.
        ranges: the ranges that the pairs are made from.
        context: for the journal and the progress bar.
        builds: the largest number of engines, for the progress bar.
        trial: whether engines are first built as trials, in less time; only a repeated measurement then builds the
            run's own engine.
    """

    def __init__(
        self,
        candidate: Candidate,
        units: list[Unit],
        bench: Bench,
        ranges: Ranges | None,
        context: Context,
        builds: int,
        trial: bool = False,
    ) -> None:
        self.trial = trial
        self.candidate, self.units, self.bench, self.ranges = candidate, units, bench, ranges
        self.context, self.builds = context, builds
        self.done: list[Trial] = []
        self.reused = 0
        self._ordered: dict[frozenset[str], str] = {}
        self._without: Measurement | None = None

    def measure(self, kept: frozenset[str], repeat: int) -> Trial | None:
        """Build and measure the engine with the units ``kept`` in float; None if it cannot be built.

        Raises:
            BackendError: the engine without any pairs cannot be built or measured.
        """
        bare = len(kept) == len(self.units)
        self.context.progress("engines that are timed", len(self.done), self.builds)
        try:
            found = self._measured(kept, repeat)
            turns = self._turns(found, kept, repeat)
            for profile, why in found.lacks.items():
                raise BackendError(
                    f"the latency of profile '{profile}' was not measured: {why}",
                    where=SETTING,
                    remedy="see `qtool run` without only_if_faster: something its measurement needs is missing",
                )
        except BackendError as error:
            if bare:
                raise
            quantized = len(self.units) - len(kept)
            self.context.journal.noted(Code.TRIAL_FAILED(quantized=quantized, units=len(self.units), error=str(error)))
            return None
        self.reused += found.reused
        note_prebuild(found, self.context.journal)
        ties = sorted({tuple(tie) for tied in found.ties.values() for tie in tied})
        if bare and (repeat == 0 or self.trial):
            # compare trials with trials, and final engines with final engines
            self._without = found
        latency = dict(found.latency)
        for profile, (ratio, noise) in turns.items():
            assert self._without is not None
            base = self._without.latency[profile].ms
            latency[profile] = Latency(base * ratio, base * (ratio - noise), base * (ratio + noise))
        trial = Trial(kept, latency, found.ms, [list(tie) for tie in ties], found.key, dict(turns))
        self.done.append(trial)
        return trial

    def prebuild(self, soon: Sequence[frozenset[str]]) -> None:
        """Have engines that may be measured next built on other GPUs, one each; the first of ``soon`` is built here."""
        for kept in self._ordered.keys() - set(soon):
            self.bench.forget(self._ordered.pop(kept))
        for kept in soon[1:]:
            if kept in self._ordered or not self.bench.free_gpus:
                continue
            model, plan = self.candidate(dict.fromkeys(kept, Code.TRIAL()))
            self._ordered[kept] = self.bench.prebuild(
                model, plan, self.ranges, float_only=len(kept) == len(self.units), trial=self.trial
            )

    def _measured(self, kept: frozenset[str], repeat: int, rebuild: bool = False) -> Measurement:
        model, plan = self.candidate(dict.fromkeys(kept, Code.TRIAL()))
        names, bare = [unit.name for unit in self.units], len(kept) == len(self.units)
        trial, number = self.trial and repeat == 0, 0 if self.trial else repeat
        return self.bench.measure(
            model, plan, names, self.ranges, float_only=bare, repeat=number, rebuild=rebuild, trial=trial
        )

    def _turns(self, found: Measurement, kept: frozenset[str], repeat: int) -> Ratios:
        """For each profile the ratio of its latency to that of the engine without pairs, and its noise.

        Both engines are measured in turn. Empty if they cannot be: then the separate measurements are used.
        """
        base = self._without
        if base is None or len(kept) == len(self.units):
            return {}

        def again() -> None:
            self._measured(frozenset(unit.name for unit in self.units), 0, rebuild=True)
            self._measured(kept, repeat, rebuild=True)

        return ratios_in_turn(self.bench, found.engine, base.engine, again, self.context.journal)


def require_profiles(weights: Mapping[str, float], names: Sequence[str]) -> None:
    """Check the weights of profiles.

    Args:
        weights: by profile name; 1 for profiles that are not named.
        names: the existing profiles.

    Raises:
        RecipeError: ``weights`` names a profile that does not exist, or all profiles have weight 0.
    """
    for name in weights:
        if name not in names:
            raise RecipeError(
                f"profile_weights names the profile '{name}'", remedy=did_you_mean(name, names), value=name
            )
    if not any(weights.get(name, 1.0) > 0 for name in names):
        raise RecipeError(
            "profile_weights is 0 for every profile", remedy="give one a positive weight", value="profile_weights"
        )


def not_faster(
    candidate: Candidate,
    units: list[Unit],
    bench: Bench,
    ranges: Ranges | None,
    context: Context,
    *,
    words: tuple[str, str],
    builds: int | None,
    weights: Mapping[str, float],
) -> dict[str, Finding]:
    """The units that should stay float because quantizing them does not pay off, each with the reason.

    Args:
        candidate: creates the model and plan in which the named units stay float.
        units: the nodes that may stay float.
        bench: builds and measures engines.
        ranges: the ranges that the pairs are made from; None if no activation is quantized.
        context: gets notes of the result, and progress.
        words: the quantized and the float type.
        builds: the largest number of engines to build in search of the fastest; None: stop at one that is no slower
            than float.
        weights: the weight of each profile; 1 for profiles that are not named.

    Raises:
        RecipeError: ``weights`` names a profile that does not exist, or all profiles have weight 0.
        BackendError: the engine without pairs cannot be built or measured.
    """
    require_profiles(weights, bench.profiles)
    path = context.folder / "faster.json" if context.folder is not None else None
    lenient, builds = builds is None, builds or _GUARD_BUILDS
    # the last two builds are reserved for the chosen and the float engine in their final form
    trial = trial_takes_long(bench) if lenient else bench.has_trial_level and builds > _TRIALS_FROM
    trials = Trials(candidate, units, bench, ranges, context, builds, trial)

    def keep(search: PayoffSearch, verdict: PayoffResult | None = None) -> None:
        if path is not None:
            write_json(path, _summary(search, verdict))

    search = PayoffSearch(units, trials.measure, builds, weights, words, keep, lenient, trial, trials.prebuild)
    with bench.remote_builds():
        verdict = search.run()
    context.progress("engines that are timed", builds, builds)
    if context.following and not lenient:
        context.journal.noted(Code.LATER_PASSES(passes=context.following))
    keep(search, verdict)
    if lenient and trial:
        note_trials(bench, context.journal)
    if path is not None:
        context.wrote(path)
    _tell(verdict, units, context, words, trials.reused)
    return verdict.reasons


def _tell(verdict: PayoffResult, units: list[Unit], context: Context, words: tuple[str, str], reused: int) -> None:
    """Note the result of the search, and how many engines were built for it."""
    quantized, plain = words
    kept = len(verdict.kept)
    built = {"engines": verdict.builds, "reused": reused, "quantized": quantized, "plain": plain, "units": len(units)}
    if kept == len(units):
        found = Code.ONLY_IF_FASTER(**built, left=0, why=next(iter(verdict.reasons.values())))
    else:
        assert verdict.best is not None
        found = Code.ONLY_IF_FASTER(
            **built, left=len(units) - kept, **latencies(verdict.best, verdict.without), ratio=verdict.score,
            noise=verdict.noise,
        )  # fmt: skip
    context.journal.noted(found)


def _summary(search: PayoffSearch, verdict: PayoffResult | None) -> dict[str, Any]:
    """The content of faster.json, during the search and with its verdict."""

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
        "pairs_removed": {name: why.to_json() for name, why in verdict.reasons.items()} if verdict is not None else {},
        "trials": [trial(one) for one in search.trials.values()],
    }
