"""The cheapest plan within a budget: better ranges first, then the fewest and cheapest layers kept float."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from toolkit.base.files import sha256_json, write_json
from toolkit.base.log import Log
from toolkit.base.progress import Activity, Progress, silent
from toolkit.base.reads import needs_now
from toolkit.contract.findings import Code, Finding
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.outcome import Outcome
from toolkit.search.again import again
from toolkit.search.cost import CostModel
from toolkit.search.range_methods import alternatives, methods_of, whole_model
from toolkit.search.searched_plan import SearchedPlan
from toolkit.search.sensitivity import Sensitivity, exact
from toolkit.simulation.simulation import Simulation

SCHEMA = "qtool-search-1"
_BETTER = 0.7
_EXPONENTS = (0.25, 1.0)
"""How much a layer's price counts in the order of layers: little, so that few layers do it, then in full."""
_FEW = 2
_PREDICTIONS = 2000
"""How often a time is predicted while looking for faster plans; each places the pairs anew."""
_WORST_GROUPS = 8
_WORST_SHARE = 0.02


@dataclass
class SearchResult:
    """The result of a search.

    Attributes:
        best: the cheapest plan that meets the budget, or the nearest one.
        plans: all plans evaluated, in order.
        evaluations: how many there were.
        sensitivity: of all groups; None where the first plan met the budget.
        reference: the float model's outcome.
        methods: for every tensor whose range the best plan replaces, the method that gives this one.
        notes: what the reader should know.
    """

    best: SearchedPlan
    plans: list[SearchedPlan]
    evaluations: int
    sensitivity: Sensitivity | None
    reference: Outcome
    methods: dict[str, str] = field(default_factory=dict)
    notes: list[Finding] = field(default_factory=list)

    def front(self) -> list[SearchedPlan]:
        """The Pareto front of noise against predicted time, the fastest first."""
        front: list[SearchedPlan] = []
        for plan in sorted(self.plans, key=lambda p: (p.seconds, p.outcome.noise)):
            if not front or plan.outcome.noise < front[-1].outcome.noise:
                front.append(plan)
        return front


