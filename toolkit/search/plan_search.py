"""A search from its samples to the chosen plan: simulation, budget, layer times, real types, and the record."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from toolkit.base.errors import RecipeError
from toolkit.base.precision import Precision
from toolkit.base.settings import byte_size
from toolkit.contract.context import Context
from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.metric import MetricOptions
from toolkit.graph.model import Model
from toolkit.placement.attention import attentions
from toolkit.search.budget.budget import (
    Judged,
    budget_for,
    counted_answers,
    needs_no_labels,
    unlabelled,
    without_labels,
)
from toolkit.search.budget.samples import in_parts, limited_where_slow, samples_to_decide_on
from toolkit.search.budget.settings import SearchSettings
from toolkit.search.budget.spending import ROUNDING_PRICE, SPOTS_PRICE, Spending
from toolkit.search.causes.helpers import Helpers
from toolkit.search.causes.weak_spots import weak_spots
from toolkit.search.codes import SearchEndCode
from toolkit.search.plans.float_reason import float_reason
from toolkit.search.plans.search import Search, SearchResult
from toolkit.search.quantizer.quantizer import Quantizer
from toolkit.search.stages.helped_forms import HelperModels
from toolkit.search.stages.helper_trials import HelperTrials
from toolkit.search.stages.real_types import Lower
from toolkit.search.stages.record import SearchRecord, record, slower_than_float
from toolkit.search.stages.searches import Searches
from toolkit.search.stages.timed_search import TimedSearch
from toolkit.search.stages.times import confirmed, earlier_times, gpu_for
from toolkit.search.stages.within_types import within_types
from toolkit.search.trial_engines.quick_builds import some_build_takes_long
from toolkit.simulation.simulation import Settings, Simulation

if TYPE_CHECKING:
    from toolkit.data.dataset import CalibrationData

_OF_FORM = 12.3
"""The price of searching another form of the model in float inferences: 1 for methods, up to 4.6 for layers one by one
and their ranges, the rest for plans.
"""
_ORDERING = frozenset({"TopK", "NonMaxSuppression", "ArgMax", "ArgMin"})


class PlanSearch(HelperTrials, TimedSearch):
    """A search over the layers of one model.

    Args:
        quantizer: decides where Q/DQ pairs go.
        settings: the search's settings.
        model: the float graph; it is not changed.
        context: provides ranges, samples, the bench, the journal and the progress bar.
        lower: lowers a trial to the types that it will run in.
        reference: the float model that outputs are compared with, if ``model`` is quantized in part.
        name: the name of its files, without their ending.
        by: the name of the pass that searches.
        spending: the account of the search that this one belongs to; None for a separate account.
        samples: the samples to decide on, and the metric that they have labels for; from the settings if None.
        like: the simulation of another form of the model, whose batches are used.

    Raises:
        DataError: there are no samples to decide on.
        RangesError: there is no calibration data.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        settings: SearchSettings,
        model: Model,
        context: Context,
        lower: Lower,
        reference: Model | None = None,
        name: str = "search",
        by: str = "search",
        spending: Spending | None = None,
        samples: tuple[CalibrationData, str | None] | None = None,
        like: Simulation | None = None,
    ) -> None:
        self.spending = spending or Spending.of_search(settings.inferences, settings.minutes)
        self.quantizer, self.settings, self.model, self.context = quantizer, settings, model, context
        self.lower, self.reference, self.name, self.by = lower, reference, name, by
        self.samples = samples or samples_to_decide_on(settings.data, model, context)
        self.plain = self._simulation(like)
        self.decided_on = sum(feed.count for feed in self.plain.feeds)

    @staticmethod
    def preflight(quantizer: Quantizer, settings: SearchSettings, model: Model, context: Context) -> None:
        """Raise the errors that a search with these settings would raise after calibration; nothing is computed.

        The journal notes if the samples have no labels for the recipe's metric.

        Raises:
            DataError: there are no samples to decide on.
            RecipeError: the budget cannot be judged by the model's outputs, or the reports of earlier runs hold no
                times for the model.
        """
        quiet = replace(context, journal=Journal())
        data, metric = samples_to_decide_on(settings.data, model, quiet)
        evaluation = context.evaluation
        if evaluation is not None and evaluation.metric is not None and metric is None:
            by_float = needs_no_labels(evaluation.metric, settings.limits, evaluation.limits)
            context.journal.noted(unlabelled(data.name, evaluation.metric, by_float))
        output, allow_code = (evaluation.output, evaluation.allow_code) if evaluation is not None else (None, True)
        judged = Judged.of(model, metric, output, allow_code)
        budget_for(judged, settings.limits, evaluation.limits if evaluation is not None else None, quiet.journal)
        if settings.times:
            layers = list(quantizer.placement(model, quiet).layers)
            earlier_times(settings.times, layers, quantizer.precision, quiet, gpu_for(settings.gpu, quiet).name)

    def on(self, model: Model, context: Context, price: float) -> PlanSearch:
        """The same search and samples on another form of the model; ``price`` is charged for it."""
        self.spending.pay(price)
        same = self.lower, self.reference, self.name, self.by, self.spending, self.samples, self.plain
        made = PlanSearch(self.quantizer, self.settings, model, context, *same)
        made.budget, made.decided_on = self.budget, self.decided_on
        if made.plain.settings == self.plain.settings:
            # the same batches should not be in memory twice
            made.plain.feeds = self.plain.feeds
            if self.plain.ran:
                made.plain.compared_like(self.plain, begins=True)
        if "timing" in vars(self):
            # a helper changes values, and hardly affects kernel times
            made.timing = self.timing
        return made

    def adopt(
        self, model: Model, context: Context, budget: Budget, forms: HelperModels, before: PlanSearch
    ) -> PlanSearch:
        """Return this search with another model of the same graph, its context, and a known budget.

        ``forms`` creates the form of the model for a plan; ``before`` is the search without helpers.
        """
        self.model, self.context, self.budget, self.forms = model, context, budget, forms
        self.likely = before.first.kept if before.first is not None else None
        self.alone = before.alone.without(forms.changed) if before.alone is not None else None
        self.spending.bought.clear()
        self.spending.again("helpers", _OF_FORM + (ROUNDING_PRICE if self.quantizer.weights == "output" else 0.0))
        return self

    @cached_property
    def simulation(self) -> Simulation:
        """The model on the samples, with weights rounded as the quantizer rounds them."""
        rounded = self.plain.rounded_by(self.quantizer.rounder(self.model, self.context))
        self.spending.pay(ROUNDING_PRICE if rounded is not self.plain else 0.0)
        return rounded

    def _simulation(self, like: Simulation | None) -> Simulation:
        """The same with weights rounded to nearest, before rounding is chosen on samples."""
        own, context = self.settings, self.context
        judge = self.quantizer.judge(self.model, context)
        wanted = self.quantizer.wanted(self.model, context)
        ranges = context.ranges(self.model, wanted, self.quantizer.precision)
        data, metric = self.samples
        evaluation = context.evaluation
        named, limits = (evaluation.metric, evaluation.limits) if evaluation is not None else (None, None)
        against_float = metric is None and needs_no_labels(named, own.limits, limits)
        answers = evaluation.answers if evaluation is not None else None
        answers = counted_answers(answers, named, own.limits, limits) if metric is None else answers
        metric = named if against_float else metric
        settings = Settings(
            precision=self.quantizer.precision, weights=self.quantizer.weights, metric=metric,
            output=evaluation.output if evaluation is not None else None, batch=own.batch, samples=own.samples,
            threads=own.threads, memory=byte_size(own.memory),
            allow_code=evaluation.allow_code if evaluation is not None else True,
            answers=answers,
            options=(evaluation.options if evaluation is not None else None) or MetricOptions(),
            against_float=against_float,
        )  # fmt: skip
        layers = self.quantizer.placement(self.model, context).layers
        settings = in_parts(settings, min(len(data), own.samples or len(data)), len(layers))
        simulation = Simulation(
            self.model, ranges, data, context.profiles, judge, settings, self.reference, self.quantizer.place,
            self.quantizer.plain_rounder(), like,
        )  # fmt: skip
        simulation = limited_where_slow(simulation) if own.inferences is None else simulation
        used = sum(feed.count for feed in simulation.feeds)
        context.journal.noted(Code.SEARCH_DATA(samples=used, data=data.name))
        return simulation

    @cached_property
    def budget(self) -> Budget:
        """The limits of the pass, else the recipe's, else defaults; RecipeError if one cannot be judged."""
        section = self.context.evaluation.limits if self.context.evaluation is not None else None
        own, decided, evaluation = self.settings, self.plain.settings, self.context.evaluation
        if own.limits.get("min_unchanged") is not None and decided.answers is None:
            raise RecipeError("min_unchanged cannot be judged: no task says what an answer is",
                              remedy="give the recipe evaluation data, or give min_sqnr_db")  # fmt: skip
        judged = Judged.of(
            self.plain.model, decided.metric, decided.output, decided.allow_code, decided.answers,
            evaluation.metric if evaluation is not None else None, decided.options.output, decided.against_float,
        )  # fmt: skip
        found = budget_for(judged, own.limits, section, self.context.journal, margin=own.margin, max_ms=own.max_ms)
        if judged.named is not None and (judged.metric is None or judged.against_float):
            self.context.journal.noted(without_labels(judged, found, self.plain.data.name))
        return found

    def nothing_pays(self) -> bool:
        """Whether no plan is predicted to be faster than float, asked before helpers are tried.

        False for a model without attention whose engines are built quickly: this is decided once helpers are applied.
        """
        bench = self.context.bench
        early = any(True for _ in attentions(self.model)) or (bench is not None and some_build_takes_long(bench))
        return early and self.timing.nothing_pays

    # ---------------------------------------------------------------- the search

    def run(self) -> SearchResult:
        """Search and write the record; the plan is not applied yet."""
        searches = self._searches()
        found = self._found(searches)
        if self.spending.over:
            self.context.journal.noted(Code.SEARCH_MINUTES_OVER(minutes=self.spending.minutes))
        found.idle = searches.cost.idle(found.best.kept) if searches.prefer == "time" else ()
        doubts = self._doubts(found)
        # the search may have changed ranges: layers were measured with the new ones
        self._record(found, searches, doubts)
        searches.forget()
        return found

    def _searches(self) -> Searches:
        """The object that runs searches of this simulation, with what is known of latencies."""
        context, own = self.context, self.settings
        rounded = self.simulation is not self.plain
        if rounded:
            # plans that ran before must be run again with these weights
            self.spending.bought.clear()
        likely = self.first.kept if rounded and self.first is not None else self.likely
        # a budget that cannot be judged is rejected before any engine is built
        demand, timing = self.budget, self.timing
        gpu, folder = gpu_for(own.gpu, context), context.log_folder
        engines = self._engines(gpu) if timing.ends else None
        cost, prefer = self._cost(timing, gpu), self._prefers(timing)
        if own.prefer == "auto" and prefer == "time":
            context.journal.noted(Code.SEARCH_FOR_TIME(dtype=self.quantizer.dtype))
        best = folder / f"{self.name}_best.json" if folder is not None else None
        log = self.log()

        def make(searches: Searches) -> Search:
            return Search(
                self.simulation, searches.demand, cost, prefer=prefer, evaluations=own.evaluations,
                try_ranges=own.try_ranges, log=log, best=best, progress=context.progress, spending=self.spending,
                missed=searches.missed, known=searches.known, likely=likely,
                alone=self.alone,
            )  # fmt: skip

        def confirm(found: SearchResult, demand: Budget) -> SearchResult:
            return confirmed(found, cost, engines, demand) if engines is not None and prefer == "time" else found

        return Searches(
            self.simulation, cost, prefer, demand, make, confirm, self.spending, timing.nothing_pays,
            None if rounded else self.first,
        )  # fmt: skip

    def _found(self, searches: Searches) -> SearchResult:
        """The plan that meets the budget in the types that it runs in; or the result with nothing quantized."""

        def left_float(found: SearchResult) -> SearchResult:
            return self.left_float(found, searches.cost, searches.demand)

        found = within_types(searches, self.check_in_types, left_float, self.context.rest, self.context.journal.noted)
        if (left_out := searches.left_out(found)) is not None:
            found.notes.append(left_out)
        return self._without_a_plan(found, searches)

    def _without_a_plan(self, found: SearchResult, searches: Searches) -> SearchResult:
        """``found``, or the result with nothing quantized if no plan with a quantized layer meets the budget.

        The latter must meet the budget; a finding explains it. A search that runs out of inferences or plans need not
        have reached the plan with every layer float.
        """
        plain, quantized = found, [plan for plan in found.plans if plan.quantized and plan.lacks]
        if (found.best.meets and (found.best.quantized or searches.prefer == "time")) or not quantized:
            return found
        if not found.best.meets:
            # for a second type, the model without it is the one with the first type's pairs
            outcome = self.simulation.without(self.simulation.names) if self.reference is not None else None
            plain = self.left_float(found, searches.cost, self.budget, outcome)
        if not plain.best.meets:
            return found
        nearest = min(quantized, key=lambda plan: self.budget.distance(dict(plan.lacks)))
        plain.no_plan = SearchEndCode.NO_PLAN(
            dtype=self.quantizer.dtype, plans=len(found.plans), limits=list(nearest.lacks),
            by=list(nearest.lacks.values()), rest=self.context.rest,
            helpers=Helpers(self.model).with_others(self.settings.helpers),
            wide=len(self._wide), of=len(self.model.nodes),
        )  # fmt: skip
        plain.notes = [one for one in found.notes if one.code not in (Code.SEARCH_NEAREST, Code.SEARCH_ALL_FLOAT)]
        return plain

    def take(self, found: SearchResult, model: Model, context: Context) -> None:
        """Change the model to the plan's form, and set the plan's float layers and ranges for the quantizer."""
        amaxes = found.best.amax
        quantized = [group for group in self.simulation.switches.groups if group.name not in found.best.kept]
        if self.forms is not None and self.forms.take([group.name for group in quantized], model, context):
            context.ranges(model, self.quantizer.wanted(model, context), self.quantizer.precision)
            read = {tensor for group in quantized for tensor in group.tensors}
            # the ranges were not chosen for layers that are float in this form
            amaxes = {tensor: amax for tensor, amax in amaxes.items() if tensor in read}
        keep = Precision(self.settings.keep) if self.settings.keep else context.rest
        for name in found.best.kept:
            why = float_reason(name, self.quantizer.dtype, found, self.budget, self.simulation.work.macs_share(name))
            # layers without pairs are built as they were measured: a constraint would result in another engine
            context.plan.ask(name, keep, why, free=self.settings.keep is None)
            context.journal.changed(name, Code.STAYS(precision=keep), why)
        ranges = context.known_ranges
        by_method: dict[str, dict[str, tuple[float, float]]] = {}
        for tensor, amax in amaxes.items():
            assert ranges is not None
            before = ranges.tensors[tensor]
            method = found.methods.get(tensor, before.method)
            ranges.tensors[tensor] = before.with_amax(amax, method)
            by_method.setdefault(method, {})[tensor] = amax, before.amax
        for method, tensors in by_method.items():
            after, was = zip(*tensors.values())
            context.journal.noted(Code.SEARCH_RANGE(method=method, tensors=list(tensors), amax=after, before=was))

    def tell(self, note: Finding) -> None:
        """Add a note to the search's record, if there is one."""
        path = self.context.folder / f"{self.name}.json" if self.context.folder is not None else None
        if path is not None and path in self.context.files:
            written = SearchRecord.load(path)
            written.notes.append(note)
            written.save(path)

    # ---------------------------------------------------------------- parts of the search

    def _doubts(self, found: SearchResult) -> list[Finding]:
        """Note too few samples for the budget (this finding is returned), and a comparison that is too strict."""
        note = self.context.journal.noted
        few = None if found.lacks_in_types else self.budget.unproven(found.best.outcome, found.reference)
        doubts: list[Finding] = [Code.SEARCH_UNPROVEN(why=few)] if few is not None else []
        for one in doubts:
            note(one)
        ordering = sorted({node.op for node in self.model.nodes} & _ORDERING)
        by_entry = self.simulation.settings.metric is None and found.best.outcome.by_entry
        if found.best.kept and by_entry and ordering:
            note(Code.SEARCH_ORDERING(ops=ordering))
        return doubts

    def _record(self, found: SearchResult, searches: Searches, doubts: list[Finding]) -> None:
        """Write search.json and report the result in the journal."""
        context, simulation, cost, prefer = self.context, searches.judged, searches.cost, searches.prefer
        spots = []
        if found.sensitivity is not None:
            self.spending.pay(SPOTS_PRICE)
            context.progress(doing := "causes in the worst layers", 0, 1)
            spots = weak_spots(simulation, found.sensitivity, taken=found.methods)
            context.progress(doing, 1, 1)
        samples = sum(feed.count for feed in simulation.feeds)
        found.first = self.spending.first if self.spending.first is not None else found.first
        found.inferences, found.computed = self.spending.priced, self.spending.counted(simulation.runner.float_seconds)
        metric = simulation.settings.metric
        named = context.evaluation.metric if context.evaluation is not None else None
        lacking = named if metric is None or simulation.settings.against_float else None
        content = record(found, cost, self.budget, prefer, samples, spots, doubts, metric, lacking)
        if context.folder is not None:
            path = context.folder / f"{self.name}.json"
            content.save(path)
            context.wrote(path)
        note, best = context.journal.noted, found.best
        note(Code.SEARCH_SUMMARY(
            plans=len(found.plans), share=best.quantized, of=cost.work.of, dtype=self.quantizer.dtype,
            kept=len(best.kept), inferences=found.inferences,
        ))  # fmt: skip
        if not best.meets:
            note(Code.SEARCH_MISSED(limits=list(best.lacks), by=list(best.lacks.values())))
        if cost.times.seconds:
            note(Code.TIMES_SHARE(share=content.measured_share, gpu=cost.gpu.name, scale=cost.scale))
        slower = slower_than_float(found, cost, prefer)
        for one in filter(None, (found.no_plan, slower, *found.notes)):
            note(one)
