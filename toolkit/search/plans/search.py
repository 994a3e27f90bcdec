"""Search for the cheapest plan within a budget: better ranges first, then the fewest and cheapest float layers."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import takewhile

from toolkit.contract.findings import Code, Finding
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.evaluation.comparison.type_noise import TypeNoise
from toolkit.search.budget.spending import FLOAT_PRICE, SINGLE_LAYER, Spending
from toolkit.search.codes import SearchEndCode
from toolkit.search.cost.cost_model import CostModel
from toolkit.search.plans.choosing_ranges import ChoosingRanges
from toolkit.search.plans.range_methods import methods_of
from toolkit.search.plans.searched_plan import SearchedPlan
from toolkit.search.sensitivity.independent_layers import independent, outputs_reached
from toolkit.search.sensitivity.measure import Sensitivity, exact, reliability
from toolkit.simulation.simulation import Simulation

_EXPONENTS = (0.25, 1.0)
"""The exponents of a layer's price in the order of layers: a small one, for few float layers, then the full price."""
_FEW = 2
"""So few float layers leave little to improve; so many layers are left out at least, whatever that costs."""
_WORST_GROUPS = 8
"""The most layers that are left out one by one."""
_SENSE_PRICE, _SENSE_SHARE, _LEFT_OUT_PRICE = 2.0, 0.5, 1.2
"""The most inferences for measuring every layer alone, also as a share of those that are left, and for leaving out the
worst layers, with ``SINGLE_LAYER`` in the price. The order of layers needs few samples (``sensitivity.measure.fast``),
but of a text recognizer's work 1 % less ended in INT8 with 1.2 for layers alone than with 2.0.
"""


