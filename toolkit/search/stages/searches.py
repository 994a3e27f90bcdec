"""One search after the other of the same layers, each using what the earlier ones found."""

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
from toolkit.search.plans.search import Search, SearchResult, all_float
from toolkit.search.plans.searched_plan import SearchedPlan
from toolkit.search.stages.real_types import best_known
from toolkit.simulation.simulation import Simulation

_WORTH = 0.5
"""A plan with less than this share of what all layers quantized would have is hardly worth having."""
_PROMISING = 0.1
"""As such a share, what further plans must be expected to gain for a search that found little to go on."""
_STEP = 10
"""Inferences to set are named in such steps."""
_PLAN_PRICE = 1.0
"""About what a plan costs on all samples, in float inferences."""


@dataclass
class Searches:
    """Runs searches.

    Attributes:
        simulation: the model with its layers under switches.
        cost: predicts times.
        prefer: ``int8`` or ``time``.
        demand: what must hold in the next search.
        make: creates a search of the simulation, for what must hold, given what is known.
        confirm: measures the plans that were found, where times decide.
        spending: the searches' account.
        nothing_pays: whether no plan is worth a search.
        known: a plan that ran on all samples.
        missed: how far plans are known to miss the budget in their types, by ``plan_key``.
        judged: the simulation with the ranges that the last search measured its layers with.
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

    def __post_init__(self) -> None:
        self.judged = self.simulation

    def run(self) -> SearchResult:
        """One search for ``demand``."""
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
        """Whether little was found and much more is expected, so that another search follows; allows for it then."""
        return self._promises(found) and self.spending.more()

    def left_out(self, found: SearchResult) -> Finding | None:
        """That the search ran out of inferences when little was found and much more was expected, with what to set;
        None where it did not, or nothing is known of further plans.
        """
        if self.spending.over or self.spending.left(_PLAN_PRICE):
            return None
        if math.isinf(found.promise) or not self._promises(found):
            return None
        return SearchEndCode.LEFT_OUT(inferences=_STEP * math.ceil(2 * self.spending.priced / _STEP))

    def _promises(self, found: SearchResult) -> bool:
        """Whether little was found and much more is expected of further plans."""
        all_of_it = self.simulation.quantized_share()
        little = self.prefer == "int8" and found.best.quantized < _WORTH * all_of_it
        return little and found.promise > _PROMISING * all_of_it

    def quiet(self, found: SearchResult) -> tuple[Budget, Finding] | None:
        """The budget of ``with_quiet``; None too where the best plan misses the budget, or the minutes are over."""
        if not found.best.meets or self.spending.over:
            return None
        return with_quiet(self.demand, found.best, found.plans, found.reference)

    def quieter(self, quiet: Budget, before: SearchResult) -> SearchResult:
        """The result of another search for a budget with a limit on noise, where its plan is worth having, which
        ``demand`` is from then on; else what was found before.
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
        """Learn what the best plan's types add, which other plans' will too; returns whether another search may follow.

        A plan that only lacks some of its margin is worth more than nothing quantized.
        """
        self.missed[plan_key(found.best.kept, found.best.amax)] = dict(found.lacks_in_types)
        if found.types is not None:
            self.demand = replace(self.demand, types=found.types.largest(self.demand.types))
        by_time = self.prefer == "time"
        self.known = best_known(found.plans, self.missed, self.demand, found.reference, by_time)
        if self.known is not None:
            return True
        if not found.limits_in_types:
            self.spending.again()
        ended = found.limits_in_types and not self.spending.left(_PLAN_PRICE)
        return not ended and not self.spending.over

    def rest(self) -> None:
        """Free the memory of the sessions of plans: other forms of the model are run before any others are."""
        for one in (self.simulation, *self._twins):
            one.rest()

    def forget(self) -> None:
        """Free the memory of all simulations: hardly anything more is to be run."""
        for one in (self.simulation, *self._twins):
            one.forget()
