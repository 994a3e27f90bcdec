"""Run a search's plans in the types of the engine, since the simulation computes in float32."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from toolkit.base.errors import ModelError, QtoolError
from toolkit.base.precision import Precision
from toolkit.contract.context import Context
from toolkit.contract.findings import Code, Finding
from toolkit.contract.plan import PrecisionPlan
from toolkit.contract.ranges import Ranges
from toolkit.contract.registry import passes_with_role
from toolkit.contract.roles import Role
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.evaluation.comparison.type_noise import TypeNoise
from toolkit.graph.model import Model
from toolkit.graph.sessions.ort_session import cause_of
from toolkit.search.budget.racing import plan_key
from toolkit.search.budget.spending import FLOAT_PRICE, TYPES_PRICE, Spending
from toolkit.search.codes import KeptCode
from toolkit.search.cost.cost_model import CostModel
from toolkit.search.plans.range_methods import NEARER
from toolkit.search.plans.search import SearchResult, all_float
from toolkit.search.plans.searched_plan import SearchedPlan
from toolkit.search.quantizer.quantizer import Quantizer
from toolkit.search.stages.helped_forms import HelperModels
from toolkit.search.stages.wide_layers import shortest_wide_run
from toolkit.simulation.simulation import Simulation

_ASKED = 0.9
"""The share of its margin that a plan must keep in its types.

