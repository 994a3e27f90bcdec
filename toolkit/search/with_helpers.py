"""Helper passes tried in turn on a search's model; those that clearly improve quantization are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from toolkit.base.progress import Activity
from toolkit.calibration.provider import Calibrator
from toolkit.contract.context import Context
from toolkit.contract.findings import Code
from toolkit.contract.journal import Event
from toolkit.contract.passes import Pass
from toolkit.graph.model import Model
from toolkit.graph.sessions.session import session
from toolkit.search.budget.spending import CALIBRATION_PRICE, TRIAL_PRICE
from toolkit.search.plan_search import PlanSearch
from toolkit.search.stages.helped_forms import HelperModels, with_helper

_SAME_DB = 40.0
"""A helper only moves factors: the SQNR between float outputs with and without it stays above this, even in float16."""


def with_helpers(search: PlanSearch, helpers: Mapping[str, Pass], model: Model, context: Context) -> PlanSearch:
    """Apply the helper passes that clearly improve full quantization, unless it safely meets the budget without them.

    Args:
        search: the search on the model as it is.
        helpers: the passes by name, in the order in which they are tried.
        model: the float graph; helpers that are kept are applied to it.
        context: its context; the journal gets each helper's effect, and the changes of those that are kept.

    Returns:
        The search on the model with these helpers applied.
    """
    if not helpers or search.nothing_pays():
        return search
    # trials cost as much as many plans, and may leave no time for another search
    first = search.first_plan()
    if search.needs_no_help:
        return search
    trials = _HelpersInTurn(search, model, context)
    for place, (name, helper) in enumerate(helpers.items()):
        context.progress(Activity("helpers", part=name), place, len(helpers))
        if trials.suffice():
            break
        trials.try_out(name, helper)
    trials.forget_few()
    context.progress("helpers", len(helpers), len(helpers))
    if not trials.stay or (first is not None and trials.search.spending.over):
        search.without_helpers()
        return search
    return trials.adopted()


class _HelpersInTurn:
    """Tries helpers in turn, each on the model with the earlier helpers that were kept.

    Args:
        search: the search on the model as it is.
        model: the float graph.
        context: its context.

    Attributes:
        search: the search on the model with the helpers that were kept.
        stay: these helpers, in order.
    """

    def __init__(self, search: PlanSearch, model: Model, context: Context) -> None:
        self._plain_search, self._model, self._context = search, model, context
        self._few = search.on_few()
        self._standing = search.standing(self._few)
        provider = context.provider
        self._part = provider.on_subset() if isinstance(provider, Calibrator) else provider
        self.search, self._form, self._form_context = search, model, context
        self.stay: list[Pass] = []
        self._changes: list[Event] = []

    @property
    def _price(self) -> float:
        """The price of a trial: its ranges come from a quarter of the samples, or from all samples if they are few."""
        return TRIAL_PRICE if self._part is not self._context.provider else TRIAL_PRICE + CALIBRATION_PRICE

    def suffice(self) -> bool:
        """Whether no more helpers are tried: time has run out, or all layers can be quantized with those kept."""
        standing = self._standing
        return self.search.spending.over or (not standing.distance and self.search.all_quantized_meets(standing.amax))

    def try_out(self, name: str, helper: Pass) -> None:
        """Apply a helper to a copy of the model, and keep it if it helps by the search's budget."""
        self.search.plain.rest()
        form = self._form.copy()
        context = with_helper(helper, form, self._form_context, self._part)
        if not context.journal.of("changed") or self._context.provider is None or self._changes_results(name, form):
            return
        tried = self._plain_search.on(form, context, self._price)
        few = tried.on_few()
        if few is not tried.plain:
            few.compared_like(self._few)
        standing = tried.standing(few, self._standing)
        nodes = {event.node for event in context.journal.of("changed")}
        before, before_context = self._form, self._form_context

        def in_float() -> Model | None:
            return self._in_float(helper, before, before_context)

        if not self._plain_search.helps(name, self._standing, standing, nodes, (self._few, before, in_float)):
            few.forget()
            return
        self._standing.simulation.forget()
        self.search.plain.forget()
        self.search, self._form, self._form_context, self._standing = tried, form, context, standing
        self.stay.append(helper)
        self._changes += [replace(event, by=self._plain_search.by) for event in context.journal.of("changed")]

    def _changes_results(self, name: str, form: Model) -> bool:
        """Whether the helper changes the model's results in float, which no helper may do; noted in the journal."""
        exact = self._few.runner.outcome_of(session(form, self._few.outputs, threads=1).run)
        self._few.rest()
        if exact.sqnr_db >= _SAME_DB:
            return False
        self._context.journal.noted(Code.SEARCH_HELPER_UNLIKE(helper=name, float_db=exact.sqnr_db))
        return True

    def _in_float(self, helper: Pass, form: Model, context: Context) -> Model | None:
        """The model with a helper's changes when every layer stays float; None if it changes nothing."""
        changed = form.copy()
        events = with_helper(helper, changed, context, self._part, changed.node_names()).journal.of("changed")
        return changed if events else None

    def forget_few(self) -> None:
        """Free the simulation on few samples that helpers were tried on: plans are run on more samples."""
        if self._standing.simulation is not self.search.plain:
            self._standing.simulation.forget()

    def adopted(self) -> PlanSearch:
        """Apply the kept helpers to the model itself, calibrated on all samples; returns the search on it."""
        model, context, plain = self._model, self._context, self._plain_search
        if isinstance(context.provider, Calibrator):
            # this form and a plan's form differ only in changed layers
            context.provider.reuses = True
        if self._part is not context.provider:
            self.search.plain.forget()
            self._form_context = replace(self._form_context, provider=context.provider, known_ranges=None)
            self.search = plain.on(self._form, self._form_context, CALIBRATION_PRICE)
        named = frozenset(event.node for event in self._changes)
        forms = HelperModels(
            model.copy(),
            context.fork(),
            self._part,
            tuple(self.stay),
            named,
            plain.quantizer.dtype,
            self._changes,
            plain.spending.pay,
        )
        model.become(self._form)
        context.known_ranges = self._form_context.known_ranges
        context.journal.events += self._changes
        return self.search.adopt(model, context, plain.budget, forms, plain)
