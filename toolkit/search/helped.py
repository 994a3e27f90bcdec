"""Helper passes tried one after the other on a search's model; those that make INT8 clearly better stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from toolkit.calibration.provider import Calibrator
from toolkit.contract.context import Context
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.contract.passes import Pass
from toolkit.graph.model import Model
from toolkit.graph.sessions import session
from toolkit.search.helped_forms import HelpedForms, with_helper
from toolkit.search.plan_search import PlanSearch

_SAME_DB = 40.0
"""A helper moves factors around: the SQNR of what float16 rounds differently stays above this."""
_PART = 0.25
"""What a trial calibrated on a part of the samples costs."""


def helped(search: PlanSearch, helpers: Mapping[str, Pass], model: Model, context: Context) -> PlanSearch:
    """Apply the helper passes that make plain quantization clearly better, where that does not meet the budget safely.

    Args:
        search: the search on the model as it is.
        helpers: the passes by name, in the order in which they are tried.
        model: the float graph; helpers that stay are applied to it.
        context: its context, whose journal gets what each does, and what those that stay changed.

    Returns:
        The search on the model as the helpers leave it.
    """
    if not helpers or search.nothing_pays():
        return search
    # trials cost as much as many plans, and may leave no minutes for another search
    first = search.first_plan()
    if search.needs_no_help:
        return search
    few = search.on_few()
    before = search.standing(few)
    part = context.provider.on_part() if isinstance(context.provider, Calibrator) else context.provider
    now, trial, last, kept, stay = search, model, context, Journal(), list[Pass]()
    for place, (name, kind) in enumerate(helpers.items()):
        context.progress(f"helper {name}", place, len(helpers))
        if now.spending.over or (not before.distance and now.all_quantized_meets(before.amax)):
            break
        # whether it stays is decided here, by the plan's own budget
        now.plain.rest()
        changed = trial.copy()
        apart = with_helper(kind, changed, last, part)
        if not apart.journal.of("changed") or context.provider is None:
            continue
        exact = few.runner.outcome_of(session(changed, few.outputs, threads=1).run)
        few.rest()
        if exact.sqnr_db < _SAME_DB:
            context.journal.noted(Code.SEARCH_HELPER_UNLIKE(helper=name, float_db=exact.sqnr_db))
            continue
        tried = search.on(changed, apart, 1.0 if part is context.provider else _PART)
        fewer = tried.on_few()
        if fewer is not tried.plain:
            fewer.compared_like(few)
        after = tried.standing(fewer, before)
        nodes = {event.node for event in apart.journal.of("changed")}

        def in_float(kind: Pass = kind, trial: Model = trial, last: Context = last) -> Model | None:
            form = trial.copy()
            changes = with_helper(kind, form, last, part, form.node_names()).journal.of("changed")
            return form if changes else None

        if not search.helps(name, before, after, nodes, (few, trial, in_float)):
            fewer.forget()
        else:
            before.simulation.forget()
            now.plain.forget()
            now, trial, last, before = tried, changed, apart, after
            stay.append(kind)
            kept.events += [replace(event, by=search.by) for event in apart.journal.of("changed")]
    if before.simulation is not now.plain:
        # plans are run on more samples
        before.simulation.forget()
    context.progress("helpers", len(helpers), len(helpers))
    if trial is model or (first is not None and now.spending.over):
        search.without_helpers()
        return search
    if isinstance(context.provider, Calibrator):
        # this form and a plan's differ only where layers were changed
        context.provider.reuses = True
    if part is not context.provider:
        now.plain.forget()
        last = replace(last, provider=context.provider, known_ranges=None)
        now = search.on(trial, last)
    named = frozenset(event.node for event in kept.events)
    forms = HelpedForms(model.copy(), context.fork(), part, tuple(stay), named, search.quantizer.dtype, kept.events)
    model.become(trial)
    context.known_ranges = last.known_ranges
    context.journal.events += kept.events
    return now.adopt(model, context, search.budget, forms, search)