Plans are chosen at the edge of the margin, and the noise that types add is known from other plans to within a few
percent.
"""

Lower = Callable[[Model, PrecisionPlan, "Ranges | None"], Model]
"""Returns a model lowered to the types that it will run in."""


class RealTypes:
    """The part of a search that runs a plan, or the unquantized model, in the types of the engine."""

    model: Model
    quantizer: Quantizer
    context: Context
    spending: Spending
    decided_on: int
    by: str
    lower: Lower
    reference: Model | None
    forms: HelperModels | None = None
    wide: Finding | None = None
    _wide: tuple[str, ...] = ()
    _real: tuple[Simulation, str, Outcome] | None = None

    if TYPE_CHECKING:

        @property
        def budget(self) -> Budget:
            """See ``PlanSearch``."""

        @cached_property
        def simulation(self) -> Simulation:
            """See ``PlanSearch``."""

        def take(self, found: SearchResult, model: Model, context: Context) -> None:
            """See ``PlanSearch``."""

    def check_in_types(self, found: SearchResult) -> None:
        """Check a plan that meets the budget in float32 in its real types, with float layers in ``rest``.

        ``found`` gets how far the plan misses the budget there and what these types add to its noise. Nearly all of the
        margin is required too: what float16 changes or nearly changes on these samples, it changes on others as well.
        If the unquantized model in ``rest`` leaves no margin, only the limits are required; if it misses them, the
        journal says so, and no layer is blamed.
        """
        context = self.context
        if not found.best.meets or self.in_float32:
            return
        doing = f"checking the plan in {context.rest}"
        context.progress(doing, 0, 1)
        try:
            self._look_in_types(found)
        except ModelError as error:
            found.lacks_in_types = {}
            context.journal.noted(Code.SEARCH_TYPE_UNCHECKED(rest=context.rest, error=cause_of(error)))
        context.progress(doing, 1, 1)
        if lacks := found.rest_lacks:
            missed = Code.TYPE_MISSES(rest=context.rest, limits=list(lacks), by=list(lacks.values()))
            guarded, mends = bool(context.guards), self._guard_mends()
            if not mends and not self._wide and self._keep_wide(found, missed):
                return
            context.journal.noted(Code.SEARCH_TYPE_ALONE(why=missed, guarded=guarded, mends=mends))

    def _keep_wide(self, found: SearchResult, missed: Finding) -> bool:
        """Keep the layers in float32 without which the narrower type misses the limits; returns whether this is enough.

        Layers for which a pass before the search requested a type keep it.
        """
        plain, reference = replace(self.budget, margin=0.0, max_ms=None), self.simulation.runner.float_outcome
        asked = self._asked_before()
        order = [node.name for node in self.model.nodes if node.name not in asked]

        def meets(names: Sequence[str]) -> bool:
            self._wide = tuple(names)
            self.spending.pay(TYPES_PRICE)
            return not plain.lacks(self.simulation.outcome_of(self._in_types(None)), reference)

        self.wide = missed
        try:
            mended = meets(order)
            kept = shortest_wide_run(order, meets, lambda: self.spending.over) if mended else ()
            self._wide = tuple(kept)
            if asked and not mended:
                by = ", ".join(sorted(set(asked.values())))
                self.context.journal.noted(KeptCode.WIDE_REFUSED(why=missed, nodes=tuple(asked), by=by))
            if kept:
                self._real = None
                self._look_in_types(found)
        except ModelError:
            self._wide = ()
        if not self._wide or found.rest_lacks:
            self._wide, self.wide = (), None
            return False
        self.context.journal.noted(KeptCode.WIDE(why=missed, nodes=self._wide, of=len(self.model.nodes)))
        return True

    def _asked_before(self) -> dict[str, str]:
        """The layers for which a pass before the search requested a float type other than float32, and that pass."""
        # requests that the search makes in forked contexts do not count
        own = (self.by, PrecisionPlan().by)
        names = set(self.model.node_names())
        return {
            name: ask.by
            for name, ask in self.context.plan.items()
            if name in names and ask.by not in own and not (ask.free or ask.wider)
            and not ask.precision.quantized and ask.precision is not Precision.FP32
        }  # fmt: skip

    def widen_kept(self, context: Context) -> frozenset[str]:
        """Request float32 for float layers that fail in the narrower type, with the plan's reason for keeping them.

        A quantizer that runs after this reports the type that they get. Returns their names, for ``keep_wide``.
        """
        asks = {name: context.plan.get(name) for name in self._wide}
        kept = {name: ask for name, ask in asks.items() if ask is not None and not ask.precision.quantized}
        narrow = {name: ask for name, ask in kept.items() if ask.precision is not Precision.FP32}
        for name, ask in narrow.items():
            context.plan.ask(name, Precision.FP32, ask.reason, free=ask.free)
        return frozenset(narrow)

    def keep_wide(self, model: Model, context: Context, widened: Collection[str] = ()) -> None:
        """Request float32 for layers that fail in the narrower type and are not quantized, with that as the reason.

        Args:
            model: the graph; it is not changed.
            context: its plan gets the requests and its journal the changes.
            widened: the result of ``widen_kept``.
        """
        if self.wide is None:
            return
        named = set(self._wide)
        for node in model.nodes:
            ask = context.plan.get(node.name)
            theirs = ask is not None and ask.precision is Precision.FP32 and node.name not in widened
            if node.name in named and not theirs and (ask is None or not ask.precision.quantized):
                context.plan.ask(node.name, Precision.FP32, self.wide)
                context.journal.changed(node.name, Code.REQUESTED(precision=Precision.FP32, unquantized=()), self.wide)

    def _guard_mends(self) -> bool | None:
        """Whether a guard pass, which requests wider types, would make the float layers' type meet the limits.

        None if not tried: a guard is in use, none is installed, the type is not float16, or the observed values that a
        guard needs are not available.
        """
        kinds = passes_with_role(Role.GUARD)
        if self.context.guards or not kinds or self.context.rest is not Precision.FP16:
            return None
        plain = replace(self.budget, margin=0.0, max_ms=None)
        try:
            guarded = self.simulation.outcome_of(self._in_types(None, (kinds[0][1](),)))
        except QtoolError:
            return None
        self.spending.pay(TYPES_PRICE)
        return not plain.lacks(guarded, self.simulation.runner.float_outcome)

    def left_float(
        self, found: SearchResult, cost: CostModel, demand: Budget, outcome: Outcome | None = None
    ) -> SearchResult:
        """The search's result with nothing quantized as the plan, judged by the budget in its types too.

        Its outcome is ``outcome``, or that of the float model if that is None.
        """
        demand = replace(demand, types=None)
        plain = all_float(self.simulation, cost, demand, self.spending).best
        if outcome is not None:
            plain = replace(plain, outcome=outcome, lacks=demand.lacks(outcome, found.reference, plain.seconds))
        others = [plan for plan in found.plans if plan.kept != plain.kept]
        notes = [*found.notes, Code.SEARCH_ALL_FLOAT(by_time=False, faster=0)]
        found = replace(
            found, best=plain, plans=[*others, plain], notes=notes, lacks_in_types={}, rest_lacks={}, real=None
        )  # fmt: skip
        self.check_in_types(found)
        return found

    def holds_in_types(self, found: SearchResult) -> bool:
        """Whether a plan that meets the budget also does so in its real types, or cannot be run in them."""
        if self.in_float32:
            return True
        looked = replace(found)
        try:
            self._look_in_types(looked)
        except ModelError:
            return True
        return not looked.lacks_in_types

    def _look_in_types(self, found: SearchResult) -> None:
        """``check_in_types`` without the journal; the outcome of a model that has run in its types before is reused.

        Raises:
            ModelError: onnxruntime cannot run the model.
        """
        simulation, key = self.simulation, plan_key(found.best.kept, found.best.amax)
        reference, plain = simulation.runner.float_outcome, replace(self.budget, margin=0.0, max_ms=None)
        if self._real is None or self._real[:2] != (simulation, key):
            self.spending.pay(TYPES_PRICE)
            self._real = simulation, key, simulation.outcome_of(self._in_types(found))
        found.real, found.rest_lacks = self._real[2], {}
        real = found.real
        found.lacks_in_types, alone = lacks_in_types(
            self.budget, real, reference, lambda: simulation.outcome_of(self._in_types(None))
        )
        if alone is not None:
            found.types = _of_others(self.budget, TypeNoise.between(real, found.best.outcome), alone, reference)
            found.limits_in_types = not plain.lacks(real, reference)
            found.rest_lacks = plain.lacks(alone, reference)

    @property
    def in_float32(self) -> bool:
        """Whether there is nothing to check: plans run in float32, or outputs are compared with another model's."""
        return self.context.rest is Precision.FP32 or self.reference is not None

    def _in_types(self, found: SearchResult | None, guards: Sequence[Callable[[Model, Context], object]] = ()) -> Model:
        """The model as it will run: with the plan's pairs or without any, lowered to ``rest``; ``guards`` are added."""
        apart, trial = self.context.fork(), self.model.copy()
        apart.guards = (*apart.guards, *guards)
        if found is not None:
            self.take(found, trial, apart)
            self.quantizer.insert(trial, apart)
        elif self.forms is not None:
            self.forms.take((), trial, apart)
        self.keep_wide(trial, apart)
        # values that float16 cannot hold, and that later passes keep in FP32, are in FP32 in the engine too
        apart.guard(trial)
        return self.lower(trial, apart.plan, apart.known_ranges)

    def louder_in_types(
        self, few: Simulation, before: Model, helped: Callable[[], Model | None]
    ) -> tuple[Outcome, Outcome] | None:
        """The outcomes of two forms of the float model in ``rest``, if the second form loses too much in this type.

        It does if it is 1 dB noisier than the first and leaves quantization less than half of the allowed noise, while
        the first leaves more.

        Args:
            few: the simulation on the samples to use.
            before: the first form.
            helped: creates the second form; None if it equals the first.

        Returns:
            The outcomes of the first and second form; None if the second does not lose too much or cannot be run.
        """
        after = helped() if not self.in_float32 else None
        if after is None:
            return None
        part = sum(feed.count for feed in few.feeds) / self.decided_on
        reference, found = few.runner.float_outcome, list[Outcome]()
        try:
            for form, spoilt in ((after, True), (before, False)):
                self.spending.pay(FLOAT_PRICE * part)
                found.append(few.outcome_of(self.lower(form.copy(), self.context.fork().plan, None)))
                with_as_much = replace(self.budget, max_ms=None, types=TypeNoise.of(found[-1]))
                # a budget that this type leaves no room for in either form says nothing about the second
                if bool(with_as_much.lacks(found[-1], reference)) is not spoilt:
                    return None
        except ModelError:
            # then a plan's outcome in its types is unknown too, which is reported
            return None
        return (found[1], found[0]) if found[1].noise < NEARER * found[0].noise else None


