"""Why a search keeps a layer float: the finding that matches its measurements."""

from __future__ import annotations

from toolkit.contract.findings import Code, Finding
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.search.codes import KeptCode
from toolkit.search.plans.search import SearchResult


def float_reason(name: str, precision: str, found: SearchResult, budget: Budget, share: float | None) -> Finding:
    """The finding that explains why the plan keeps a layer float.

    Args:
        name: the layer's node.
        precision: the type that the other layers are quantized to.
        found: the plan and the search's layer measurements; there are none if full quantization met the budget at
            once or was not faster.
        budget: the budget of the search.
        share: the layer's share of all multiply-accumulates, 0 to 1; None if unknown.
    """
    sensitivity = found.sensitivity
    if sensitivity is None and found.no_plan is not None:
        return KeptCode.NO_PLAN(precision=precision)
    if sensitivity is None:
        # a plan ruled out by its predicted time is not run, so its accuracy is unknown
        met = any(not plan.kept and plan.meets for plan in found.plans)
        code = Code.KEPT_FOR_TIME if found.best.quantized else KeptCode.NONE_FASTER
        return code(precision=precision, met=met)
    if name in found.idle:
        return KeptCode.NO_FASTER(precision=precision)
    group = next((one for one in sensitivity.groups if one.name == name), None)
    if group is None or group.alone is None:
        return Code.KEPT_MISSES(precision=precision)
    known = {
        "precision": precision, "alone_db": group.alone.sqnr_db, "all_db": group.level_in(sensitivity.full),
        "without_db": group.level_in(group.without) if group.without is not None else None,
    }  # fmt: skip
    lacks = _lacks(budget, group.alone, found.reference)
    if lacks == {} and found.no_plan is not None:
        return KeptCode.NO_PLAN(precision=precision)
    if lacks == {}:
        return Code.KEPT_TOGETHER_MISSES(**known, share=share, samples=sensitivity.samples)
    missed = budget.min_sqnr_db is not None and group.alone.sqnr_db < budget.min_sqnr_db + budget.spare_db(group.alone)
    agreement = group.alone.agreement
    low = budget.min_agreement is not None and agreement is not None and agreement < budget.min_agreement
    # SQNR and agreement are reported together with their limits
    others = {k: v for k, v in (lacks or {}).items() if k not in ("min_sqnr_db", "min_agreement")}
    return Code.KEPT_ALONE_MISSES(
        **known, limits=list(others) if lacks is not None else None, by=list(others.values()),
        min_sqnr_db=budget.min_sqnr_db if missed else None, margin_db=budget.margin,
        agreement=agreement if low else None, min_agreement=budget.min_agreement if low else None,
    )  # fmt: skip


def _lacks(budget: Budget, outcome: Outcome, reference: Outcome) -> dict[str, float] | None:
    """How far an outcome misses each limit.

    None if unknown: a metric is limited that was not measured, or that is undefined on the samples of the measurement.
    """
    of_metric = (budget.max_drop, budget.max_relative_drop, budget.min_value)
    if any(one is not None for one in of_metric) and (
        outcome.metric is None or budget.on_subset(outcome, reference) is not budget
    ):
        return None
    return budget.lacks(outcome, reference)
