"""Search which layers to quantize: as many as the accuracy budget allows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PrivateAttr

from passes.equalize import Equalize
from passes.insert_qdq import InsertQDQ
from passes.second_type import try_second_type
from passes.smooth import Smooth
from toolkit.base.errors import ModelError
from toolkit.base.precision import Precision
from toolkit.base.text import count
from toolkit.contract.journal import Journal
from toolkit.contract.passes import Context, Pass
from toolkit.graph.model import Model
from toolkit.graph.work import macs
from toolkit.placement.ops import TARGETS

if TYPE_CHECKING:
    from toolkit.evaluation.budget import Budget
    from toolkit.search.cost import CostModel
    from toolkit.search.gpus import GpuSpec
    from toolkit.search.layer_times import LayerTimes
    from toolkit.search.search import SearchResult
    from toolkit.search.times import EngineTimes
    from toolkit.simulation.simulation import Simulation

_ATTEMPTS = 3
_NAMED = 4
_SAME_DB = 40.0
"""A helper moves factors about: what float16 rounds differently stays above this."""
_ORDERING = frozenset({"TopK", "NonMaxSuppression", "ArgMax", "ArgMin"})


class SearchPrecision(InsertQDQ):
    """Quantize like insert_qdq, but keep in float the layers that the accuracy budget does not allow to quantize.

    Use it in place of insert_qdq; it takes the same settings. The budget is the recipe's [evaluation] budget unless
    one is given here. It decides on calibration samples, so that the test data stay unseen.

    Where a recipe's run has a GPU and TensorRT, an engine with every layer quantized and one with none are built first:
    their layer times say which plan is fast, and the chosen plan's engine is measured beside theirs.
    """

    name = "search_precision"
    max_drop: float | None = Field(None, ge=0, description="largest drop of the metric; default: [evaluation] budget")
    min_sqnr_db: float | None = Field(None, description="smallest SQNR of the outputs; default: [evaluation] budget")
    min_agreement: float | None = Field(None, ge=0, le=1, description="smallest share of the float model's winners")
    margin: float = Field(1.0, ge=0, description="safety against other samples: dB of SQNR, standard errors of shares")
    max_ms: float | None = Field(None, gt=0, description="largest predicted latency in milliseconds")
    keep: Literal["fp16", "bf16", "fp32"] | None = Field(None, description="precision of kept layers; default: rest")
    prefer: Literal["auto", "int8", "time"] = Field(
        "auto", description="what makes a plan good: much in INT8, or a short time; auto: time where it was measured"
    )
    times: str | list[str] = Field(
        [], description="report.json or run folder of earlier runs: their measured layer times replace predictions"
    )
    measure: bool = Field(
        True, description="build engines for layer times where a recipe's run can, and where times decide or limit"
    )
    gpu: str = Field(
        "", description="the GPU that times are predicted for, from datasheet figures; default: the one here, or A10"
    )
    data: Literal["calibration", "evaluation"] = Field("calibration", description="the samples to decide on")
    samples: int | None = Field(256, gt=0, description="decide on at most this many samples")
    batch: int = Field(32, gt=0, description="samples to run at once")
    evaluations: int | None = Field(None, gt=0, description="plans to evaluate at most; default 8 log2(groups) + 16")
    try_ranges: bool = Field(True, description="try the ranges of other calibration methods before giving a layer up")
    helpers: list[Literal["equalize", "smooth"]] = Field(
        [], description="passes to try where INT8 everywhere misses the budget; kept if they help"
    )
    threads: int | None = Field(None, gt=0, description="batches computed at once; default one a core")
    also: Literal["fp8"] | None = Field(
        None, description="a type to try for layers that dtype damages, before they stay float (GPUs from 8.9 on)"
    )
    _reference: Model | None = PrivateAttr(None)
    _limits: Budget | None = PrivateAttr(None)

    def against(self, reference: Model) -> None:
        """Compare outputs with those of this float model: the one being searched is quantized in part already."""
        self._reference = reference

    def apply(self, model: Model, context: Context) -> None:
        """Search, write what stays float into the plan, then insert the pairs of the rest.

        Raises:
            RangesError: there is no calibration data.
            DataError: there is no data to decide on.
            RecipeError: the budget needs a metric that is not there, ``only_if_faster`` a GPU that is not, or no
                datasheet figures are known of ``gpu``.
        """
        from toolkit.search.gpus import find

        self.without_dead_nodes(model, context)
        kept: tuple[str, ...] = ()
        plain = model
        # what cannot be measured or predicted is refused before the search, not after it
        self.bench(context)
        if self.gpu:
            find(self.gpu)
        if context.services.get("dry_run"):
            context.journal.noted("a run would search which layers stay float; here all are quantized", rule="dry-run")
        elif self.placement(model, context).activations:
            self.raise_opset(model, self.placement(model, context))
            simulation = self._helped(model, context, self._simulation(model, context))
            found = self._search(model, simulation, context)
            self._take(found, model, context)
            if self.also is not None and found.best.kept:
                kept, plain = found.best.kept, model.copy()
        super().apply(model, context)
        if kept:
            try_second_type(self, model, plain, kept, context)

    def _simulation(self, model: Model, context: Context) -> Simulation:
        from toolkit.search.data import evaluation_of, samples_to_decide_on
        from toolkit.simulation.simulation import Settings, Simulation
        from toolkit.simulation.switches import wanted_tensors

        judge = self.judge(model, context)
        facts = model.facts(context.profiles)
        ranges = context.ranges(model, wanted_tensors(model, facts, judge, self.activation_matmul))
        data, metric = samples_to_decide_on(self.data, model, context)
        evaluation = evaluation_of(context)
        settings = Settings(
            precision=Precision(self.dtype), activation_matmul=self.activation_matmul, weights=self.weights,
            metric=metric, output=getattr(evaluation, "output", None), batch=self.batch, samples=self.samples,
            threads=self.threads, allow_code=getattr(context.services.get("pipeline"), "allow_code", True),
        )  # fmt: skip
        simulation = Simulation(model, ranges, data, context.profiles, judge, settings, self._reference)
        used = sum(feed.count for feed in simulation.feeds)
        context.journal.noted(f"the search decides on {used} samples of {data.name}", rule="search-data")
        return simulation

    def _helped(self, model: Model, context: Context, simulation: Simulation) -> Simulation:
        """Apply the helper passes that make plain quantization clearly better, where it misses the budget."""
        from toolkit.graph.sessions import session
        from toolkit.search.range_methods import standing

        helpers: dict[str, Pass] = {"equalize": Equalize(measure=False), "smooth": Smooth(measure=False)}
        if not self.helpers:
            return simulation
        budget = self._budget(context, simulation)
        before = standing(simulation, budget, self.try_ranges)
        for name in self.helpers:
            if not before.distance:
                break
            trial = model.copy()
            apart = Context(profiles=context.profiles, rest=context.rest, provider=context.provider,
                            plan=context.plan.copy(), services=dict(context.services))  # fmt: skip
            helpers[name](trial, apart)
            if not apart.journal.of("changed") or context.provider is None:
                continue
            exact = simulation.runner.outcome_of(session(trial, threads=1).run)
            if exact.sqnr_db < _SAME_DB:
                text = f"{name} is not applied: it changes the float model, whose outputs keep {exact.sqnr_db:.1f} dB"
                context.journal.noted(text, rule="search-helper")
                continue
            tried = self._simulation(trial, apart)
            after = standing(tried, budget, self.try_ranges)
            better = after.clearly_better(before)
            text = (
                f"{name}: all layers in {self.dtype} with the method that suits them best leave "
                f"{after.outcome.sqnr_db:.1f} dB, before {before.outcome.sqnr_db:.1f} dB"
            )
            context.journal.noted(text + ("; it is applied" if better else "; it is not applied"), rule="search-helper")
            if better:
                model.graph = trial.graph
                context.known_ranges = apart.known_ranges
                context.journal.events += [replace(e, by=self.title()) for e in apart.journal.of("changed")]
                simulation, before = tried, after
        return simulation

    def _search(self, model: Model, simulation: Simulation, context: Context) -> SearchResult:
        from toolkit.search.cost import CostModel
        from toolkit.search.search import Search
        from toolkit.search.search_doubt import doubtful, gives_up_too_much
        from toolkit.search.times import confirmed, gpu_for

        folder = self._folder(context)
        gpu = gpu_for(self.gpu, context)
        budget = demand = self._limits = self._budget(context, simulation)
        engines = self._engines(model, simulation, context, gpu)
        times = engines.layers() if engines is not None else self._earlier(simulation, context, gpu)
        cost = CostModel(simulation.switches, simulation.facts, gpu, context.rest, times)
        prefer = self.prefer if self.prefer != "auto" else "time" if times.seconds and not self.also else "int8"
        if self.prefer == "auto" and prefer == "time":
            context.journal.noted(
                'layer times are known, so the search looks for the fastest plan; prefer = "int8" looks for the one '
                f"with most in {self.dtype}", rule="search-times",
            )  # fmt: skip
        if engines is not None and times.seconds:
            for end in ((), simulation.names):
                if (seconds := engines.whole(end)) is not None:
                    cost.learn(end, seconds)

        def run(demand: Budget, best: Path | None) -> tuple[Search, SearchResult]:
            search = Search(
                simulation, demand, cost, prefer=prefer, evaluations=self.evaluations,
                try_ranges=self.try_ranges, log=folder / f"{self._record}.jsonl" if folder else None,
                best=best, progress=context.progress,
            )  # fmt: skip
            found = search.run()
            if engines is not None and times.seconds and prefer == "time":
                found = confirmed(found, cost, engines, demand)
            return search, found

        for attempt in range(1, _ATTEMPTS + 1):
            search, found = run(demand, folder / f"{self._record}_best.json" if folder else None)
            if doubtful(found, demand):
                trusting = run(replace(demand, doubt=False), None)
                plain = cost.time(simulation.names) if prefer == "time" else None
                if gives_up_too_much(found.best, trusting[1].best, plain, self.dtype, context.journal):
                    search, found = trusting
            lacks = self._lowered(found, model, simulation, budget, context) if found.best.meets else {}
            if not lacks:
                break
            words = ", ".join(f"{name} by {value:.4g}" for name, value in lacks.items())
            last = attempt == _ATTEMPTS
            context.journal.noted(
                f"in {context.rest} the chosen plan misses {words}, which its simulation in float32 does not: "
                + (f"after {_ATTEMPTS} searches it is taken all the same; set a larger margin" if last
                   else "the search goes on with that much more asked for"), rule="search-float16",
            )  # fmt: skip
            if last:
                break
            demand = demand.tightened(lacks)
        positions, enough = found.best.outcome.positions, budget.enough()
        if 0 < positions < enough:
            context.journal.noted(
                f"{positions} winners are too few to judge the budget: even where none of them changes, "
                f"{min(3 / positions, 1.0):.1%} may change on other samples. Give samples for at least {enough}",
                rule="search-few-samples",
            )  # fmt: skip
        ordering = sorted({node.op for node in model.nodes} & _ORDERING)
        if found.best.kept and simulation.settings.metric is None and ordering:
            context.journal.noted(
                f"the model sorts or selects ({', '.join(ordering)}), and its outputs are compared entry by entry: two "
                "close entries that swap count as wrong. A metric of your own, with labelled samples, judges such a "
                "model better", rule="search-ordering",
            )  # fmt: skip
        # the search may have taken other ranges: those are what its layers were measured with
        self._report(found, search.simulation, cost, budget, prefer, context)
        return found

    def _lowered(
        self, found: SearchResult, model: Model, simulation: Simulation, budget: Budget, context: Context
    ) -> dict[str, float]:
        """What the chosen plan lacks in its real types, where its layers are to blame; layers kept float run in
        ``rest`` then, which the simulation computes in float32.

        The margin is not asked for again. Where the unquantized model in ``rest`` misses the budget too, the journal
        says so, and no layer is blamed.
        """
        if context.rest is Precision.FP32 or self._reference is not None:
            return {}
        reference, plain = simulation.runner.float_outcome, replace(budget, margin=0.0, max_ms=None)
        try:
            outcome = simulation.outcome_of(self._in_types(model, context, found))
            lacks = plain.lacks(outcome, reference)
            if not lacks:
                return {}
            alone = plain.lacks(simulation.outcome_of(self._in_types(model, context, None)), reference)
        except ModelError as error:
            context.journal.noted(
                f"the plan was not checked in {context.rest}, since onnxruntime cannot run it: {error.what[:200]}",
                rule="search-float16",
            )  # fmt: skip
            return {}
        if not alone:
            return lacks
        words = ", ".join(f"{name} by {value:.4g}" for name, value in alone.items())
        context.journal.noted(
            f"{context.rest} alone, with nothing quantized, already misses {words}: no choice of layers mends that; "
            f'the plan is one whose quantization keeps the budget. Set [engine] rest = "fp32" (or "bf16"), or keep '
            "the nodes with the largest error in the report in fp32 by the pass keep_precision", rule="search-float16",
        )  # fmt: skip
        return {}

    def _in_types(self, model: Model, context: Context, found: SearchResult | None) -> Model:
        """The model as it will run: with the plan's pairs, or without any, lowered to ``rest``."""
        from toolkit.backends.lowering import lower

        ranges = context.known_ranges
        apart = Context(profiles=context.profiles, rest=context.rest, provider=context.provider,
                        plan=context.plan.copy(), services=dict(context.services),
                        known_ranges=replace(ranges, tensors=dict(ranges.tensors)) if ranges else None)  # fmt: skip
        trial = model.copy()
        if found is not None:
            self._take(found, trial, apart)
            self._insert(trial, apart, {})
        observed = apart.known_ranges.observed if apart.known_ranges is not None else None
        return lower(trial, apart.plan, rest=context.rest, observed=observed, journal=Journal()).model

    def _earlier(self, simulation: Simulation, context: Context, gpu: GpuSpec) -> LayerTimes:
        """The layer times of the runs that ``times`` names; none where it names none."""
        from toolkit.search.layer_times import LayerTimes
        from toolkit.search.times import earlier_times

        given = [self.times] if isinstance(self.times, str) else self.times
        if not given:
            return LayerTimes()
        return earlier_times(given, simulation.names, Precision(self.dtype), context, gpu.name)

    def _engines(self, model: Model, simulation: Simulation, context: Context, gpu: GpuSpec) -> EngineTimes | None:
        """Where engines are measured for the search; None where they are not, with a note where one may expect it."""
        from toolkit.base.gpu import find_gpu
        from toolkit.search.gpus import known_as
        from toolkit.search.times import EngineTimes, measuring_bench

        decides = self.prefer == "time" or self.max_ms is not None or (self.prefer == "auto" and self.also is None)
        if self.times or not self.measure or not decides or self._reference is not None:
            return None
        bench, here, why = measuring_bench(context), find_gpu(), ""
        if isinstance(bench, str):
            why = bench
        elif self.gpu and (here is None or known_as(here.name) is not gpu):
            why = f"gpu = {self.gpu!r} is not the GPU here"
        elif self.keep not in (None, str(context.rest)):
            why = f"layers kept float run in {self.keep}, and the engine without pairs in {context.rest}"
        if isinstance(bench, str) or why:
            if here is not None or "measure" in self.model_fields_set:
                context.journal.noted(f"layer times are predicted, not measured: {why}", rule="search-times")
            return None
        heavy = [node for node in model.nodes if node.op in TARGETS]
        work = {node.name: known for node in heavy if (known := macs(node, simulation.facts)) is not None}
        return EngineTimes(
            self.candidate(model, context), simulation.names, work, bench, context, Precision(self.dtype),
            self._folder(context), self._record,
        )  # fmt: skip

    def _budget(self, context: Context, simulation: Simulation) -> Budget:
        from toolkit.search.data import evaluation_of
        from toolkit.search.search_budget import budget_for

        own = {key: getattr(self, key) for key in ("max_drop", "min_sqnr_db", "min_agreement")}
        section = getattr(evaluation_of(context), "budget", None)
        return budget_for(simulation, own, section, context.journal, margin=self.margin, max_ms=self.max_ms)

    @property
    def _record(self) -> str:
        """The name of what the search writes, without its ending."""
        return "search" if self._reference is None else f"search_{self.dtype}"

    def _folder(self, context: Context) -> Path | None:
        pipeline = context.services.get("pipeline")
        return pipeline.folder.hidden if pipeline is not None else context.services.get("folder")

    def _report(
        self,
        found: SearchResult,
        simulation: Simulation,
        cost: CostModel,
        budget: Budget,
        prefer: str,
        context: Context,
    ) -> None:
        from toolkit.base.files import write_json
        from toolkit.search.search_record import record
        from toolkit.search.weak_spots import weak_spots

        spots = weak_spots(simulation, found.sensitivity, taken=found.methods) if found.sensitivity is not None else []
        samples = sum(feed.count for feed in simulation.feeds)
        content = record(found, cost, budget, prefer, samples, spots)
        pipeline = context.services.get("pipeline")
        folder = pipeline.path if pipeline is not None else context.services.get("folder")
        if folder is not None:
            write_json(folder / f"{self._record}.json", content)
            context.services.setdefault("files", []).append(str(folder / f"{self._record}.json"))
        best = found.best
        tried = count(len(found.plans), "plan")
        text = f"{tried} tried; {best.quantized:.0%} of the multiply-accumulates stay {self.dtype}"
        context.journal.noted(f"{text}; {count(len(best.kept), 'layer')} stay float", rule="search")
        if not best.meets:
            lacks = ", ".join(f"{name} by {value:.4g}" for name, value in best.lacks.items())
            context.journal.noted(f"no plan meets the budget; the nearest one misses {lacks}", rule="search-missed")
        if cost.times.seconds:
            share = f"{content['measured_share']:.0%} of the chosen plan's predicted time was measured"
            scaled = f"the rest is the roofline of the {cost.gpu.name} times {cost.scale:.3g}"
            context.journal.noted(f"{share}; {scaled}", rule="search-times")
        for warning in content["warnings"]:
            context.journal.noted(warning, rule="search-slower")
        for note in found.notes:
            context.journal.noted(note, rule="search")

    def _take(self, found: SearchResult, model: Model, context: Context) -> None:
        """Write the plan's float layers and its ranges where insert_qdq will find them."""
        from toolkit.search.search_words import kept_reason, work_shares

        keep = Precision(self.keep) if self.keep else context.rest
        assert self._limits is not None
        shares = work_shares(model, context.profiles)
        for name in found.best.kept:
            why = kept_reason(name, self.dtype, found.sensitivity, self._limits, found.reference, shares.get(name))
            context.plan.ask(name, keep, why)
            context.journal.changed(name, f"stays {keep}", why)
        ranges = context.known_ranges
        by_method: dict[str, list[str]] = {}
        for tensor, amax in found.best.amax.items():
            assert ranges is not None
            before = ranges.tensors[tensor]
            method = found.methods.get(tensor, before.method)
            ranges.tensors[tensor] = replace(before, amax=amax, method=method)
            by_method.setdefault(method, []).append(f"'{tensor}' ({amax:.4g} instead of {before.amax:.4g})")
        for method, tensors in by_method.items():
            text = ", ".join(tensors[:_NAMED]) + (f" and {len(tensors) - _NAMED} more" if len(tensors) > _NAMED else "")
            context.journal.noted(
                f"the range of method {method}, which costs less at the output, goes to "
                f"{count(len(tensors), 'tensor')}: {text}",
                rule="search-range",
            )
