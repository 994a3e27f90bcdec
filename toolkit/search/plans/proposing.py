"""The second half of a search: plans are proposed from what is known of their noise, and results learnt from."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence

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
"""How far the noise of one batch may be from that of all, as a share, where nothing more is known."""

_CAUTION = 3.0
"""How much more the chance to meet the budget counts than what a plan gains, as a power, where the first is wanted."""
_DOUBT = 4.0
"""How much less harms that were measured with other ranges are trusted."""

OfNoise = Callable[[Outcome], float]


class Proposing(Evaluations):
    """Runs the plans whose gain, times their chance to meet the budget, is largest, each on more of the batches as long
    as no other is worth more.

    The arguments are those of ``Evaluations``.
    """

    _measured_with: Mapping[str, float] = {}
    _first_alone = False
    _sensed: Sensitivity | None = None
    promise = math.inf
    """What further plans are expected to gain, as a share of the work; infinite where nothing says so."""

    def _propose(
        self,
        harm: Mapping[str, float],
        measure: OfNoise,
        known: Sequence[tuple[str, Outcome]] = (),
        first: bool = False,
    ) -> None:
        """Look for better plans than the best one, with the ranges now in use.

        Args:
            harm: by layer the noise that it adds.
            measure: the noise of an outcome.
            known: the outcomes of plans that keep one layer, on a part of the samples.
            first: whether the first plan within the budget is enough.
        """
        price = {name: self._price(name) for name in harm}
        if self._propose_apart(harm, measure, known, first):
            return
        # what is too expensive to be run further
        left = set[frozenset[str]]()
        while self._left() > 0 and not (first and self.best is not None and self.best.passes):
            proposals = Proposals(self._learnt(harm, measure, known), price, _CAUTION if self._first_alone else 1.0)
            assert self.best is not None
            own, done = self._ended()
            kept = self.best.kept if self.best.passes else self.simulation.names
            spare = self._given_up(kept)
            proposed = proposals.best(kept, spare, done | left)
            # what keeping a layer costs depends on its neighbours where times decide
            proposed = [one for one in proposed if self.prefer != "time" or self._given_up(one) < spare]
            if proposed:
                chosen = self._under_way(own, proposed[0], spare, left) or proposed[0]
                before = next((plan for plan in own if set(plan.kept) == set(chosen)), None)
                plan = self._evaluate(chosen, until=self._until(before))
                if plan is before:
                    left.add(frozenset(plan.kept))
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
        """``_propose`` where no layer ties some outputs to others; returns whether that is so.

        Each plan that runs tries something at all of them, and shows of each by itself whether it is within its limit,
        whatever the others miss. What was within it at each makes the plan that is wanted.
        """
        price = {name: self._price(name) for name in harm}
        while True:
            found = self._by_part(harm, measure, known)
            groups = Demands(list(harm), [demand for _, demand in found]).apart()
            if len(groups) < 2:
                return False
            assert self.best is not None
            whole = [plan for plan in self.plans if plan.amax == self.amax and plan.whole]
            most = [self._most_noise(part, whole) for part, _ in found]
            tried, within, promising = set[str](), set[str](), []
            for places, own in groups:
                layers = set(own.names)
                held = [layers.intersection(plan.kept) for plan in whole
                        if all(self._holds(found[place][0], plan, most[place]) for place in places)]  # fmt: skip
                kept = min([layers, *held], key=lambda names: self._sum(price, names))
                spare, done = self._sum(price, kept), [frozenset(layers.intersection(plan.kept)) for plan in whole]
                proposals = Proposals(own, price, _CAUTION if self._first_alone else 1.0, each=True)
                proposed = proposals.best(kept, spare, done)
                within |= kept
                tried |= set(proposed[0]) if proposed else kept
                if proposed:
                    promising.append((proposals, (kept, spare, done), self._sum(price, own.names)))
            spare = self._given_up(self.best.kept if self.best.passes else self.simulation.names)
            better = self._given_up(sorted(within)) < spare and within not in [set(plan.kept) for plan in whole]
            if self._left() <= 0 or (first and self.best.passes) or not (better or promising):
                break
            now = within if better and (first or not promising or self._left() <= 1) else tried
            self._evaluate(sorted(now), sure=True, race=True)
        if not self.best.passes:
            self._confirm(harm, measure, known)
        elif not first:
            gains = sum(proposals.promise(*asked) * of for proposals, asked, of in promising)
            self.promise = gains / math.fsum(price.values())
        return True

    @staticmethod
    def _sum(price: Mapping[str, float], names: Collection[str]) -> float:
        return math.fsum(price[name] for name in names)

    @staticmethod
    def _most_noise(part: JudgedPart, plans: Sequence[SearchedPlan]) -> float:
        """The noise that a part's limits allow, with what the most uneven of the plans must spare for other samples: it
        is known of the worst output of each.
        """
        allowed = [part.budget.most_noise(one.outcome) for one in plans]
        return min((one for one in allowed if one is not None), default=math.inf)

    def _holds(self, part: JudgedPart, plan: SearchedPlan, most: float) -> bool:
        """Whether a plan is within the limits on a part of the outputs, which allow it no more than ``most`` noise."""
        if part.noise(plan.outcome) > most:
            return False
        return not part.budget.lacks(part.of(plan.outcome), self.simulation.runner.float_on(plan.batches))

    def _under_way(
        self, own: Sequence[SearchedPlan], proposed: Sequence[str], spare: float, left: Collection[frozenset[str]]
    ) -> Sequence[str]:
        """What stays float in the plan run furthest that misses nothing so far, if ``proposed`` hardly differs from it.

        Empty where there is none. Without this, plans quantizing slightly more or less would be begun but not finished.

        Args:
            own: the plans with the ranges now in use.
            proposed: what stays float in the proposed plan.
            spare: the price of what the best plan so far keeps.
            left: what is too expensive to be run further.
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
        # what quantizes far less is proposed where this one is not likely to meet the budget
        return furthest.kept if abs(more) < LEAST_MORE * (whole - self._given_up(furthest.kept)) else ()

    def _ended(self) -> tuple[list[SearchedPlan], set[frozenset[str]]]:
        """The plans with the ranges now in use, and what stays float in those about which everything is known."""
        own = [plan for plan in self.plans if plan.amax == self.amax]
        return own, {frozenset(plan.kept) for plan in own if plan.whole or plan.clear is not None}

    def _until(self, before: SearchedPlan | None) -> int | None:
        """The next of the rounds; all where limits on answers decide, about which part of the samples tells little."""
        if self.budget.min_sqnr_db is None:
            return None
        return 1 + sum(count <= before.batches for count in self._rounds) if before is not None else 1

    def _confirm(self, harm: Mapping[str, float], measure: OfNoise, known: Sequence[tuple[str, Outcome]]) -> None:
        """If nothing surely meets the budget, run the likeliest plan on all samples, then the one keeping all float."""
        open_ones = [plan for plan in self.plans if plan.amax == self.amax and not plan.whole and plan.clear is None]
        if open_ones and self.spending.left(self._whole_price):
            proposals = Proposals(self._learnt(harm, measure, known), {name: self._price(name) for name in harm})
            whole = self._given_up(self.simulation.names)
            likely = max(open_ones, key=lambda plan: proposals.chance(plan.kept) * (whole - self._given_up(plan.kept)))
            self._evaluate(likely.kept, sure=True)
        assert self.best is not None
        if not self.best.passes and self._left_by_count() > 0:
            # it meets any budget that the float model meets
            self._evaluate(self.simulation.names)

    def _learnt(self, harm: Mapping[str, float], measure: OfNoise, known: Sequence[tuple[str, Outcome]]) -> Demands:
        """What is learnt from all plans with the ranges now in use, of each output that is judged by itself."""
        return Demands(list(harm), [demand for _, demand in self._by_part(harm, measure, known)])

    def _by_part(
        self, harm: Mapping[str, float], measure: OfNoise, known: Sequence[tuple[str, Outcome]]
    ) -> list[tuple[JudgedPart, Demand]]:
        """The parts of the outputs that are judged apart, each with what is learnt of it."""
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
        """What is learnt of one part's noise and limit; None where no layer adds to its noise."""
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
        """Take in what a plan of such noise shows of the limit on a part."""
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
        """The noise that layers add at a part's outputs, and their places among all; those that add none are left out.

        ``harm`` may have been measured again with other ranges: what a layer adds here has changed alike.
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
        """A plan's noise on all samples, and how far it may be off as a share.

        For a plan that ran on a part of them, by the ratio of the two for the plan nearest in noise that ran on all.
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
        """How far the noise of a part of the batches may be from that of all, as a share."""
        return self._spread(outcome.parts)

    def _spread(self, parts: Sequence[float]) -> float:
        """The standard error of the mean of some of the batches, as a share; larger where few tell their spread."""
        count, of = len(parts), len(self.simulation.runner.feeds)
        if count < 2 or not 0 < statistics.fmean(parts) < math.inf:
            return _UNKNOWN
        known = statistics.stdev(parts) / statistics.fmean(parts) * (1 + 2 / (count - 1))
        return known * math.sqrt(max(1 / count - 1 / of, 0.0))


def on_answers(budget: Budget) -> bool:
    """Whether a budget limits answers, or what a metric makes of them."""
    return budget.by_task or any(limit is not None for limit in budget.on_answers)
