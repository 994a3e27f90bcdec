"""What a search finds out before it searches: a first plan, and which helper passes make INT8 better."""

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
"""Batches of few samples, where they are alike: three of them keep two threads busy for as long as four."""


class HelperTrials(RealTypes):
    """The part of a search that comes before its plans are weighed.

    Attributes:
        plain: the simulation before samples have said how weights are rounded.
        decided_on: how many samples an inference of the account covers; a trial on a part of them covers fewer.
        first: what ``first_plan`` found.
        likely: what stays float in a plan that met the budget in another form of the model.
        alone: the effects of single layers in that form.
        quietest: the method with the least noise while ``first_plan`` looked for one, see ``ChoosingRanges``.
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
        """What was measured of plans, so that nothing is measured twice."""
        if self._log is None or self._log[0] is not self.simulation:
            self._log = self.simulation, self._opened(self.name, self.simulation)
        return self._log[1]

    def first_plan(self) -> SearchedPlan | None:
        """The first plan within the budget, before anything else is tried; None where none was found.

        It remains where the minutes run out, or the search is stopped among helper trials. Weights are rounded to the
        nearest in it: choosing on samples how they are rounded takes as long as several inferences, and is done once,
        for the form of the model that is searched. Where that changes nothing, what was measured is known to the search
        that follows. A layer's weights are rounded differently only where its output is nearer to the float one on
        held-out samples, and every plan is measured again.
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
        """Note that helpers that were found to help are not applied."""
        events = self.context.journal.events
        for place, event in enumerate(events):
            if event.why is not None and event.why.code is Code.SEARCH_HELPER and event.why.values["applied"]:
                told = Code.SEARCH_HELPER(**{**event.why.values, "applied": False})
                events[place] = replace(event, why=told)

    @cached_property
    def _trials(self) -> Log:
        """What trials showed: each line names the form of the model that it is about."""
        folder = self.context.log_folder
        path = folder / f"{self.name}_helpers.jsonl" if folder is not None else None
        return Log(path, code_fingerprint(), needs_now)

    def _opened(self, name: str, simulation: Simulation) -> Log:
        folder = self.context.log_folder
        path = folder / f"{name}.jsonl" if folder is not None else None
        return Log(path, simulation.fingerprint(), needs_now)

    def on_few(self) -> Simulation:
        """The simulation on an eighth of the samples, or on half of few; weights are rounded to the nearest."""
        total = sum(feed.count for feed in self.plain.feeds)
        few = max(min(_LEAST_FEW, total // 2), -(-total // _FEW))
        if few < _FEWEST:
            return self.plain
        settings = self.plain.settings
        return self.plain.on(replace(settings, samples=few, batch=min(settings.batch, -(-few // _BATCHES))))

    def standing(self, few: Simulation, like: Standing | None = None) -> Standing:
        """How all layers quantized do on ``few`` of the samples, with the calibration method that suits them best.

        Where a first plan was looked for, that is known but for the recipe's own ranges and those with the least noise.

        Args:
            few: this search's simulation on some of its samples.
            like: only its method is tried, besides the recipe's.
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
        """Whether a helper makes quantization clearly better; the journal gets what it does, in dB and in the metric.

        Args:
            name: the helper's.
            before: how all layers quantized do without it.
            after: and how they do with it.
            changed: names of the nodes that it changed.
            forms: this search's simulation on few samples, the float model without the helper, and a function
                returning it with what the helper changes even where every layer stays float; None where that is none.
        """
        part = after.samples / self.decided_on
        effect = HelperEffect.of(before, after, changed, lambda price: self.spending.pay(price * part))
        if effect.helps and after.distance:
            # what it costs the layers that stay float counts where some will
            effect = replace(effect, in_types=self.louder_in_types(*forms))
        squashed_by = self.plain.squashed_by(after.outcome.output)
        metric, rest = self.plain.settings.metric, self.context.rest
        self.context.journal.noted(effect.finding(name, self.quantizer.dtype, metric, squashed_by, rest))
        return effect.helps

    def all_quantized_meets(self, amax: Mapping[str, float]) -> bool:
        """Whether everything quantized with these ranges meets the budget on all samples, in ``plain``."""
        plan = self._ran.get(plan_key((), amax))
        if plan is not None and (plan.whole or plan.clear is False):
            return plan.meets
        return meets(self.budget, self.plain, amax, self.spending)
