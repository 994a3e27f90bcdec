"""The cheapest plan within a budget: better ranges first, then the fewest and cheapest layers kept float."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from toolkit.contract.findings import Code, Finding
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.evaluation.comparison.type_noise import TypeNoise
from toolkit.search.budget.spending import FLOAT_PRICE, Spending
from toolkit.search.cost.cost_model import CostModel
from toolkit.search.plans.choosing_ranges import ChoosingRanges
from toolkit.search.plans.range_methods import methods_of
from toolkit.search.plans.searched_plan import SearchedPlan
from toolkit.search.sensitivity.independent_layers import independent, outputs_reached
from toolkit.search.sensitivity.measure import Sensitivity, exact, reliability
from toolkit.simulation.simulation import Simulation

_EXPONENTS = (0.25, 1.0)
"""How much a layer's price counts in the order of layers: little, so that few layers do it, then in full."""
_FEW = 2
_WORST_GROUPS = 8
_SENSE_PRICE, _FIRST_SENSE_PRICE, _SENSE_SHARE, _LEFT_OUT_PRICE = 1.0, 1.0, 0.25, 0.6


@dataclass
class SearchResult:
    """The result of a search.

    Attributes:
        best: the cheapest plan that meets the budget, or the nearest one.
        plans: all plans evaluated, in order.
        evaluations: how many there were.
        sensitivity: results for all groups; None where the first plan met the budget.
        reference: the float model's outcome.
        methods: for every tensor whose range the best plan replaces, the method that gives this one.
        notes: what the reader should know.
        inferences: the price of everything that ran a model, in float inferences of the samples, by arithmetic alone.
        computed: what it really took, by the clock; not recorded, since it is never the same twice.
        first: what it had cost when the first plan within the budget was found; None where none was.
        idle: groups of the best plan that would gain no time, where the fastest plan was wanted.
        lacks_in_types: how far the best plan misses the budget in the types that it runs in, where its simulation in
            float32 meets it; empty where it meets it in these too, or cannot be run in them.
        limits_in_types: whether it meets the budget's limits in these, and misses only some of its margin.
        rest_lacks: how far the unquantized model misses it with its layers in the float type, where the plan does.
        real: the best plan's outcome in the types that it runs in; None where that was not looked at.
        types: what the types that it runs in add to the best plan, where it misses the budget in them; else None.
        no_plan: the finding that no plan with a layer quantized meets the budget, so that nothing is; else None.
        squashed_by: the operator that squashes the output of the best plan's noise into a fixed range.
        promise: what further plans are expected to gain, as a share of the work; infinite where not known.
    """

    best: SearchedPlan
    plans: list[SearchedPlan]
    evaluations: int
    sensitivity: Sensitivity | None
    reference: Outcome
    methods: dict[str, str] = field(default_factory=dict)
    notes: list[Finding] = field(default_factory=list)
    inferences: float = 0.0
    computed: float = 0.0
    first: float | None = None
    idle: Collection[str] = ()
    lacks_in_types: dict[str, float] = field(default_factory=dict)
    rest_lacks: dict[str, float] = field(default_factory=dict)
    limits_in_types: bool = False
    no_plan: Finding | None = None
    real: Outcome | None = None
    types: TypeNoise | None = None
    squashed_by: str = ""
    promise: float = math.inf

    def front(self) -> list[SearchedPlan]:
        """The Pareto front of noise against predicted time, the fastest first."""
        front: list[SearchedPlan] = []
        for plan in sorted((plan for plan in self.plans if plan.whole), key=lambda p: (p.seconds, p.outcome.noise)):
            if not front or plan.outcome.noise < front[-1].outcome.noise:
                front.append(plan)
        return front