@dataclass
class SearchResult:
    """The result of a search.

    Attributes:
        best: the cheapest plan that meets the budget, or else the nearest one.
        plans: all plans evaluated, in order.
        evaluations: how many there were.
        sensitivity: the measurements of all groups; None if the first plan met the budget.
        reference: the float model's outcome.
        methods: for each tensor whose range the best plan replaces, the calibration method of the new range.
        notes: findings for the user.
        inferences: the price of all runs of a model, in float inferences of the samples, counted in arithmetic.
        computed: the measured duration in the same unit; not recorded, since it differs between runs.
        first: the price at which the first plan within the budget was found; None if none was found.
        idle: groups that would gain no time by quantization; set if the fastest plan is searched for.
        lacks_in_types: how far the best plan misses the budget in the types that it runs in although its simulation
            in float32 meets it; empty if it meets the budget in these types too, or cannot be run in them.
        limits_in_types: whether it meets the budget's limits in these types and misses only part of the margin.
        rest_lacks: how far the unquantized model misses the budget in the float type; empty if the plan meets it.
        real: the best plan's outcome in the types that it runs in; None if not measured.
        types: the noise that these types add to the best plan, if it misses the budget in them; else None.
        no_plan: the finding that nothing is quantized as no plan with a quantized layer meets the budget; or None.
        squashed_by: the operator that maps the best plan's noisiest output into a fixed range; empty if none does.
        promise: the expected gain of further plans, as a share of the work; infinite if unknown.
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
        """The Pareto front of noise against predicted latency, the fastest plan first."""
        front: list[SearchedPlan] = []
        for plan in sorted((plan for plan in self.plans if plan.whole), key=lambda p: (p.seconds, p.outcome.noise)):
            if not front or plan.outcome.noise < front[-1].outcome.noise:
                front.append(plan)
        return front


class Search(ChoosingRanges):
    """Searches for the cheapest plan within a budget.

    1. Quantize everything; done if that meets the budget safely. Then use the ranges of each other method: between
       methods a model's noise differs by up to 20 dB, and a better one costs no latency.
    2. Measure the sensitivity of every group, alone and left out, with the best method's ranges. The other methods are
       tried for each input of the worst groups.
    3. Sort the groups by noise removed over price and keep the first n of them float, with n found by doubling and
       bisection.
    4. Prune: quantize kept groups again that need not be float. Steps 3 and 4 are done for two orders, one in
       which the price counts little and one in which it counts in full, unless the first finds very few groups.
    5. Run plans that would be better if they met the budget, as predicted from the noise of those that ran.

    If inferences are limited, steps 3 and 4 are left out: step 5 begins with the groups' noise on as many batches as a
    share of the inferences pays for, and runs each plan on few batches first. Methods race: the less noisy ones are run
    on more batches. If few groups make nearly all of the noise, ranges are first chosen again without these.

    The arguments are those of ``Evaluations``.
    """

    _taken: Collection[str] = ()

    def run(self, first: bool = False) -> SearchResult:
        """Search; the result is the plan nearest to the budget if none meets it.

        With worker processes every plan's batches are distributed; no decision depends on which finishes first.

        Args:
            first: whether to stop at the first plan within the budget.
        """
        self._first_alone = first
        with ExitStack() as self._shared:
            return self._searched()

    def _searched(self) -> SearchResult:
        self._begin()
        self._shared.enter_context(self.simulation.shared_out())
        plan = self._quantized()
        sensitivity = self._with_float_layers(plan) if not plan.meets else None
        self._settle()
        assert self.best is not None
        if self.prefer == "time":
            self._faster(self.best.kept)
        self.progress("search", self.limit, self.limit)
        if not self.best.meets:
            self.notes.append(Code.SEARCH_NEAREST())
        if len(self.best.kept) == len(names := self.simulation.names):
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

    def _quantized(self) -> SearchedPlan:
        """Evaluate full quantization; with the ranges of each method, unless the recipe's safely meet the budget."""
        plan = self._everything()
        if self.prefer == "time":
            self._faster((), self.simulation.names)
        safe = plan.whole and self.budget.safely(plan.outcome, self.simulation.runner.float_outcome)
        return self._best_method() if self.try_ranges and not safe else plan

    def _with_float_layers(self, plan: SearchedPlan) -> Sensitivity:
        """Measure the layers, improve ranges, and look for the layers to keep float; returns the measurements.

        Args:
            plan: the fully quantized plan with the best method's ranges, which misses the budget.
        """
        self._probes.clear()
        if self.amax:
            self._rebase()
        sensitivity = self._sensed = self._sense()
        measure = self._measure(sensitivity.full)
        harm = {group.name: group.harm(sensitivity.full, measure) for group in sensitivity.groups}
        chooses_ranges = self.try_ranges and not self._first_alone
        if chooses_ranges:
            plan = self._better_ranges(plan, sensitivity, harm, measure)
        if plan.meets:
            return sensitivity
        self._measured_with = dict(self.amax)
        other = self.spending.limited and chooses_ranges and self._for_the_others(harm, sensitivity, measure)
        if other:
            self._measured_with = dict(self.amax)
        self._layers(harm, measure, sensitivity, other)
        return sensitivity

    def _rebase(self) -> None:
        """Use a simulation whose base state has the ranges in use: states that begin like the base state reuse it."""
        self._shared.close()
        before, self.simulation = self.simulation, self.simulation.rebased(self.amax)
        # the float model's states remain valid for the new one
        before.runner.forget(float_too=False)
        self._shared.enter_context(self.simulation.shared_out())

    # ---------------------------------------------------------------- the noise of each group

    def _sense(self) -> Sensitivity:
        """Measure every group alone, on as many batches as ``_SENSE_PRICE`` pays for.

        Without a limit on inferences, groups are also measured left out, on all batches. Groups known from another form
        of the model are not measured again. When the minutes are over, the remaining groups stay unmeasured.
        """
        simulation, log, progress = self.simulation, self._sensitivity_log, self.progress
        if not self.spending.limited:
            return self._with_unmeasured(exact(simulation, log=log, progress=progress, over=self._over))
        runner, switches = simulation.runner, simulation.switches
        taken = self._alone.of_same(simulation) if self._alone is not None else {}
        names = [name for name in simulation.names if name not in taken]
        # if outputs are judged separately, layers that reach no common output are measured together
        together = self._judges_apart
        some = independent(names, outputs_reached(simulation)) if together else [[name] for name in names]
        alone = list(takewhile(lambda _: not self._over(), map(switches.only, some)))

        def price(batches: int) -> float:
            return SINGLE_LAYER * sum(runner.price(config, batches) for config in alone)

        count, simulated = len(runner.feeds), simulation.fingerprint()
        allowed = min(_SENSE_PRICE, _SENSE_SHARE * self.spending.remaining)
        bought = max((batches for key, batches in self.spending.bought if key == simulated), default=0)
        # the batches that led to a first plan are enough for later plans, which also learn from that plan
        known = self._alone.batches if self._alone is not None and taken else bought
        most = bisect_right(range(1, count + 1), allowed, key=price) if len(alone) == len(some) else 1
        self.batches = known or max(most, 1)
        if not bought:
            self.spending.pay(price(self.batches) + runner.price(simulation.config(()), self.batches))
        found = exact(simulation, modes=("alone",), log=log, progress=progress, batches=self.batches, names=names,
                      together=together, over=self._over)  # fmt: skip
        self._taken = taken.keys()
        found.groups = [replace(group, alone=taken.get(group.name, group.alone)) for group in found.groups]
        if all(group.alone is not None for group in found.groups):
            self.spending.bought.add((simulated, self.batches))
        parts = [group.alone.parts for group in found.groups if group.alone is not None]
        found.reliability = reliability(parts)
        total_samples = sum(feed.count for feed in runner.feeds)
        found.notes.append(Code.SENSITIVITY_ESTIMATED(used=found.samples, total=total_samples))
        return self._with_unmeasured(found)

    def _over(self) -> bool:
        return self.spending.over

    def _with_unmeasured(self, found: Sensitivity) -> Sensitivity:
        """``found``, with a note if the minutes ended before every group was measured alone."""
        missing = sum(group.alone is None for group in found.groups)
        if missing:
            self.notes.append(SearchEndCode.UNMEASURED(layers=missing, of=len(found.groups)))
        return found

    def _leave_out(self, found: Sensitivity) -> list[tuple[str, Outcome]]:
        """Outcomes without each of the worst groups, with the ranges that ``found`` was measured with.

        They show harm that two layers do together, which a first plan need not know, and why a layer stays float.
        Groups whose effect is known from another form of the model are also measured alone, since they are reported.
        """
        simulation, runner = self.simulation, self.simulation.runner
        each = SINGLE_LAYER * self._whole_price * (self.batches or 1) / len(runner.feeds)
        some = max(int(_LEFT_OUT_PRICE / max(each, 1e-9)), _FEW)
        worst = [group.name for group in found.ranked()[: min(some, _WORST_GROUPS)]]
        switches, like, log = simulation.switches, simulation.config(()), self._sensitivity_log
        again = [name for name in worst if name in self._taken]
        self.spending.pay(
            SINGLE_LAYER * sum(runner.price(switches.config([name]), self.batches, like) for name in worst)
            + SINGLE_LAYER * sum(runner.price(switches.alone(name), self.batches) for name in again)
        )
        left = exact(simulation, modes=("without",), log=log, batches=self.batches, names=worst, over=self._over)
        alone = exact(simulation, modes=("alone",), log=log, batches=self.batches, names=again, over=self._over)
        without = {group.name: group.without for group in left.groups}
        fresh = {group.name: group.alone for group in alone.groups if group.alone is not None}
        found.groups = [
            replace(group, without=without[group.name], alone=fresh.get(group.name, group.alone))
            for group in found.groups
        ]
        found.inferences += left.inferences + alone.inferences
        return [(name, outcome) for name, outcome in without.items() if outcome is not None]

    def _measure(self, full: Outcome) -> Callable[[Outcome], float]:
        """A smooth measure of the error that the budget limits: it grows with every error and not in steps.

        For limits on answers it is the KL divergence of the class scores, if there are any, which weighs an error by
        its effect on the answer; noise weighs all errors alike.
        """
        if (
            self._judges_apart
            or self.budget.min_sqnr_db is not None
            or full.kl is None
            or not math.isfinite(full.noise)
        ):
            return lambda outcome: outcome.noise
        return lambda outcome: outcome.kl if outcome.kl is not None and math.isfinite(outcome.noise) else math.inf

    # ---------------------------------------------------------------- the layers to keep float

    def _layers(
        self, harm: dict[str, float], measure: Callable[[Outcome], float], sensitivity: Sensitivity, other: bool
    ) -> None:
        """Look for the layers to keep float; ``other``: whether other ranges are in use than for ``sensitivity``."""
        if not self.spending.limited:
            self._choose(harm)
            if self.best is not None and self.best.passes and len(self.best.kept) > _FEW:
                self.amax = dict(self.best.amax)
                self._propose(harm, measure)
            return
        self._propose(harm, measure, first=True)
        assert self.best is not None
        if self._likely is not None and len(self.best.kept) == len(self.simulation.names):
            # a form of the model that suits INT8 better has at least this plan, however little is left to spend
            self._evaluate(self._likely, sure=True)
        if not self.best.passes:
            return
        if self.first is None and self.best.amax == self.amax:
            # a search that is stopped after this has a plan
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
        """Groups by noise removed over a power of their price, the largest first."""
        return sorted(harm, key=lambda name: (-harm[name] / self._price(name) ** exponent, name))

    def _nested(self, order: Sequence[str], first: bool) -> list[str] | None:
        """The first n groups of an order, with the smallest n whose plan meets the budget; None if there is none.

        n is found by doubling and bisection. The first time, the best method for the remaining layers is chosen again
        after the few worst are float.
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
            # the last evaluation is for the plan with all groups float: it meets any budget that the float model meets
            n = len(order) if self._left() <= 1 else 2 * n
        while n - fails > 1 and self._left() > 0:
            middle = (fails + n) // 2
            if self._evaluate(order[:middle]).passes:
                n = middle
            else:
                fails = middle
        return list(order[:n])

    def _prune(self, kept: list[str], harm: Mapping[str, float]) -> list[str]:
        """Quantize groups that need not be float: blocks of the least useful while they pass, then single groups."""
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
                    # the following groups remove more noise for their price
                    break
                else:
                    position += size
            size //= 2
        return order


def all_float(simulation: Simulation, cost: CostModel, budget: Budget, spending: Spending) -> SearchResult:
    """The result of a search if no plan is predicted to be faster than float: nothing is quantized or measured."""
    spending.pay(0.0 if simulation.ran else FLOAT_PRICE)
    names, reference = tuple(sorted(simulation.names)), simulation.runner.float_outcome
    seconds = cost.time(names)
    best = SearchedPlan(names, {}, reference, budget.lacks(reference, reference, seconds), seconds, 0.0)
    computed = spending.counted(simulation.runner.float_seconds)
    notes: list[Finding] = [Code.SEARCH_ALL_FLOAT(by_time=True, faster=0)]
    return SearchResult(best, [best], 1, None, reference, notes=notes, inferences=spending.priced, computed=computed)
