"""The part of a search that chooses activation ranges: first whole calibration methods, then single tensors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from toolkit.base.files import sha256_json
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.search.budget.racing import significantly_less_noisy
from toolkit.search.budget.spending import SINGLE_LAYER
from toolkit.search.plans.proposing import Proposing
from toolkit.search.plans.range_methods import NEARER, alternatives, whole_model
from toolkit.search.plans.searched_plan import SearchedPlan
from toolkit.search.sensitivity.measure import Sensitivity
from toolkit.simulation.state_run import run_each

_BETTER = 0.7
"""Another range of a layer's input is used if the layer's noise falls below this share, by 1.5 dB."""
_WORST_GROUPS, _WORST_SHARE = 8, 0.02
"""The most layers whose inputs' ranges are tried, and the smallest share of the noise that one of them makes."""
_TRIED_PRICE = 1.4
"""No further layer's ranges are tried once they have cost this many inferences, with ``SINGLE_LAYER`` in the price."""
_FEW = 2
"""The most layers without which ranges are chosen again."""
_CLOSE = ((0.2, 2.0), (0.4, 1.4), (1.0, 1.1))
"""Noise limits of a race: (share of the samples, factor). On up to this share of the samples, ranges are run on more
samples only if their noise is at most this factor times the smallest.
"""
_MISSED_ROUNDS = 2
"""A race stops after this many rounds if all of its plans miss the budget by far: its ranges only help later plans."""
_FAR = 1.0
"""A plan misses the budget by far if its distance exceeds this; see ``Budget.distance``."""
_SPEAKS = 0.8
"""If a few layers make more than this share of the noise, the chosen ranges may not suit the other layers."""

RangesTried = tuple[SearchedPlan, dict[str, float]]
"""A plan and the ranges it was run with."""


