"""Successive searches of the same layers, each using the results of the earlier ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from toolkit.contract.findings import Finding
from toolkit.evaluation.budget import Budget
from toolkit.search.budget.racing import plan_key
from toolkit.search.budget.spending import Spending
from toolkit.search.codes import SearchEndCode
from toolkit.search.cost.cost_model import CostModel
from toolkit.search.plans.few_answers import is_less_noisy, with_quiet
from toolkit.search.plans.range_methods import methods_of
from toolkit.search.plans.search import Search, SearchResult, all_float
from toolkit.search.plans.searched_plan import SearchedPlan
from toolkit.search.stages.real_types import best_known
from toolkit.simulation.simulation import Simulation

_WORTH = 0.5
"""A plan with less than this share of what full quantization would quantize is hardly worth having."""
_PROMISING = 0.1
"""The gain that further plans must promise for a search with little result to go on, in the same unit."""
_STEP = 10
"""The number of inferences in a remedy is a multiple of this."""
_PLAN_PRICE = 1.0
"""The approximate price of a plan on all samples, in float inferences."""


@dataclass
class Searches:
    """Runs searches.

    Attributes:
        simulation: the model with its layers under switches.
        cost: predicts latencies.
        prefer: ``int8`` or ``time``.
        demand: the limits for the next search.
        make: creates a search of the simulation from this object's state.
        confirm: measures the engines of the plans that were found, if plans are compared by time.
        spending: the searches' account of inferences.
        nothing_pays: whether no plan is worth a search.
        known: a plan that ran on all samples.
        missed: by ``plan_key``, how far plans are known to miss the budget in their types.
        judged: the simulation with the ranges with which the last search measured its layers.
    """

    simulation: Simulation
    cost: CostModel
    prefer: str
    demand: Budget
    make: Callable[[Searches], Search]
    confirm: Callable[[SearchResult, Budget], SearchResult]
    spending: Spending
    nothing_pays: bool = False
    known: SearchedPlan | None = None
    missed: dict[str, dict[str, float]] = field(default_factory=dict)
    _twins: list[Simulation] = field(default_factory=list)
    _plans: dict[str, SearchedPlan] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.judged = self.simulation

    def run(self) -> SearchResult:
        """Run one search for ``demand``."""
        for twin in self._twins:
            twin.forget()
        self.judged = self.simulation
        if self.nothing_pays:
            return all_float(self.simulation, self.cost, self.demand, self.spending)
        search = self.make(self)
        found = search.run()
        self.judged = search.simulation
        if search.simulation is not self.simulation:
            self._twins.append(search.simulation)
        with self.spending.waiting():
            return self.confirm(found, self.demand)

    def should_continue(self, found: SearchResult) -> bool:
        """Whether another search follows, since little was found and much more is expected; adds inferences for it."""
        return self._promises(found) and self.spending.more()

    def left_out(self, found: SearchResult) -> Finding | None:
        """The finding that the search ran out of inferences with little found and much more expected; else None.

        It says how many inferences to set. None too if nothing is known of further plans.
        """
        if self.spending.over or self.spending.left(_PLAN_PRICE):
            return None
        if math.isinf(found.promise) or not self._promises(found):
            return None
        return SearchEndCode.LEFT_OUT(inferences=_STEP * math.ceil(2 * self.spending.priced / _STEP))

    def _promises(self, found: SearchResult) -> bool:
        """Whether little was found and much more is expected from further plans."""
        all_of_it = self.simulation.quantized_share()
        little = self.prefer == "int8" and found.best.quantized < _WORTH * all_of_it
        return little and found.promise > _PROMISING * all_of_it

    def quiet(self, found: SearchResult) -> tuple[Budget, Finding] | None:
        """The result of ``with_quiet``; None too if the best plan misses the budget or time has run out."""
        if not found.best.meets or self.spending.over:
            return None
        return with_quiet(self.demand, found.best, found.plans, found.reference)

    def quieter(self, quiet: Budget, before: SearchResult) -> SearchResult:
        """Search again for a budget with a limit on noise.

        Returns the result if its plan quantizes enough, with the budget as the new ``demand``; else the earlier result.
        """
        self.spending.again("chance")
        loud, judged = self.demand, self.judged
        self.demand = quiet
        found = self.run()
        if is_less_noisy(found, self.judged, before.best, loud, _WORTH):
            return found
        self.demand, self.judged = loud, judged
        return before

    def learn_types(self, found: SearchResult) -> bool:
        """Record the noise that types add to the best plan, for all plans; returns whether another search may follow.

        A plan that only misses part of its margin is better than nothing quantized.
        """
        self.missed[plan_key(found.best.kept, found.best.amax)] = dict(found.lacks_in_types)
        self._plans |= {plan_key(plan.kept, plan.amax): plan for plan in found.plans if plan.whole}
        if found.types is not None:
            self.demand = replace(self.demand, types=found.types.largest(self.demand.types))
        by_time = self.prefer == "time"
        self.known = best_known(self._plans.values(), self.missed, self.demand, found.reference, by_time)
        if self.known is not None:
            return True
        if not found.limits_in_types:
            self.spending.again()
        ended = found.limits_in_types and not self.spending.left(_PLAN_PRICE)
        return not ended and not self.spending.over

    def runner_up(self, found: SearchResult, least: float) -> SearchResult | None:
        """A result with the best plan that is not known to miss the budget in its types, to be run in them.

        None if there is no such plan, time has run out, or plans are compared by latency: then only the plans of the
        search that measured them are.

        Args:
            found: a result whose plan misses the budget in its types; ``learn_types`` has recorded that.
            least: the smallest share of what this plan quantizes.
        """
        plan = self.known
        if plan is None or self.prefer == "time" or self.spending.over:
            return None
        if not plan.quantized or plan.quantized < least * found.best.quantized:
            return None
        plan = replace(plan, lacks={})
        others = [one for one in found.plans if (one.kept, one.amax) != (plan.kept, plan.amax)]
        return replace(
            found, best=plan, plans=[*others, plan], lacks_in_types={}, limits_in_types=False, real=None, types=None,
            methods=methods_of(self.simulation, plan.amax),
        )  # fmt: skip

    def rest(self) -> None:
        """Free the memory of the plans' sessions while other forms of the model are run."""
        for one in (self.simulation, *self._twins):
            one.rest()

    def forget(self) -> None:
        """Free the memory of all simulations: hardly anything more is to be run."""
        for one in (self.simulation, *self._twins):
            one.forget()
