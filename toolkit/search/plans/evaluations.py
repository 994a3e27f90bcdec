"""The plans that a search has run, each on as many samples as the decision needs; their cost, and the best plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolkit.base.collection import grown_memory
from toolkit.base.files import write_json
from toolkit.base.log import Log
from toolkit.base.progress import Activity, Progress, silent
from toolkit.base.reads import needs_now
from toolkit.contract.findings import Code, Finding
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.search.budget.racing import clear, plan_key, rounds
from toolkit.search.budget.spending import FLOAT_PRICE, Spending
from toolkit.search.cost.cost_model import CostModel
from toolkit.search.plans.searched_plan import SearchedPlan
from toolkit.search.sensitivity.single_layers import SingleLayerOutcomes
from toolkit.search.sensitivity.stale_measurements import stale_measurements
from toolkit.simulation.simulation import Simulation
from toolkit.simulation.state_run import StateRun, run_side_by_side
from toolkit.simulation.switches import Config

SCHEMA = "qtool-search-1"
_RICH = 5.0
_PREDICTIONS = 2000
"""The largest number of predictions while looking for faster plans; each places the Q/DQ pairs again."""
_SETTLED = 3
_UNSEEN = 1e-3


class Evaluations:
    """Evaluates plans and keeps the best.

    If inferences are limited, a plan is run on a few batches first and dropped if it clearly misses the budget there.

    Args:
        simulation: the model and the samples to decide on.
        budget: the limits that a plan must meet.
        cost: predicts latencies.
        prefer: what makes a plan cheap: ``int8``, few multiply-accumulates left in float, or ``time``, the predicted
            latency with all conversions between types, in which a small layer can be faster in float.
        evaluations: how many plans may be evaluated; 8 log2(groups) + 16 if None. One damaged layer takes two or three
            evaluations.
        try_ranges: whether to try ranges other than the recipe's.
        log: a JSON-lines file of every evaluation; an interrupted search resumes from it.
        best: a file that always holds the best plan so far.
        progress: called with the activity, how much of it is done, and the total.
        spending: the inferences that may be used, and those used so far; no limit if None.
        missed: by ``plan_key`` and limit, how far a plan that meets the budget here is known to miss it elsewhere.
        known: a plan that has run on all samples before.
        likely: the layers that stay float in a plan that met the budget in another form of the model.
        alone: the effects of single layers in another form of the model.
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
        log: Path | Log | None = None,
        best: Path | None = None,
        progress: Progress | None = None,
        spending: Spending | None = None,
        missed: Mapping[str, Mapping[str, float]] | None = None,
        known: SearchedPlan | None = None,
        likely: Sequence[str] | None = None,
        alone: SingleLayerOutcomes | None = None,
    ) -> None:
        self._likely, self._alone = likely, alone
        self.simulation, self.budget, self.cost = simulation, budget, cost
        self._missed, self._recalled = missed or {}, known
        self.limit = evaluations or 8 * math.ceil(math.log2(max(len(simulation.names), 2))) + 16
        self.try_ranges, self.prefer = try_ranges, prefer
        self.spending = spending or Spending()
        self.log = log if isinstance(log, Log) else Log(log, simulation.fingerprint(), needs_now)
        self._sensitivity_log = self.log.path.with_suffix(".groups.jsonl") if self.log.path is not None else None
        self._best_path = best
        self.progress = progress or silent
        self.plans: list[SearchedPlan] = []
        self.best: SearchedPlan | None = None
        self.first: float | None = None
        self._known: dict[str, SearchedPlan] = {}
        self._probes: dict[str, StateRun] = {}
        self._anchor: Config | None = None
        self._rounds: list[int] = []
        self._whole_price = 0.0
        self.amax: dict[str, float] = {}
        self._methods: list[dict[str, float]] = []
        # the simulation may be rebased, while a plan's ranges are those that differ from the recipe's calibration
        self._own = dict(simulation.switches.amax)
        self.notes: list[Finding] = stale_measurements(self.log)

    def _begin(self) -> None:
        """Run the float model; the number of batches and their price are known afterwards."""
        ran, runner = self.simulation.ran, self.simulation.runner
        self._rounds = rounds(len(runner.feeds)) if self.spending.limited else [len(runner.feeds)]
        self._whole_price = runner.price(self.simulation.config(()))
        self.spending.know(runner.macs)
        self.spending.pay(0.0 if ran else FLOAT_PRICE)
        if self._recalled is not None:
            self._recall(self._recalled)

    def _recall(self, plan: SearchedPlan) -> None:
        """Register a plan that has run on all samples before, judged against this budget."""
        key, seconds = plan_key(plan.kept, plan.amax), self.cost.time(plan.kept)
        lacks = self.budget.lacks(plan.outcome, self.simulation.runner.float_outcome, seconds)
        plan = replace(plan, lacks={**lacks, **self._missed.get(key, {})}, seconds=seconds)
        self._known[key] = plan
        self.plans.append(plan)
        self.first = self.spending.priced if plan.meets else None
        self._hold(plan)

    # ---------------------------------------------------------------- one plan

    def _evaluate(
        self, kept: Sequence[str], until: int | None = None, sure: bool = False, race: bool = False
    ) -> SearchedPlan:
        """Run a plan on more and more of the batches until it is clear whether it meets the budget.

        Args:
            kept: the groups that stay float; the ranges are those in use.
            until: the number of rounds after which to stop; None for all.
            sure: whether a plan that clearly meets the budget is run on all samples nevertheless.
            race: whether to run all of these rounds whatever the outcome, so that the plan can be compared with others.
        """
        grown_memory.give_back(young_only=True)
        key = plan_key(kept, self.amax)
        before, runner = self._known.get(key), self.simulation.runner
        plan, config = before, self.simulation.config(kept, {**self._own, **self.amax})
        paid = runner.price(config, before.batches, self._anchor) if before is not None else 0.0
        for count in self._rounds[:until]:
            if plan is not None:
                # users who stop the search need a first plan within the budget
                enough = plan.clear is False or (plan.clear is True and not sure and self.first is not None)
                if plan.batches >= count or plan.whole or (enough and not race):
                    continue
            price = paid if (key, count) in self.spending.bought else runner.price(config, count, self._anchor)
            if plan is not None and not sure and not self.spending.left(price - paid):
                break
            self.spending.pay(price - paid)
            self.spending.bought.add((key, count))
            plan, paid = self._on(key, kept, config, count), price
        assert plan is not None
        if plan is not before:
            self._take(key, plan, before, config)
        return plan

    def _take(self, key: str, plan: SearchedPlan, before: SearchedPlan | None, config: Config) -> None:
        """Record a plan's new results in place of the earlier ones."""
        if before is not None:
            self.plans[self.plans.index(before)] = plan
        else:
            self.plans.append(plan)
        self._known[key] = plan
        if plan.whole or plan.clear is not None:
            probe, runner = self._probes.pop(key, None), self.simulation.runner
            if plan.meets and len(self._rounds) > 1 and not runner.joins:
                # later plans share their first layers with this one; prices assume so even for outcomes from the log
                self._anchor = config
                if probe is not None:
                    runner.anchor(probe)
        if plan.meets and self.first is None:
            self.first = self.spending.priced
        if self.best is before or self.best is None or self._rank(plan) < self._rank(self.best):
            self._hold(min(self.plans, key=self._rank))
        assert self.best is not None
        self.progress(Activity("search", self._so_far(self.best)), len(self.plans), self.limit)

    def _hold(self, best: SearchedPlan) -> None:
        self.best = best
        if self._best_path is not None:
            write_json(self._best_path, {"schema": SCHEMA, "met": best.meets, "best": best.to_json()})

    def _on(self, key: str, kept: Sequence[str], config: Config, count: int) -> SearchedPlan:
        """The plan's results on the first ``count`` batches, run or read from the log."""
        runner = self.simulation.runner
        whole = count == len(runner.feeds)
        line = self.log.get(key if whole else f"{key}:{count}")
        if line is not None:
            outcome = Outcome.from_json(line["outcome"])
        elif len(self._rounds) == 1:
            outcome = runner.run(config)
        else:
            outcome = self._probe(key, config).run(count)
        seconds = self.cost.time(kept)
        reference = runner.float_on(count)
        budget = self.budget if whole else self.budget.on_subset(outcome, reference)
        lacks = budget.lacks(outcome, reference, seconds) if budget is not None else {}
        lacks |= self._missed.get(key, {}) if whole else {}
        known = None if whole else clear(self.budget, outcome, reference, count / len(runner.feeds))
        plan = SearchedPlan(
            tuple(sorted(kept)), dict(self.amax), outcome, lacks, seconds, self.cost.share(kept), count,
            len(runner.feeds), known,
        )  # fmt: skip
        if line is None:
            self.log.add(key if whole else f"{key}:{count}", {"number": len(self.plans) + 1, **plan.to_json()})
        return plan

    def _probe(self, key: str, config: Config) -> StateRun:
        """The state of a plan's run on the batches so far."""
        if key not in self._probes:
            runner = self.simulation.runner
            self._probes[key] = runner.probe(config, keep=not runner.joins)
        return self._probes[key]

    def _request(self, kept: Sequence[str], ranges: Sequence[Mapping[str, float]], until: int) -> None:
        """Run a plan with each of these ranges up to round ``until`` side by side, or send its batches to workers.

        Each plan is then evaluated as usual, and pays for what was run. Nothing is run if the inferences or plans that
        are left might not suffice for all of them.
        """
        runner, count, price = self.simulation.runner, self._rounds[until - 1], 0.0
        asked: list[tuple[str, Config]] = []
        for amax in ranges if len(self._rounds) > 1 else ():
            key = plan_key(kept, amax)
            before = self._known.get(key)
            name = key if count == len(runner.feeds) else f"{key}:{count}"
            if (before is None or before.batches < count) and self.log.get(name) is None:
                config = self.simulation.config(kept, {**self._own, **amax})
                price += runner.price(config, count, self._anchor)
                asked.append((key, config))
        if len(asked) < 2 or self._left(price) <= len(asked):
            return
        states = [self._probe(key, config) for key, config in asked]
        for state in states:
            state.ask(count)
        # where states start at the cuts of the last plan within the budget, each one waits for what the others show
        if runner.workers is None and runner.joins:
            run_side_by_side(runner, states, count)

    def _found(self, kept: Sequence[str], amax: Mapping[str, float]) -> SearchedPlan:
        """The known results of a plan that has run."""
        return self._known[plan_key(kept, amax)]

    def _settle(self) -> None:
        """Run the best plan on all samples if it was judged on a subset."""
        for _ in range(_SETTLED):
            assert self.best is not None
            if self.best.whole:
                return
            plan, self.amax = self.best, dict(self.best.amax)
            key = plan_key(plan.kept, self.amax)
            config = self.simulation.config(plan.kept, {**self._own, **self.amax})
            runner = self.simulation.runner
            self.spending.pay(
                runner.price(config, None, self._anchor) - runner.price(config, plan.batches, self._anchor)
            )
            self._take(key, self._on(key, plan.kept, config, plan.of), plan, config)
        if self.best is not None and not self.best.whole:
            # others that look cheaper on a subset may fail on all samples as these did
            self._hold(min((plan for plan in self.plans if plan.whole), key=self._rank))

    def _so_far(self, best: SearchedPlan) -> Finding:
        dtype, of = self.simulation.switches.precision, self.cost.work.of
        said: dict[str, Any] = {"limits": list(best.lacks), "by": list(best.lacks.values())}
        if not best.whole:
            # a limit met on a subset may be missed on all samples
            said |= {"samples": self._samples_on(best.batches), "all": self._samples_on(best.of)}
        return Code.SEARCH_BEST(share=best.quantized, of=of, dtype=dtype, **said)

    def _samples_on(self, count: int) -> int:
        """How many samples the first ``count`` batches hold, in the runner's order."""
        runner = self.simulation.runner
        return sum(runner.feeds[index].count for index in runner.order[:count])

    def _rank(self, plan: SearchedPlan) -> tuple[float, float, float]:
        """Sort key, smaller is better: distance to the budget, then the cost of float layers, then noise."""
        distance = self.budget.distance(dict(plan.lacks))
        # a plan that is undecided on a subset does not count as within the budget
        return (
            distance if plan.whole or plan.clear else max(distance, _UNSEEN),
            self._given_up(plan.kept),
            plan.outcome.noise,
        )

    def _given_up(self, kept: Sequence[str]) -> float:
        return self.cost.time(kept) if self.prefer == "time" else sum(self._price(name) for name in kept)

    def _price(self, group: str) -> float:
        return self.cost.price(group) if self.prefer == "time" else self.cost.arithmetic(group)

    @property
    def _rich(self) -> bool:
        """Whether the fully quantized plan can be run several times and other plans after it."""
        return self.spending.left(_RICH * self._whole_price) > 0

    def _left_by_count(self) -> int:
        """How many plans are left of the allowed number; the all-float plan counts too, although it costs nothing."""
        return self.limit - len(self.plans)

    def _left(self, price: float = 0.0) -> int:
        """How many more plans may be evaluated after paying ``price``, with enough left to run one on all samples."""
        part = self._rounds[0] / self._rounds[-1]
        reserve = self._whole_price * (1 - part) + price
        return min(self._left_by_count(), self.spending.left(part * self._whole_price, reserve))

    def _faster(self, *starts: Sequence[str]) -> None:
        """Try plans predicted to be faster: from each start, switch single layers while the predicted time falls.

        The fully quantized and the float model are two starts: conversions between types cost time on both sides of a
        layer, so a single quantized layer between float ones can be slower than none, and two neighbours faster.
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
            within = min((plan.seconds for plan in self.plans if plan.passes), default=math.inf)
            if time < within and self._left() > 0:
                self._evaluate(sorted(kept))
