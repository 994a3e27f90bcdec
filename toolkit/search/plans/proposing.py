"""The second half of a search: propose plans from a model of their noise, run them, and update the model."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.budget import ON_NOISE, Budget
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.search.plans.demands import Demand, Demands
from toolkit.search.plans.evaluations import Evaluations
from toolkit.search.plans.judged_parts import JudgedPart, judged_parts
from toolkit.search.plans.plan_noise import NoiseLimit, PlanNoise
from toolkit.search.plans.proposals import LEAST_MORE, Proposals
from toolkit.search.plans.searched_plan import SearchedPlan
from toolkit.search.sensitivity.measure import Sensitivity

_UNKNOWN = 0.3
"""The relative standard deviation of one batch's noise from that of all, if nothing more is known."""

_CAUTION = 3.0
"""The exponent of the probability to meet the budget in a plan's worth while a first plan is looked for."""
_DOUBT = 4.0
"""Factor on the doubt about harms that were measured with other ranges."""
_MISSES = 2
"""If inferences are limited, a search ends after this many plans in a row that miss the budget on all samples although
they were expected to improve on the best plan: further ones promise less and are as likely to miss it."""

OfNoise = Callable[[Outcome], float]


@dataclass(frozen=True)
class _OutputGroup:
    """A group of outputs that shares no layer with the others.

    Attributes:
        within: the cheapest of its layers to keep float with which some plan was within the group's limits; all of them
            if none was.
        proposed: the layers to keep float that are worth trying next; None if nothing else is worth running.
        promise: returns the expected gain of other plans for the group, in price.
    """

    within: Collection[str]
    proposed: Sequence[str] | None
    promise: Callable[[], float]

    @property
    def next(self) -> Collection[str]:
        """The layers to keep float in the next plan that runs."""
        return self.within if self.proposed is None else self.proposed