class Search:
    """Looks for the cheapest plan within a budget.

    1. Everything quantized; done where that meets the budget safely. Then with the ranges of each other method: which
       one suits a model differs by twenty dB, and a better one costs nothing.
    2. Sensitivity of every group, alone and left out, with the best method's ranges. The tensors of the worst groups
       try the other methods one by one.
    3. Groups in the order of noise removed for what it costs; the first n of them are kept float, with n found by
       doubling and bisection.
    4. Pruning: kept groups that turn out not to be needed go back. Steps 3 and 4 are done with two orders, one in
       which the price counts little and one in which it counts in full, unless the first finds very few groups.

    Args:
        simulation: the model and the samples to decide on.
        budget: what must hold.
        cost: predicts times.
        prefer: what makes a plan cheap: ``int8``, few multiply-accumulates left in float, or ``time``, the predicted
            time with all borders, in which a small layer can be faster in float.
        evaluations: how many plans may be evaluated; 8 log2(groups) + 16 where None. One damaged layer takes
            two or three.
        try_ranges: whether other ranges are tried.
        log: a JSON-lines file of every evaluation; an interrupted search goes on from it.
        best: a file that holds the best plan so far, at any moment.
        progress: called with what is being done, how much is done, and of how much.
    """

    def __init__(
        self,
        simulation: Simulation,
        budget: Budget,
        cost: CostModel,
        *,
        prefer: str = "int8",
        evaluations: int | None = None,
        try_ranges: bool = True,
        log: Path | None = None,
        best: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.simulation, self.budget, self.cost = simulation, budget, cost
        self.limit = evaluations or 8 * math.ceil(math.log2(max(len(simulation.names), 2))) + 16
        self.try_ranges, self.prefer = try_ranges, prefer
        self.log = Log(log, simulation.fingerprint(), needs_now)
        self._sensitivity_log = log.with_suffix(".groups.jsonl") if log is not None else None
        self._best_path = best
        self.progress = progress or silent
        self.plans: list[SearchedPlan] = []
        self.best: SearchedPlan | None = None
        self._known: dict[str, SearchedPlan] = {}
        self.amax: dict[str, float] = {}
        self._methods: list[dict[str, float]] = []
        # the simulation may be rebased, and a plan's ranges are what differs from calibration's
        self._own = dict(simulation.switches.amax)
        self.notes: list[Finding] = again(self.log)

    def run(self) -> SearchResult:
        """Search; the nearest plan is the result where none meets the budget."""
        names = self.simulation.names
        plan = self._evaluate(())
        sensitivity = None
        if self.prefer == "time":
            self._faster((), names)
        if self.try_ranges and not self.budget.safely(plan.outcome, self.simulation.runner.float_outcome):
            plan = self._best_method(plan)
        if not plan.meets:
            if self.amax:
                # states are reused where they begin like the base state, which is better the one now in use
                self.simulation.runner.forget()
                self.simulation = self.simulation.rebased(self.amax)
            sensitivity = exact(self.simulation, log=self._sensitivity_log, progress=self.progress)
            harm = {group.name: group.harm(sensitivity.full) for group in sensitivity.groups}
            if self.try_ranges:
                plan = self._better_ranges(plan, sensitivity, harm)
            if not plan.meets:
                self._choose(harm)
        assert self.best is not None
        if self.prefer == "time":
            self._faster(self.best.kept)
        self.progress("search", self.limit, self.limit)
        reference = self.simulation.runner.float_outcome
        used = methods_of(self.simulation, self.best.amax)
        if len(self.best.kept) == len(names):
            plain = self.cost.time(names)
            faster = [plan for plan in self.plans if plan.seconds < plain]
            self.notes.append(Code.SEARCH_ALL_FLOAT(by_time=self.prefer == "time", faster=len(faster)))
        return SearchResult(self.best, self.plans, len(self.plans), sensitivity, reference, used, self.notes)

    # ---------------------------------------------------------------- one plan

    def _evaluate(self, kept: Sequence[str]) -> SearchedPlan:
        key = sha256_json([sorted(kept), sorted(self.amax.items())])
        if key in self._known:
            return self._known[key]
        line = self.log.get(key)
        if line is not None:
            outcome = Outcome.from_json(line["outcome"])
        else:
            outcome = self.simulation.without(kept, {**self._own, **self.amax})
        seconds = self.cost.time(kept)
        lacks = self.budget.lacks(outcome, self.simulation.runner.float_outcome, seconds)
        plan = SearchedPlan(tuple(sorted(kept)), dict(self.amax), outcome, lacks, seconds, self.cost.share(kept))
        self._known[key] = plan
        self.plans.append(plan)
        if line is None:
            self.log.add(key, {"number": len(self.plans), **plan.to_json()})
        if self.best is None or self._rank(plan) < self._rank(self.best):
            self.best = plan
            if self._best_path is not None:
                write_json(self._best_path, {"schema": SCHEMA, "met": plan.meets, "best": plan.to_json()})
        self.progress(Activity("search", self._so_far(self.best)), len(self.plans), self.limit)
        return plan

    def _so_far(self, best: SearchedPlan) -> Finding:
        dtype, of = self.simulation.switches.precision, self.cost.work.of
        lacks = {"limits": list(best.lacks), "by": list(best.lacks.values())}
        return Code.SEARCH_BEST(share=best.quantized, of=of, dtype=dtype, **lacks)

    def _rank(self, plan: SearchedPlan) -> tuple[float, float, float]:
        """Smaller is better: near the budget, then little given up, then little noise."""
        return self.budget.distance(dict(plan.lacks)), self._given_up(plan.kept), plan.outcome.noise

    def _faster(self, *starts: Sequence[str]) -> None:
        """Try plans that are predicted faster: from each start layers are kept or given back while the time falls.

        Everything quantized and everything float are two starts: a border between types costs time on both sides of
        a layer, so that an island of one quantized layer can be slower than none, and two neighbours faster.
        """
        predictions = _PREDICTIONS
        for start in starts:
            kept, time = set(start), self.cost.time(start)
            while predictions >= len(self.simulation.names):
                predictions -= len(self.simulation.names)
                found, name = min((self.cost.time(kept ^ {name}), name) for name in self.simulation.names)
                if found >= time * (1 - 1e-9):
                    break
                kept, time = kept ^ {name}, found
            within = min((plan.seconds for plan in self.plans if plan.meets), default=math.inf)
            if time < within and self._left() > 0:
                self._evaluate(sorted(kept))

    def _given_up(self, kept: Sequence[str]) -> float:
        return self.cost.time(kept) if self.prefer == "time" else sum(self._price(name) for name in kept)

    def _price(self, group: str) -> float:
        return self.cost.price(group) if self.prefer == "time" else self.cost.arithmetic(group)

    def _left(self) -> int:
        return self.limit - len(self.plans)

    # ---------------------------------------------------------------- better ranges

    def _best_method(self, plan: SearchedPlan) -> SearchedPlan:
        """Everything quantized with the ranges of each method; the best one's are used from here on."""
        best, own = plan, self.simulation
        for _, amax in whole_model(own):
            if self._left() <= 1:
                # the last one is for layers kept float
                break
            self.amax = amax
            self._methods.append(amax)
            plan = self._evaluate(())
            if self._rank(plan) < self._rank(best):
                best = plan
        self.amax = dict(best.amax)
        return best

    def _better_ranges(self, plan: SearchedPlan, sensitivity: Sensitivity, harm: dict[str, float]) -> SearchedPlan:
        """Give the tensors of the worst groups the range, of those the methods propose, with the least noise."""
        if self._left() <= 1:
            return plan
        own = dict(self.amax)
        total = sum(value for value in harm.values() if math.isfinite(value)) or 1.0
        worst = [g for g in sensitivity.ranked()[:_WORST_GROUPS] if harm[g.name] > _WORST_SHARE * total]
        switches = self.simulation.switches
        inputs = {group.name: group.tensors for group in switches.groups}
        done: set[str] = set()
        for number, group in enumerate(worst):
            self.progress("ranges", number, len(worst))
            assert group.alone is not None
            least = group.alone.noise
            for tensor in inputs[group.name]:
                if tensor in done or tensor not in switches.amax:
                    continue
                done.add(tensor)
                for amax in alternatives(self.simulation, tensor, switches.amax[tensor]):
                    noise = self._tried(group.name, {**self.amax, tensor: amax})
                    if noise < _BETTER * least:
                        least = noise
                        self.amax[tensor] = amax
        self.progress("ranges", len(worst), len(worst))
        replaced = {tensor for tensor, amax in self.amax.items() if own.get(tensor) != amax}
        if not replaced:
            return plan
        better = self._evaluate(())
        if self._rank(better) > self._rank(plan):
            self.amax = own
            return plan
        # a shared range changes what other groups cost
        changed = [name for name, tensors in inputs.items() if set(tensors) & replaced]
        for name in changed:
            before = next(g for g in sensitivity.groups if g.name == name)
            noise = self._tried(name, self.amax)
            alone = before.alone.noise if before.alone is not None else 0.0
            harm[name] = noise if harm[name] <= alone * 1.5 else max(noise, harm[name] - alone)
        return better

    def _tried(self, group: str, amax: Mapping[str, float]) -> float:
        key = "range:" + sha256_json([group, sorted(amax.items())])
        line = self.log.get(key)
        if line is None:
            outcome = self.simulation.alone(group, {**self._own, **amax})
            line = {"outcome": outcome.to_json(), "group": group, "amax": dict(amax)}
            self.log.add(key, line)
        return Outcome.from_json(line["outcome"]).noise

    # ---------------------------------------------------------------- which layers

    def _choose(self, harm: Mapping[str, float]) -> None:
        for exponent in _EXPONENTS:
            kept = self._nested(self._order(harm, exponent), first=exponent == _EXPONENTS[0])
            assert self.best is not None
            if kept is None:
                if not self.best.meets:
                    self.notes.append(Code.SEARCH_NEAREST())
                return
            kept = self._prune(kept, harm)
            if len(kept) >= _FEW and self._with_best_ranges(kept):
                self._prune(kept, harm)
            if len(self.best.kept) <= _FEW:
                return

    def _with_best_ranges(self, kept: Sequence[str]) -> bool:
        """Use the method's ranges that suit the layers left quantized best; whether they are others than before.

        A layer that is float now may have been what spoke for a method.
        """
        if not self.try_ranges:
            return False
        best, own = self._evaluate(kept), self.amax
        for amax in ({}, *self._methods):
            if amax != own and self._left() > 1:
                self.amax = dict(amax)
                plan = self._evaluate(kept)
                if self._rank(plan) < self._rank(best):
                    best = plan
        self.amax = dict(best.amax)
        return self.amax != own

    def _order(self, harm: Mapping[str, float], exponent: float) -> list[str]:
        """Groups by noise removed for what keeping them float costs, the best bargain first."""
        return sorted(harm, key=lambda name: (-harm[name] / self._price(name) ** exponent, name))

    def _nested(self, order: Sequence[str], first: bool) -> list[str] | None:
        """The smallest n, by doubling and bisection, for which keeping the first n groups meets the budget.

        The first time it is asked again which method suits what is left, once the few worst layers are out.
        """
        fails, n = 0, 1 if self._left() > 1 else len(order)
        if self._left() <= 0:
            return None
        while True:
            n = min(n, len(order))
            if self._evaluate(order[:n]).meets:
                break
            if first and n <= _FEW and self._with_best_ranges(order[:n]) and self._evaluate(order[:n]).meets:
                break
            fails = n
            if n == len(order) or self._left() <= 0:
                return None
            # the last evaluation is for what keeps the most: it meets any budget that the float model meets
            n = len(order) if self._left() <= 1 else 2 * n
        while n - fails > 1 and self._left() > 0:
            middle = (fails + n) // 2
            if self._evaluate(order[:middle]).meets:
                n = middle
            else:
                fails = middle
        return list(order[:n])

    def _prune(self, kept: list[str], harm: Mapping[str, float]) -> list[str]:
        """Give back what is not needed: halves of the worst bargains while that goes well, then one by one."""
        order = sorted(kept, key=lambda name: (harm[name] / self._price(name), name))
        size = len(order) // 2
        while len(order) > 1 and size >= 1:
            position = 0
            while position < len(order) and self._left() > 0:
                block = order[position : position + size]
                rest = [name for name in order if name not in block]
                if rest and self._evaluate(rest).meets:
                    order = rest
                elif size > 1:
                    # what follows is needed more
                    break
                else:
                    position += size
            size //= 2
        return order