class ChoosingRanges(Proposing):
    """Chooses activation ranges among those of the calibration methods.

    The arguments are those of ``Evaluations``.

    Attributes:
        amax: the ranges in use, as far as they differ from the recipe's calibration.
        batches: the number of batches on which single layers were measured; None for all.
        quietest: the method with the least noise on the smallest subset of the samples, all layers quantized; empty
            for the recipe's own ranges, None if methods were not compared on that subset.
    """

    batches: int | None = None
    quietest: str | None = None

    def _best_method(self) -> SearchedPlan:
        """Evaluate full quantization with the ranges of each method; the best method's ranges are used from here on."""
        methods = list(whole_model(self.simulation))
        self._methods = [amax for _, amax in methods]
        if self._first_alone:
            return self._clearly_best(methods)
        return self._race((), [{}, *self._methods])

    def _clearly_best(self, methods: Sequence[tuple[str, dict[str, float]]]) -> SearchedPlan:
        """``_best_method`` on the smallest subset: ranges other than the recipe's must have 1 dB less noise.

        The search should find a first plan soon, and plans with the recipe's own ranges run in existing sessions.

        Args:
            methods: the methods' names, and the ranges that each changes.
        """
        plans, unlike = [], self._unlike((), [{}, *self._methods])
        self._request((), unlike, until=1)
        for amax in unlike:
            self.amax = amax
            plans.append(self._evaluate((), until=1, race=True))
        noises = self._noises(plans, self._rounds[0])
        noise, place = min((noise, place) for place, noise in enumerate(noises))
        self.quietest = next((name for name, amax in methods if amax == plans[place].amax), "")
        self.amax = dict(plans[place].amax) if noise < NEARER * noises[0] else {}
        return self._everything()

    def _everything(self) -> SearchedPlan:
        """Run the fully quantized plan on more and more of the samples as long as it meets the budget.

        If it misses the budget, the search measures layers first: it looks for plans that meet the budget, and more
        samples of this plan would not help.
        """
        plan = self._evaluate((), until=1, sure=True)
        while not plan.whole and not plan.lacks:
            plan = self._evaluate((), until=1 + sum(count <= plan.batches for count in self._rounds), sure=True)
        return plan

    def _with_best_ranges(self, kept: Sequence[str]) -> bool:
        """Use the ranges of the method that suits the layers left quantized best; returns whether the ranges changed.

        A method may have been chosen because of a layer that is float by now.
        """
        if not self.try_ranges or len(kept) == len(self.simulation.names):
            return False
        own = self.amax
        self._race(kept, [own, {}, *self._methods])
        return self.amax != own

    def _race(self, kept: Sequence[str], ranges: Sequence[dict[str, float]]) -> SearchedPlan:
        """The plan with the best of these ranges, which are used from here on.

        The best plan of ``_successive_halving`` is run on all samples unless all miss the budget by far on fewer.
        The first ranges are those in use: others replace them only if they are better by more than chance.
        """
        tried, missed = self._successive_halving(kept, self._unlike(kept, ranges))
        self._complete_best(kept, tried, missed)
        plans = self._plans_with(kept, tried)
        decided = [one for one in plans if one[0].whole or one[0].clear is not None] or plans
        found, self.amax = min(decided, key=lambda one: self._rank(one[0]))
        own, own_ranges = plans[0]
        return found if found is own else self._unless_by_chance(found, kept, own_ranges)

    def _successive_halving(
        self, kept: Sequence[str], live: list[dict[str, float]]
    ) -> tuple[list[dict[str, float]], bool]:
        """Run a plan with each of these ranges on a few batches, then the least noisy ones on more and more.

        Jamieson and Talwalkar, "Non-stochastic best arm identification", AISTATS 2016. On few samples, ranges that clip
        outliers look better than they are.

        Returns:
            The ranges that were run, and whether all plans of the last round miss the budget by far.
        """
        tried: list[dict[str, float]] = []
        for number in range(1, len(self._rounds) + 1):
            run = self._run_round(kept, live, number)
            tried = tried or [amax for _, amax in run]
            live = self._least_noisy(run, number, most=max(-(-len(live) // 2), 2))
            if number >= _MISSED_ROUNDS and all(self._misses_by_far(plan) for plan, _ in run):
                return tried, True
            if len(live) <= 1 or self._left() <= 1:
                break
        return tried, False

    def _run_round(self, kept: Sequence[str], live: Sequence[dict[str, float]], number: int) -> list[RangesTried]:
        """Run plans with these ranges on the batches of round ``number``, as many plans as the search may still run."""
        self._request(kept, live, number)
        run: list[RangesTried] = []
        for amax in live:
            # the last plan is reserved for layers kept float
            if not run or self._left() > 1:
                self.amax = amax
                run.append((self._evaluate(kept, until=number, race=True), amax))
        return run

    def _least_noisy(self, run: Sequence[RangesTried], number: int, most: int) -> list[dict[str, float]]:
        """At most ``most`` ranges whose plans are not clearly noisier than the best on the same batches."""
        count = min(self._rounds[number - 1], *(plan.batches for plan, _ in run))
        noise = sorted((found, place) for place, found in enumerate(self._noises([plan for plan, _ in run], count)))
        close = next(times for share, times in _CLOSE if count <= share * self._rounds[-1])
        return [run[place][1] for found, place in noise[:most] if found <= close * noise[0][0]]

    def _complete_best(self, kept: Sequence[str], ranges: Sequence[dict[str, float]], missed: bool) -> None:
        """Run the best plan on all samples; if it then fails, the next best, since a dropped plan may be better.

        Args:
            kept: the layers that stay float.
            ranges: the ranges that were run.
            missed: whether plans that miss the budget by far are not run further.
        """
        while True:
            plans = self._plans_with(kept, ranges)
            furthest = max(plan.batches for plan, _ in plans)
            least = min(plan.outcome.noise for plan, _ in plans if plan.batches == furthest)
            # few samples hardly show lost answers: a far noisier plan only seems to lose none
            near = [one for one in plans if one[0].outcome.noise <= _CLOSE[0][1] * least]
            before, self.amax = min(near, key=lambda one: self._rank(one[0]))
            if missed and self._misses_by_far(before):
                return
            plan = self._evaluate(kept, sure=not kept)
            if plan is before or plan.passes or not self._rich:
                return

    def _plans_with(self, kept: Sequence[str], ranges: Sequence[dict[str, float]]) -> list[RangesTried]:
        """The known results of the plans with each of these ranges."""
        return [(self._found(kept, amax), amax) for amax in ranges]

    def _unless_by_chance(self, found: SearchedPlan, kept: Sequence[str], own: dict[str, float]) -> SearchedPlan:
        """The winner of a race if its ranges are clearly better than those in use; else the plan with those in use.

        In the second case the latter are used again.
        """
        other, ranges = self._found(kept, own), self.amax
        if not self._clearly_better(found, other):
            self.amax = own
            # compare both on the same samples
            other = self._evaluate(kept, until=self._rounds.index(found.batches) + 1, race=True)
            if not self._clearly_better(found, other):
                return other
            self.amax = ranges
        return found

    def _clearly_better(self, plan: SearchedPlan, other: SearchedPlan) -> bool:
        """Whether a plan with other ranges for the same layers is clearly better than ``other``.

        If only one of them meets the budget, that plan is better. Otherwise the noise must be lower by more than chance
        and the plan may hardly be further from the budget. Ranges that won by chance would make all later plans worse.
        """
        if plan.passes != other.passes:
            return plan.passes
        far, before = (self.budget.distance(dict(one.lacks)) for one in (plan, other))
        noises = self._parts([plan, other], min(plan.batches, other.batches))
        return far <= before / NEARER and significantly_less_noisy(*noises)

    def _misses_by_far(self, plan: SearchedPlan) -> bool:
        """Whether a plan clearly misses the budget, or is further from it than ``_FAR``."""
        return plan.clear is False or self.budget.distance(dict(plan.lacks)) > _FAR

    def _unlike(self, kept: Sequence[str], ranges: Sequence[dict[str, float]]) -> list[dict[str, float]]:
        """Ranges that differ in a tensor read by a layer left quantized; of equal ones the first is kept."""
        found: dict[str, dict[str, float]] = {}
        for amax in ranges:
            scales = self.simulation.config(kept, {**self._own, **amax}).scales
            found.setdefault(sha256_json(sorted(scales.items())), dict(amax))
        return list(found.values())

    def _noises(self, plans: Sequence[SearchedPlan], count: int) -> list[float]:
        """Each plan's mean noise on the first ``count`` batches; every plan must have run on at least that many.

        Batches for which the float model returns only zeros have no finite noise in any plan and are left out.
        """
        parts = self._parts(plans, count)
        told = [batch for batch in zip(*parts) if any(map(math.isfinite, batch))]
        return [statistics.fmean(one) for one in zip(*told)] if told else [math.inf] * len(plans)

    def _parts(self, plans: Sequence[SearchedPlan], count: int) -> list[list[float]]:
        """Each plan's noise on each of the first ``count`` batches; every plan must have run on at least that many."""
        order = self.simulation.runner.order
        same = set(order[:count])
        return [
            [part for at, part in zip(sorted(order[: plan.batches]), plan.outcome.parts) if at in same]
            for plan in plans
        ]

    def _for_the_others(
        self, harm: dict[str, float], sensitivity: Sensitivity, measure: Callable[[Outcome], float]
    ) -> bool:
        """Choose ranges again without the few layers that make nearly all of the noise; returns whether they changed.

        These layers will stay float, and the method chosen because of them may not suit the others.
        """
        total = sum(value for value in harm.values() if math.isfinite(value))
        worst = sorted(harm, key=lambda name: -harm[name])
        loud = next(
            (worst[:n] for n in range(1, _FEW + 1) if sum(harm[name] for name in worst[:n]) > _SPEAKS * total), []
        )
        own = self.amax
        if not self._methods or not loud or not self._with_best_ranges(loud):
            return False
        changed = {tensor for tensor in {*own, *self.amax} if own.get(tensor) != self.amax.get(tensor)}
        self._measure_again(changed, harm, sensitivity, measure)
        return True

    def _better_ranges(
        self, plan: SearchedPlan, sensitivity: Sensitivity, harm: dict[str, float], measure: Callable[[Outcome], float]
    ) -> SearchedPlan:
        """For each input of the worst groups, use the range with the least noise among those the methods propose."""
        if self._left() <= 1:
            return plan
        own = dict(self.amax)
        total = sum(value for value in harm.values() if math.isfinite(value)) or 1.0
        worst = [g for g in sensitivity.ranked()[:_WORST_GROUPS] if harm[g.name] > _WORST_SHARE * total]
        switches = self.simulation.switches
        inputs = {group.name: group.tensors for group in switches.groups}
        done: set[str] = set()
        before_them = self.spending.priced
        for number, group in enumerate(worst):
            if self.spending.over or (self.spending.limited and self.spending.priced - before_them > _TRIED_PRICE):
                break
            self.progress("ranges", number, len(worst))
            assert group.alone is not None
            least = group.alone.noise
            for tensor in inputs[group.name]:
                if tensor in done or tensor not in switches.amax:
                    continue
                done.add(tensor)
                ways = alternatives(self.simulation, tensor, switches.amax[tensor])
                tried = self._tried([(group.name, {**self.amax, tensor: amax}) for amax in ways])
                for amax, outcome in zip(ways, tried):
                    if outcome.noise < _BETTER * least:
                        least = outcome.noise
                        self.amax[tensor] = amax
        self.progress("ranges", len(worst), len(worst))
        replaced = {tensor for tensor, amax in self.amax.items() if own.get(tensor) != amax}
        if not replaced:
            return plan
        better = self._evaluate((), until=sum(count <= plan.batches for count in self._rounds), sure=True)
        if not self._clearly_better(better, plan):
            self.amax = own
            return plan
        self._measure_again(replaced, harm, sensitivity, measure)
        return better

    def _measure_again(
        self, tensors: set[str], harm: dict[str, float], sensitivity: Sensitivity, measure: Callable[[Outcome], float]
    ) -> None:
        """Update ``harm`` for all groups that read a tensor with a changed range; several groups may share a range."""
        readers = {group.name for group in self.simulation.switches.groups if set(group.tensors) & tensors}
        changed = [before for before in sensitivity.groups if before.name in readers]
        for before, outcome in zip(changed, self._tried([(before.name, self.amax) for before in changed])):
            now = measure(outcome)
            alone = measure(before.alone) if before.alone is not None else 0.0
            kept = harm[before.name]
            harm[before.name] = now if kept <= alone * 1.5 else max(now, kept - alone)

    def _tried(self, asked: Sequence[tuple[str, Mapping[str, float]]]) -> list[Outcome]:
        """Outcomes of quantizing single groups with these ranges, on the samples that sensitivity is measured on."""
        runner = self.simulation.runner
        keys = ["range:" + sha256_json([group, sorted(amax.items())]) for group, amax in asked]
        configs = [self.simulation.switches.alone(group, {**self._own, **amax}) for group, amax in asked]
        for config in configs:
            self.spending.pay(SINGLE_LAYER * runner.price(config, self.batches))
        lines = [self.log.get(key) for key in keys]
        missing = [place for place, line in enumerate(lines) if line is None]
        fresh = [configs[place] for place in missing]
        for number, outcome in run_each(runner, fresh, self.batches):
            place = missing[number]
            group, amax = asked[place]
            line = lines[place] = {"outcome": outcome.to_json(), "group": group, "amax": dict(amax)}
            self.log.add(keys[place], line)
        return [Outcome.from_json(line["outcome"]) for line in lines if line is not None]