def _of_others(budget: Budget, of_plan: TypeNoise, alone: Outcome, reference: Outcome) -> TypeNoise:
    """The noise that types are assumed to add to plans other than the one that was run in them.

    One borderline sample that flips in these types can cost a plan all that the budget allows. If the same addition, to
    hardly any noise, would miss a budget that the unquantized model in these types meets, it is peculiar to that plan,
    and the unquantized model's is used instead.

    Args:
        budget: the limits that a plan must meet.
        of_plan: the noise that the types add to the plan that was run.
        alone: the outcome of the unquantized model in these types.
        reference: the outcome of the float model.
    """
    without = replace(budget, max_ms=None, types=None)
    own = bool(replace(without, types=of_plan).lacks(alone, reference)) and not without.lacks(alone, reference)
    return TypeNoise.of(alone) if own else of_plan


def lacks_in_types(
    budget: Budget, real: Outcome, reference: Outcome, alone: Callable[[], Outcome]
) -> tuple[dict[str, float], Outcome | None]:
    """How far a plan misses a budget in the types that it runs in; its latency is not considered.

    Args:
        budget: the limits, with the margin that the plan kept in float32: nearly all of it is required here too.
        real: the plan's outcome in its types.
        reference: the outcome of the float model.
        alone: returns the outcome of the unquantized model in these types; if it leaves no margin, only the limits
            count.

    Returns:
        For each limit how far it is missed, and the unquantized model's outcome if it was needed.
    """
    plain = replace(budget, margin=0.0, max_ms=None)
    asked = replace(plain, margin=_ASKED * budget.margin)
    lacks = asked.lacks(real, reference)
    if not lacks:
        return lacks, None
    unquantized = alone()
    return plain.lacks(real, reference) if asked.lacks(unquantized, reference) else lacks, unquantized


def best_known(plans: Collection[SearchedPlan], missed: Collection[str], budget: Budget, reference: Outcome,
               by_time: bool) -> SearchedPlan | None:  # fmt: skip
    """The best of the plans that ran on all samples and meet a budget; None if there is none.

    Args:
        plans: the plans with known outcomes.
        missed: the ``plan_key`` of plans that are known to miss the budget elsewhere.
        budget: the limits that a plan must meet now.
        reference: the float model's outcome.
        by_time: whether the fastest plan is the best, rather than the one with most of the work quantized.
    """
    met = [
        plan for plan in plans
        if plan.whole and plan_key(plan.kept, plan.amax) not in missed
        and not budget.lacks(plan.outcome, reference, plan.seconds)
    ]  # fmt: skip
    return min(met, key=lambda one: one.seconds if by_time else -one.quantized, default=None)