class Proposing(Evaluations):
    """Runs the plans with the largest product of gain and probability to meet the budget.

    Each plan is run on more of the batches as long as no other plan is worth more.

    The arguments are those of ``Evaluations``.
    """

    _measured_with: Mapping[str, float] = {}
    _first_alone = False
    _sensed: Sensitivity | None = None
    promise = math.inf
    """The expected gain of further plans, as a share of the work; infinite if unknown."""

    def _propose(
        self,
        harm: Mapping[str, float],
        measure: OfNoise,
        known: Sequence[tuple[str, Outcome]] = (),
        first: bool = False,
    ) -> None:
        """Look for plans better than the best one, with the ranges in use.

        Args:
            harm: for each layer the noise that it adds.
            measure: returns the noise of an outcome.
            known: the outcomes of plans that keep one layer float, on a subset of the samples.
            first: whether to stop at the first plan within the budget.
        """
        price = {name: self._price(name) for name in harm}
        if self._propose_apart(harm, measure, known, first):
            return
        # plans that are too expensive to run further
        left, misses = set[frozenset[str]](), 0
        while self._left() > 0 and misses < _MISSES and not (first and self.best is not None and self.best.passes):
            proposals = Proposals(self._learnt(harm, measure, known), price, _CAUTION if self._first_alone else 1.0)
            assert self.best is not None
            own, done = self._ended()
            kept = self.best.kept if self.best.passes else self.simulation.names
            spare = self._given_up(kept)
            proposed = proposals.best(kept, spare, done | left)
            # if plans are compared by time, the cost of a float layer depends on its neighbours
            proposed = [one for one in proposed if self.prefer != "time" or self._given_up(one) < spare]
            if proposed:
                chosen = self._under_way(own, proposed[0], spare, left) or proposed[0]
                before = next((plan for plan in own if set(plan.kept) == set(chosen)), None)
                plan = self._evaluate(chosen, until=self._until(before))
                if plan is before:
                    left.add(frozenset(plan.kept))
                if plan.whole and self.spending.limited:
                    misses = misses + 1 if self.best.passes and not plan.passes else 0
            elif self.best.whole or not self.best.passes or self.best.amax != self.amax:
                break
            else:
                self._evaluate(self.best.kept, sure=True)
        assert self.best is not None
        if not self.best.passes:
            self._confirm(harm, measure, known)
        elif not first:
            proposals = Proposals(self._learnt(harm, measure, known), price)
            self.promise = proposals.promise(self.best.kept, self._given_up(self.best.kept), self._ended()[1] | left)

    def _propose_apart(
        self, harm: Mapping[str, float], measure: OfNoise, known: Sequence[tuple[str, Outcome]], first: bool
    ) -> bool:
        """``_propose`` for outputs that depend on disjoint sets of layers; returns whether there are any.

        Each plan that runs tries a change for every group of outputs, and shows for each group whether it is within its
        limit, whatever the others miss. The changes within the limit at each group are combined into one plan.
        """
        price = {name: self._price(name) for name in harm}
        while True:
            whole = [plan for plan in self.plans if plan.amax == self.amax and plan.whole]
            groups = self._output_groups(harm, measure, known, price, whole)
            if len(groups) < 2:
                return False
            assert self.best is not None
            promising = [group for group in groups if group.proposed is not None]
            within = {name for group in groups for name in group.within}
            spare = self._given_up(self.best.kept if self.best.passes else self.simulation.names)
            better = self._given_up(sorted(within)) < spare and within not in [set(plan.kept) for plan in whole]
            if self._left() <= 0 or (first and self.best.passes) or not (better or promising):
                break
            # the combination is run at the end, or at once if a first plan is looked for
            now = better and (first or not promising or self._left() <= 1)
            tried = within if now else {name for group in groups for name in group.next}
            self._evaluate(sorted(tried), sure=True, race=True)
        if not self.best.passes:
            self._confirm(harm, measure, known)
        elif not first:
            self.promise = sum(group.promise() for group in promising) / math.fsum(price.values())
        return True

    def _output_groups(
        self, harm: Mapping[str, float], measure: OfNoise, known: Sequence[tuple[str, Outcome]],
        price: Mapping[str, float], whole: Sequence[SearchedPlan],
    ) -> list[_OutputGroup]:  # fmt: skip
        """The groups of outputs that share no layer; empty if there is only one.

        Args:
            harm: for each layer the noise that it adds.
            measure: returns the noise of an outcome.
            known: the outcomes of plans that keep one layer float, on a subset of the samples.
            price: for each layer the cost of keeping it float.
            whole: the plans that ran on all samples with the ranges in use.
        """
        parts = self._by_part(harm, measure, known)
        apart = Demands(list(harm), [demand for _, demand in parts]).apart()
        if len(apart) < 2:
            return []
        most = [self._most_noise(part, whole) for part, _ in parts]
        return [
            self._output_group(demands, [(parts[place][0], most[place]) for place in places], price, whole)
            for places, demands in apart
        ]

    def _output_group(
        self, demands: Demands, parts: Sequence[tuple[JudgedPart, float]], price: Mapping[str, float],
        whole: Sequence[SearchedPlan],
    ) -> _OutputGroup:  # fmt: skip
        """What the plans so far say of one group; ``parts``: its parts, with the noise that their limits allow."""
        layers = set(demands.names)
        ran = [layers.intersection(plan.kept) for plan in whole]
        held = [kept for kept, plan in zip(ran, whole) if all(self._holds(part, plan, most) for part, most in parts)]
        kept = min([layers, *held], key=lambda names: self._sum(price, names))
        spare, done = self._sum(price, kept), [frozenset(names) for names in ran]
        proposals = Proposals(demands, price, _CAUTION if self._first_alone else 1.0, each=True)
        proposed = proposals.best(kept, spare, done)
        of = self._sum(price, demands.names)
        return _OutputGroup(kept, proposed[0] if proposed else None, lambda: proposals.promise(kept, spare, done) * of)

    @staticmethod
    def _sum(price: Mapping[str, float], names: Collection[str]) -> float:
        return math.fsum(price[name] for name in names)

    @staticmethod
    def _most_noise(part: JudgedPart, plans: Sequence[SearchedPlan]) -> float:
        """The noise that a part's limits allow, less the largest spare margin that any of the plans needs.

        The margin for other samples is known for the worst output of each plan only.
        """
        allowed = [part.budget.most_noise(one.outcome) for one in plans]
        return min((one for one in allowed if one is not None), default=math.inf)

    def _holds(self, part: JudgedPart, plan: SearchedPlan, most: float) -> bool:
        """Whether a plan is within the limits on a part of the outputs; ``most`` is the noise that they allow."""
        if part.noise(plan.outcome) > most:
            return False
        return not part.budget.lacks(part.of(plan.outcome), self.simulation.runner.float_on(plan.batches))

    def _under_way(
        self, own: Sequence[SearchedPlan], proposed: Sequence[str], spare: float, left: Collection[frozenset[str]]
    ) -> Sequence[str]:
        """The float layers of the plan run furthest that misses no limit so far, if ``proposed`` is hardly different.

        Empty if there is none. Otherwise plans that quantize slightly more or less would be begun and never finished.

        Args:
            own: the plans with the ranges in use.
            proposed: the float layers of the proposed plan.
            spare: the price of the float layers of the best plan so far.
            left: the float layers of plans that are too expensive to run further.
        """
        begun = [
            plan for plan in own
            if not plan.whole and plan.clear is None and not plan.lacks and frozenset(plan.kept) not in left
        ]  # fmt: skip
        furthest = max(begun, key=lambda plan: (plan.batches, plan.quantized), default=None)
        if furthest is None or self._given_up(furthest.kept) >= spare:
            return ()
        whole = self._given_up(self.simulation.names)
        more = self._given_up(furthest.kept) - self._given_up(proposed)
        # a proposal that quantizes far less means that this plan is unlikely to meet the budget
        return furthest.kept if abs(more) < LEAST_MORE * (whole - self._given_up(furthest.kept)) else ()

    def _ended(self) -> tuple[list[SearchedPlan], set[frozenset[str]]]:
        """The plans with the ranges in use, and the float layers of those whose results are final."""
        own = [plan for plan in self.plans if plan.amax == self.amax]
        return own, {frozenset(plan.kept) for plan in own if plan.whole or plan.clear is not None}

    def _until(self, before: SearchedPlan | None) -> int | None:
        """The next round; None, for all rounds, if answers are limited: a subset of the samples says little of them."""
        if self.budget.min_sqnr_db is None:
            return None
        return 1 + sum(count <= before.batches for count in self._rounds) if before is not None else 1

    def _confirm(self, harm: Mapping[str, float], measure: OfNoise, known: Sequence[tuple[str, Outcome]]) -> None:
        """If no plan surely meets the budget, run the likeliest on all samples, then the one with all layers float."""
        open_ones = [plan for plan in self.plans if plan.amax == self.amax and not plan.whole and plan.clear is None]
        if open_ones and self.spending.left(self._whole_price):
            proposals = Proposals(self._learnt(harm, measure, known), {name: self._price(name) for name in harm})
            whole = self._given_up(self.simulation.names)
            likely = max(open_ones, key=lambda plan: proposals.chance(plan.kept) * (whole - self._given_up(plan.kept)))
            self._evaluate(likely.kept, sure=True)
        assert self.best is not None
        if not self.best.passes and self._left_by_count() > 0:
            # the float plan meets any budget that the float model meets
            self._evaluate(self.simulation.names)

    def _learnt(self, harm: Mapping[str, float], measure: OfNoise, known: Sequence[tuple[str, Outcome]]) -> Demands:
        """The demands as learnt from all plans with the ranges in use, one per part of the outputs."""
        return Demands(list(harm), [demand for _, demand in self._by_part(harm, measure, known)])

    def _by_part(
        self, harm: Mapping[str, float], measure: OfNoise, known: Sequence[tuple[str, Outcome]]
    ) -> list[tuple[JudgedPart, Demand]]:
        """The parts of the outputs that are judged separately, each with the demand learnt for it."""
        parts = judged_parts(self.budget, self._sensed.full if self._sensed is not None else Outcome(0.0))
        found = [(part, self._demand(part, harm, measure, known)) for part in parts]
        return [(part, demand) for part, demand in found if demand is not None]

    @property
    def _judges_apart(self) -> bool:
        """Whether several outputs have limits of their own, and nothing else is limited."""
        return all(part.outputs for part in judged_parts(self.budget, self.plans[0].outcome))

    def _demand(
        self, part: JudgedPart, harm: Mapping[str, float], measure: OfNoise, known: Sequence[tuple[str, Outcome]]
    ) -> Demand | None:
        """The noise model and limit of one part of the outputs; None if no layer adds to its noise."""
        columns = None
        if part.outputs:
            harm, columns = self._harm_at(part, harm, measure)
            if not harm:
                return None

            def measure(outcome: Outcome) -> float:
                return part.noise(outcome)

        own = [plan for plan in self.plans if plan.amax == self.amax]
        noise = PlanNoise(harm, _DOUBT if self.amax != self._measured_with else 1.0)
        whole = [plan for plan in own if plan.whole and 0 < measure(plan.outcome) < math.inf]
        for name, outcome in known:
            noise.observe([name], measure(outcome), self._error(outcome), as_harm=True)
        for plan in own:
            noise.observe(plan.kept, *self._estimated(plan, whole, measure))
        everything = next((measure(plan.outcome) for plan in own if not plan.kept), sum(noise.harm))
        limited = part.budget.min_sqnr_db is not None
        near = min(own, key=lambda plan: (not plan.whole, self._rank(plan)), default=None) if limited else None
        exact = part.budget.most_noise(near.outcome if near is not None else Outcome(0.0))
        limit = NoiseLimit(everything, exact, on_answers(part.budget))
        for plan in own if on_answers(part.budget) else ():
            self._learn_limit(limit, part, plan, measure(plan.outcome))
        return Demand(noise, limit, columns)

    def _learn_limit(self, limit: NoiseLimit, part: JudgedPart, plan: SearchedPlan, noise: float) -> None:
        """Update the limit on a part from a plan with this noise."""
        budget, outcome, reference = part.budget, part.of(plan.outcome), self.simulation.runner.float_on(plan.batches)
        worst = budget.worst_share(outcome, reference)
        if worst is not None and worst.expected is not None and worst.expected >= worst.lost:
            limit.observe_expected(noise, worst.expected, budget.left_of(worst))
        elif worst is not None:
            limit.observe_lost(noise, worst.likely, worst.answers, worst.limit / (1 + budget.margin / 2))
        elif plan.whole or plan.clear is not None:
            lacks = plan.lacks if budget is self.budget else budget.lacks(outcome, reference)
            limit.observe(noise, not set(lacks) - set(ON_NOISE))

    def _harm_at(self, part: JudgedPart, harm: Mapping[str, float], measure: OfNoise) -> tuple[dict[str, float], Array]:
        """The noise that layers add at a part's outputs, and the layers' indices; layers that add none are left out.

        ``harm`` may have been measured again with other ranges; the noise here is scaled by the same factor.
        """
        assert self._sensed is not None
        alone = {group.name: group.alone for group in self._sensed.groups if group.alone is not None}
        found, columns = dict[str, float](), list[int]()
        for place, (name, value) in enumerate(harm.items()):
            seen = part.noise(alone[name]) if name in alone else value
            before = measure(alone[name]) if name in alone else 0.0
            if seen > 0:
                times = value / before if 0 < before < math.inf and 0 < value < math.inf else 1.0
                found[name] = seen * times
                columns.append(place)
        return found, np.asarray(columns, np.intp)

    def _estimated(self, plan: SearchedPlan, whole: Sequence[SearchedPlan], measure: OfNoise) -> tuple[float, float]:
        """A plan's noise on all samples, estimated if it ran on a subset; and its relative standard deviation.

        The estimate uses the ratio of all samples to the subset for the plan nearest in noise that ran on all.
        """
        found = measure(plan.outcome)
        if plan.whole or not 0 < found < math.inf:
            return found, 0.0
        parts, error = plan.outcome.parts, self._error(plan.outcome)
        near = min(whole, key=lambda one: abs(math.log(measure(one.outcome) / found)), default=None)
        if near is None or len(near.outcome.parts) != plan.of or not 0 < min(near.outcome.parts, default=0) < math.inf:
            return found, error
        same = [near.outcome.parts[index] for index in sorted(self.simulation.runner.order[: plan.batches])]
        ratios = [one / other for one, other in zip(parts, same)]
        middle = statistics.fmean(near.outcome.parts) / statistics.fmean(same)
        if not 0 < middle < math.inf or not 0 < statistics.fmean(ratios) < math.inf:
            return found, error
        return found * middle, self._spread(ratios)

    def _error(self, outcome: Outcome) -> float:
        """The relative standard deviation of the noise of some of the batches from that of all."""
        return self._spread(outcome.parts)

    def _spread(self, parts: Sequence[float]) -> float:
        """The relative standard error of the mean over some of the batches; larger if there are few of them."""
        count, of = len(parts), len(self.simulation.runner.feeds)
        if count < 2 or not 0 < statistics.fmean(parts) < math.inf:
            return _UNKNOWN
        known = statistics.stdev(parts) / statistics.fmean(parts) * (1 + 2 / (count - 1))
        return known * math.sqrt(max(1 / count - 1 / of, 0.0))


def on_answers(budget: Budget) -> bool:
    """Whether a budget limits answers, or a metric computed from them."""
    return budget.by_task or any(limit is not None for limit in budget.on_answers)