class Search(ChoosingRanges):
    """Looks for the cheapest plan within a budget.

    1. Everything quantized; done where that meets the budget safely. Then with the ranges of each other method: which
       one suits a model differs by twenty dB, and a better one costs nothing.
    2. Sensitivity of every group, alone and left out, with the best method's ranges. The tensors of the worst groups
       try the other methods one by one.
    3. Groups in the order of noise removed for what it costs; the first n of them are kept float, with n found by
       doubling and bisection.
    4. Pruning: kept groups that turn out not to be needed go back. Steps 3 and 4 are done with two orders, one in
       which the price counts little and one in which it counts in full, unless the first finds very few groups.
    5. Plans that would be better if they met the budget, by what was learnt of the noise of those that ran.

    Where inferences are limited, steps 3 and 4 are left out: step 5 begins with what the groups showed on as many
    batches as some of the inferences pay for, and runs each plan on few batches first. Methods race: the quieter ones
    go on to more batches. Where few groups make nearly all of the noise, ranges are first chosen again without these.

    The arguments are those of ``Evaluations``.
    """

    _taken: Collection[str] = ()

    def run(self, first: bool = False) -> SearchResult:
        """Search; the nearest plan is the result where none meets the budget.

        Where work runs elsewhere, every plan's batches are shared out; no decision depends on which is done first.

        Args:
            first: whether the first plan within the budget is enough.
        """
        self._first_alone = first
        with ExitStack() as self._shared:
            return self._searched()

    def _searched(self) -> SearchResult:
        names, runner = self.simulation.names, self.simulation.runner
        self._begin()
        self._shared.enter_context(self.simulation.shared_out())
        plan = self._everything()
        sensitivity = None
        if self.prefer == "time":
            self._faster((), names)
        if self.try_ranges and not (plan.whole and self.budget.safely(plan.outcome, runner.float_outcome)):
            plan = self._best_method()
        if not plan.meets:
            self._probes.clear()
            if self.amax:
                # states are reused where they begin like the base state, which had better be the one now in use
                self._shared.close()
                before, self.simulation = self.simulation, self.simulation.rebased(self.amax)
                # the float model's states remain valid for the new one
                before.runner.forget(float_too=False)
                self._shared.enter_context(self.simulation.shared_out())
            sensitivity = self._sensed = self._sense()
            measure = self._measure(sensitivity.full)
            harm = {group.name: group.harm(sensitivity.full, measure) for group in sensitivity.groups}
            if self.try_ranges and not self._first_alone:
                plan = self._better_ranges(plan, sensitivity, harm, measure)
            if not plan.meets:
                self._measured_with = dict(self.amax)
                others = self.spending.limited and self.try_ranges and not self._first_alone
                other = others and self._for_the_others(harm, sensitivity, measure)
                if other:
                    self._measured_with = dict(self.amax)
                self._layers(harm, measure, sensitivity, other)
        self._settle()
        assert self.best is not None
        if self.prefer == "time":
            self._faster(self.best.kept)
        self.progress("search", self.limit, self.limit)
        if not self.best.meets:
            self.notes.append(Code.SEARCH_NEAREST())
        if len(self.best.kept) == len(names):
            faster = [plan for plan in self.plans if plan.seconds < self.cost.time(names)]
            self.notes.append(Code.SEARCH_ALL_FLOAT(by_time=self.prefer == "time", faster=len(faster)))
        return SearchResult(
            best=self.best,
            plans=self.plans,
            evaluations=len(self.plans),
            sensitivity=sensitivity,
            reference=self.simulation.runner.float_outcome,
            methods=methods_of(self.simulation, self.best.amax),
            notes=self.notes,
            inferences=self.spending.priced,
            computed=self.spending.counted(self.simulation.runner.float_seconds),
            first=self.first,
            squashed_by=self.simulation.squashed_by(self.best.outcome.output),
            promise=self.promise,
        )

    # ---------------------------------------------------------------- what each group costs

    def _sense(self) -> Sensitivity:
        """Every group alone, on as many batches as ``_SENSE_PRICE`` pays for; without a limit left out too, on all.

        What is known of groups in another form of the model is not measured again.
        """
        simulation, log, progress = self.simulation, self._sensitivity_log, self.progress
        if not self.spending.limited:
            return exact(simulation, log=log, progress=progress)
        runner, switches = simulation.runner, simulation.switches
        taken = self._alone.of_same(simulation) if self._alone is not None else {}
        names = [name for name in simulation.names if name not in taken]
        # where outputs are judged apart, so are the layers that reach no output in common
        together = self._judges_apart
        some = independent(names, outputs_reached(simulation)) if together else [[name] for name in names]
        alone = [switches.only(one) for one in some]

        def price(batches: int) -> float:
            return sum(runner.price(config, batches) for config in alone)

        count, simulated = len(runner.feeds), simulation.fingerprint()
        allowed = min(_FIRST_SENSE_PRICE if self._first_alone else _SENSE_PRICE, _SENSE_SHARE * self.spending.remaining)
        bought = max((batches for key, batches in self.spending.bought if key == simulated), default=0)
        # what led to a first plan is enough for later plans, which also have that plan to learn from
        known = self._alone.batches if self._alone is not None and taken else bought
        self.batches = known or max(bisect_right(range(1, count + 1), allowed, key=price), 1)
        if not bought:
            self.spending.pay(price(self.batches) + runner.price(simulation.config(()), self.batches))
        self.spending.bought.add((simulated, self.batches))
        found = exact(simulation, modes=("alone",), log=log, progress=progress, batches=self.batches, names=names,
                      together=together)  # fmt: skip
        self._taken = taken.keys()
        found.groups = [replace(group, alone=taken.get(group.name, group.alone)) for group in found.groups]
        parts = [group.alone.parts for group in found.groups if group.alone is not None]
        found.reliability = reliability(parts)
        total_samples = sum(feed.count for feed in runner.feeds)
        found.notes.append(Code.SENSITIVITY_ESTIMATED(used=found.samples, total=total_samples))
        return found

    def _leave_out(self, found: Sensitivity) -> list[tuple[str, Outcome]]:
        """What the model does without the worst groups, one by one, with the ranges that ``found`` was measured with.

        It shows a harm that takes two layers, which a first plan need not know, and why a layer stays float. Of the
        layers known from another form, these are measured alone too, since they are reported.
        """
        simulation, runner = self.simulation, self.simulation.runner
        some = max(int(_LEFT_OUT_PRICE / max(self._whole_price * (self.batches or 1) / len(runner.feeds), 1e-9)), _FEW)
        worst = [group.name for group in found.ranked()[: min(some, _WORST_GROUPS)]]
        switches, like, log = simulation.switches, simulation.config(()), self._sensitivity_log
        again = [name for name in worst if name in self._taken]
        self.spending.pay(
            sum(runner.price(switches.config([name]), self.batches, like) for name in worst)
            + sum(runner.price(switches.alone(name), self.batches) for name in again)
        )
        left = exact(simulation, modes=("without",), log=log, batches=self.batches, names=worst)
        alone = exact(simulation, modes=("alone",), log=log, batches=self.batches, names=again)
        without = {group.name: group.without for group in left.groups}
        fresh = {group.name: group.alone for group in alone.groups if group.alone is not None}
        found.groups = [
            replace(group, without=without[group.name], alone=fresh.get(group.name, group.alone))
            for group in found.groups
        ]
        found.inferences += left.inferences + alone.inferences
        return [(name, outcome) for name, outcome in without.items() if outcome is not None]

    def _measure(self, full: Outcome) -> Callable[[Outcome], float]:
        """A measure of what the budget limits that grows with every error and not in steps.

        For limits on answers it is the divergence of the classes' scores, where there are any, which weighs an error by
        what it can change; noise weighs all errors alike.
        """
        if (
            self._judges_apart
            or self.budget.min_sqnr_db is not None
            or full.kl is None
            or not math.isfinite(full.noise)
        ):
            return lambda outcome: outcome.noise
        return lambda outcome: outcome.kl if outcome.kl is not None and math.isfinite(outcome.noise) else math.inf

    # ---------------------------------------------------------------- which layers

    def _layers(
        self, harm: dict[str, float], measure: Callable[[Outcome], float], sensitivity: Sensitivity, other: bool
    ) -> None:
        """Look for the layers to keep float; ``other``: with ranges other than those of ``sensitivity``."""
        if not self.spending.limited:
            self._choose(harm)
            if self.best is not None and self.best.passes and len(self.best.kept) > _FEW:
                self.amax = dict(self.best.amax)
                self._propose(harm, measure)
            return
        self._propose(harm, measure, first=True)
        assert self.best is not None
        if self._likely is not None and len(self.best.kept) == len(self.simulation.names):
            # a form of the model that suits INT8 better has at least this plan, whatever is left to spend
            self._evaluate(self._likely, sure=True)
        if not self.best.passes:
            return
        if self.first is None and self.best.amax == self.amax:
            # from here on a stopped search has a plan
            self._evaluate(self.best.kept)
        if self._first_alone:
            return
        other = (self.try_ranges and self._rich and self._with_best_ranges(self.best.kept)) or other
        left_out = self._leave_out(sensitivity) if self._left() > 0 else []
        if not other:
            for group in (group for group in sensitivity.groups if group.without is not None):
                harm[group.name] = max(harm[group.name], replace(group, alone=None).harm(sensitivity.full, measure))
        self._propose(harm, measure, left_out if not other else ())

    def _choose(self, harm: Mapping[str, float]) -> None:
        for exponent in _EXPONENTS:
            kept = self._nested(self._order(harm, exponent), first=exponent == _EXPONENTS[0])
            assert self.best is not None
            if kept is None:
                return
            kept = self._prune(kept, harm)
            if len(kept) >= _FEW and self._with_best_ranges(kept):
                self._prune(kept, harm)
            if len(self.best.kept) <= _FEW:
                return

    def _order(self, harm: Mapping[str, float], exponent: float) -> list[str]:
        """Groups by noise removed for what keeping them float costs, the best bargain first."""
        return sorted(harm, key=lambda name: (-harm[name] / self._price(name) ** exponent, name))

    def _nested(self, order: Sequence[str], first: bool) -> list[str] | None:
        """The smallest n, by doubling and bisection, for which keeping the first n groups meets the budget.

        The first time, the method that suits the remaining layers is chosen again once the few worst are out.
        """
        fails, n = 0, 1 if self._left() > 1 else len(order)
        if self._left() <= 0 and (self._left_by_count() <= 0 or (self.best is not None and self.best.meets)):
            return None
        while True:
            n = min(n, len(order))
            if self._evaluate(order[:n]).passes:
                break
            if first and n <= _FEW and self._with_best_ranges(order[:n]) and self._evaluate(order[:n]).passes:
                break
            fails = n
            if n == len(order) or self._left_by_count() <= 0:
                return None
            # the last evaluation is for what keeps the most: it meets any budget that the float model meets
            n = len(order) if self._left() <= 1 else 2 * n
        while n - fails > 1 and self._left() > 0:
            middle = (fails + n) // 2
            if self._evaluate(order[:middle]).passes:
                n = middle
            else:
                fails = middle
        return list(order[:n])

    def _prune(self, kept: list[str], harm: Mapping[str, float]) -> list[str]:
        """Quantize again what need not be float: halves of the worst bargains while that goes well, then one by one."""
        order = sorted(kept, key=lambda name: (harm[name] / self._price(name), name))
        size = len(order) // 2
        while len(order) > 1 and size >= 1:
            position = 0
            while position < len(order) and self._left() > 0:
                block = order[position : position + size]
                rest = [name for name in order if name not in block]
                if rest and self._evaluate(rest).passes:
                    order = rest
                elif size > 1:
                    # the following groups are needed more
                    break
                else:
                    position += size
            size //= 2
        return order


def all_float(simulation: Simulation, cost: CostModel, budget: Budget, spending: Spending) -> SearchResult:
    """The result of a search where no plan is predicted to be faster than float: nothing is quantized, and no layer's
    accuracy is looked at.
    """
    spending.pay(0.0 if simulation.ran else FLOAT_PRICE)
    names, reference = tuple(sorted(simulation.names)), simulation.runner.float_outcome
    seconds = cost.time(names)
    best = SearchedPlan(names, {}, reference, budget.lacks(reference, reference, seconds), seconds, 0.0)
    computed = spending.counted(simulation.runner.float_seconds)
    notes: list[Finding] = [Code.SEARCH_ALL_FLOAT(by_time=True, faster=0)]
    return SearchResult(best, [best], 1, None, reference, notes=notes, inferences=spending.priced, computed=computed)
