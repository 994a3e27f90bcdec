"""Why a search keeps a layer float, in words that fit what it measured."""

from __future__ import annotations

from toolkit.base.profiles import Profiles
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.outcome import Outcome
from toolkit.graph.model import Model
from toolkit.graph.work import facts_at_opt, macs
from toolkit.search.sensitivity import GroupResult, Sensitivity


def work_shares(model: Model, profiles: Profiles) -> dict[str, float]:
    """Each node's share of all multiply-accumulates at the opt shapes, 0 to 1; empty where a shape is not known."""
    facts = facts_at_opt(model, profiles)
    work = {node.name: macs(node, facts) for node in model.nodes}
    total = sum(done or 0 for done in work.values())
    if None in work.values() or not total:
        return {}
    return {name: (done or 0) / total for name, done in work.items()}


def kept_reason(
    name: str, precision: str, sensitivity: Sensitivity | None, budget: Budget, reference: Outcome, share: float | None
) -> str:
    """Why the plan keeps a layer float.

    Args:
        name: the layer's node.
        precision: the type that the others are quantized to.
        sensitivity: what the search measured of the layers; None where everything quantized met the budget at once.
        budget: what the search kept.
        reference: the float model's outcome.
        share: the layer's share of all multiply-accumulates, 0 to 1; None where it is not known.
    """
    if sensitivity is None:
        return f"all layers in {precision} keep the accuracy budget, but the plan with this one float is faster"
    group = next((one for one in sensitivity.groups if one.name == name), None)
    if group is None or group.alone is None:
        return f"{precision} misses the accuracy budget with it"
    alone = _decibels(group.alone)
    if not _meets(budget, group.alone, reference):
        words = f"{precision} misses the accuracy budget with it: alone it leaves {alone} at the output"
        if budget.min_sqnr_db is not None and group.alone.sqnr_db < budget.min_sqnr_db + budget.margin:
            words += f", below the {budget.min_sqnr_db:g} dB asked for"
            words += f" and their margin of {budget.margin:g} dB" if budget.margin else ""
        agreement = group.alone.agreement
        if budget.min_agreement is not None and agreement is not None and agreement < budget.min_agreement:
            words += f", with {agreement:.1%} of the winners where {budget.min_agreement:.1%} are asked for"
    else:
        work = f", {share:.1%} of the multiply-accumulates," if share is not None else ""
        words = (
            f"all layers in {precision} together miss the accuracy budget ({_decibels(sensitivity.full)} at the "
            f"output): alone this one leaves {alone}, within the budget, and keeping it{work} is among the cheapest "
            "ways back"
        )
    return words + _without(group, sensitivity.full)


def _without(group: GroupResult, full: Outcome) -> str:
    if group.without is None:
        return ""
    without, together = _decibels(group.without), _decibels(full)
    if group.without.sqnr_db > full.sqnr_db:
        return f"; without it the others leave {without} instead of {together}"
    return f"; others hide its harm: keeping it alone takes the whole from {together} to {without}"


def _meets(budget: Budget, outcome: Outcome, reference: Outcome) -> bool:
    """Whether it is known to be within the budget: one of a metric cannot be judged where none was measured."""
    if (budget.max_drop is not None or budget.min_value is not None) and outcome.metric is None:
        return False
    return not budget.lacks(outcome, reference)


def _decibels(outcome: Outcome) -> str:
    return f"{outcome.sqnr_db:.1f} dB" if outcome.noise else "no error"
