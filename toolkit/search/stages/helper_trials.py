"""The stage before the search proper: a first plan, and which helper passes improve quantization."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from toolkit.base.log import Log
from toolkit.base.reads import needs_now
from toolkit.base.versions import code_fingerprint
from toolkit.contract.findings import Code
from toolkit.graph.model import Model
from toolkit.search.budget.racing import meets, plan_key
from toolkit.search.budget.settings import SearchSettings
from toolkit.search.budget.spending import FLOAT_PRICE
from toolkit.search.cost.cost_model import CostModel
from toolkit.search.plans.few_answers import with_quiet
from toolkit.search.plans.range_methods import Standing, standing
from toolkit.search.plans.search import Search
from toolkit.search.plans.searched_plan import SearchedPlan
from toolkit.search.sensitivity.single_layers import SingleLayerOutcomes
from toolkit.search.stages.helper_effect import HelperEffect
from toolkit.search.stages.real_types import RealTypes
from toolkit.search.stages.times import gpu_for
from toolkit.simulation.simulation import Simulation

_FEW, _LEAST_FEW, _FEWEST = 8, 8, 4
_BATCHES = 4
"""How many batches few samples are divided into, of about equal size: three keep two threads busy as long as four."""


class HelperTrials(RealTypes):
    """The part of a search that comes before plans are compared.

    Attributes:
        plain: the simulation with weights rounded to nearest, before rounding is chosen on samples.
        decided_on: how many samples an inference of the account covers; a trial on a subset pays the same share.
        first: the result of ``first_plan``.
        likely: the layers that stay float in a plan that met the budget in another form of the model.
        alone: the effects of single layers in that form.
        quietest: the method with the least noise in ``first_plan``; see ``ChoosingRanges``.
        needs_no_help: whether the first plan quantizes every layer and meets the budget with twice its margin, in the
            types that it runs in as well, on enough answers to show that.
    """

    settings: SearchSettings
    name: str
    plain: Simulation
    decided_on: int
    first: SearchedPlan | None = None
    likely: Sequence[str] | None = None
    alone: SingleLayerOutcomes | None = None
    needs_no_help = False
    quietest: str | None = None
    _ran: Mapping[str, SearchedPlan] = {}
    _log: tuple[Simulation, Log] | None = None

    def log(self) -> Log:
        """The log of plan measurements, so that nothing is measured twice."""
        if self._log is None or self._log[0] is not self.simulation:
            self._log = self.simulation, self._opened(self.name, self.simulation)
        return self._log[1]

    def first_plan(self) -> SearchedPlan | None:
        """Find the first plan within the budget, before anything else is tried; None if none was found.

        It is the result if time runs out or the search is stopped during helper trials. Its weights are rounded to
        nearest: choosing the rounding on samples takes as long as several inferences, and is done once, for the form of
        the model that is searched. If that changes no weights, the search reuses the measurements made here. A layer's
        weights are rounded differently only if its output is then closer to the float output on held-out samples, and
        then every plan is measured again.
        """
        folder, budget = self.context.log_folder, replace(self.budget, max_ms=None)
        simulation, own, gpu = self.plain, self.settings, gpu_for(self.settings.gpu, self.context)
        self._log = simulation, self._opened(f"{self.name}_first", simulation)
        begun = Search(
            simulation, budget,
            CostModel(simulation.switches, simulation.facts, gpu, self.context.rest, work=simulation.work),
            evaluations=own.evaluations, try_ranges=own.try_ranges, log=self._log[1], progress=self.context.progress,
            spending=self.spending, best=folder / f"{self.name}_best.json" if folder is not None else None,
        )  # fmt: skip
        found = begun.run(first=True)
        best = found.best
        if found.sensitivity is not None and begun.batches is not None:
            self.alone = SingleLayerOutcomes.of(begun.simulation, found.sensitivity, begun.batches)
        self.quietest = begun.quietest
        self._ran = {plan_key(plan.kept, plan.amax): plan for plan in found.plans}
        self.spending.first = begun.first
        self.first = best if best.meets and best.whole and len(best.kept) < len(simulation.names) else None
        if self.first is not None and not best.kept and budget.safely(best.outcome, found.reference):
            # a helper could quantize nothing more
            told = with_quiet(budget, best, found.plans, found.reference) is None
            self.needs_no_help = told and self.holds_in_types(found)
        return self.first

    def without_helpers(self) -> None:
        """Correct the journal: helpers that were found to help are not applied after all."""
        events = self.context.journal.events
        for place, event in enumerate(events):
            if event.why is not None and event.why.code is Code.SEARCH_HELPER and event.why.values["applied"]:
                told = Code.SEARCH_HELPER(**{**event.why.values, "applied": False})
                events[place] = replace(event, why=told)

    @cached_property
    def _trials(self) -> Log:
        """The log of trial outcomes; each entry names the form of the model that it belongs to."""
        folder = self.context.log_folder
        path = folder / f"{self.name}_helpers.jsonl" if folder is not None else None
        return Log(path, code_fingerprint(), needs_now)

    def _opened(self, name: str, simulation: Simulation) -> Log:
        folder = self.context.log_folder
        path = folder / f"{name}.jsonl" if folder is not None else None
        return Log(path, simulation.fingerprint(), needs_now)

    def on_few(self) -> Simulation:
        """The simulation on an eighth of the samples, or on half of few samples; weights are rounded to nearest."""
        total = sum(feed.count for feed in self.plain.feeds)
        few = max(min(_LEAST_FEW, total // 2), -(-total // _FEW))
        if few < _FEWEST:
            return self.plain
        settings = self.plain.settings
        return self.plain.on(replace(settings, samples=few, batch=min(settings.batch, -(-few // _BATCHES))))

    def standing(self, few: Simulation, like: Standing | None = None) -> Standing:
        """The standing of full quantization on ``few`` of the samples, with the calibration method that suits it best.

        If a first plan was searched for, only the recipe's own ranges and the least noisy method found there are tried.

        Args:
            few: this search's simulation on some of its samples.
            like: only the method of this standing is tried, besides the recipe's.
        """
        part = sum(feed.count for feed in few.feeds) / self.decided_on
        self.spending.pay(0.0 if few.ran else FLOAT_PRICE * part)

        def pay(price: float) -> None:
            self.spending.pay(price * part)

        method = self.quietest if like is None else like.method
        return standing(few, self.budget, self.settings.try_ranges, method, pay, self._trials)

    def helps(
        self, name: str, before: Standing, after: Standing, changed: Collection[str],
        forms: tuple[Simulation, Model, Callable[[], Model | None]],
    ) -> bool:  # fmt: skip
        """Whether a helper makes quantization clearly better; the journal gets its effect, in dB and in the metric.

        Args:
            name: the helper's name.
            before: the standing of full quantization without it.
            after: the standing with it.
            changed: names of the nodes that it changed.
            forms: this search's simulation on few samples, the float model without the helper, and a function that
                returns the model with the helper's changes that stay even if every layer is float, or None if none do.
        """
        part = after.samples / self.decided_on
        effect = HelperEffect.of(before, after, changed, lambda price: self.spending.pay(price * part))
        if effect.helps and after.distance:
            # the cost to float layers only matters if a plan will have any
            effect = replace(effect, in_types=self.louder_in_types(*forms))
        squashed_by = self.plain.squashed_by(after.outcome.output)
        metric, rest = self.plain.settings.metric, self.context.rest
        self.context.journal.noted(effect.finding(name, self.quantizer.dtype, metric, squashed_by, rest))
        return effect.helps

    def all_quantized_meets(self, amax: Mapping[str, float]) -> bool:
        """Whether full quantization with these ranges meets the budget on all samples, in ``plain``."""
        plan = self._ran.get(plan_key((), amax))
        if plan is not None and (plan.whole or plan.clear is False):
            return plan.meets
        return meets(self.budget, self.plain, amax, self.spending)
