"""An additional limit on noise for a metric that is measured on too few samples to judge its drop."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from toolkit.contract.findings import Code, Finding
from toolkit.evaluation.budget import Budget, changed_answers
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.search.codes import DemandCode
from toolkit.search.plans.range_methods import methods_of
from toolkit.search.plans.search import SearchResult
from toolkit.search.plans.searched_plan import SearchedPlan
from toolkit.simulation.simulation import Simulation

_QUIETER = 0.5
"""The noise that a plan must reach, relative to the earlier plan's: a smaller reduction is not worth float layers."""


def with_quiet(
    budget: Budget, best: SearchedPlan, plans: Iterable[SearchedPlan], reference: Outcome
) -> tuple[Budget, Finding] | None:
    """Add a limit on noise to a budget whose metric has too few samples; returns it with the finding that reports it.

    With few answers, gained and lost answers may cancel by chance and on other samples add up to a drop over the
    limit. Seen on a text recognizer: its plan gained one line of 96 and lost three of 96 others, with 8 percent of the
    readings changed. Noise shows for a plan what few answers do not, and all plans that ran show how many answers
    change at which noise: the share grows with the size of the error, the square root of the noise (see
    ``TypeNoise``). The limit is the noise at which no more answers are likely to change than ``Budget.may_change``
    allows.

    Args:
        budget: the limits, with their margin.
        best: the plan that was found to meet them.
        plans: all plans that ran.
        reference: the outcome of the float model.

    Returns:
        None if the answers are enough, no metric is limited, or hardly one answer is likely to change.
    """
    one = budget.untold_drop(best.outcome, reference)
    if one is None or not 0 < best.outcome.noise < math.inf:
        return None
    seen = [
        (changed, math.sqrt(plan.outcome.noise)) for plan in plans
        if plan.whole and 0 < plan.outcome.noise < math.inf
        and (changed := changed_answers(plan.outcome)) is not None
    ]  # fmt: skip
    rate = sum(changed for changed, _ in seen) / sum(size for _, size in seen)
    most, likely = budget.may_change(one), rate * math.sqrt(best.outcome.noise)
    if likely <= max(most, 1 / one.answers):
        return None
    least = -20 * math.log10(most / rate)
    # the share of answers includes the margin already
    limit = max(least - budget.spare_db(best.outcome), budget.min_sqnr_db or -math.inf)
    note = DemandCode.ON_CHANCE(
        answers=one.answers, allowed=one.limit, changed=likely, most=most, sqnr_db=best.outcome.sqnr_db,
        least_db=least,
    )  # fmt: skip
    return replace(budget, min_sqnr_db=limit), note


def is_less_noisy(
    found: SearchResult, simulation: Simulation, before: SearchedPlan, budget: Budget, worth: float
) -> bool:
    """Whether a search with the limit on noise found a usable plan; ``found.best`` may be replaced by a near miss.

    Args:
        found: the search's result; changed in place if no plan within the limit quantizes enough.
        simulation: the model that its plans ran on.
        before: the plan that was found without the limit.
        budget: the budget without the limit.
        worth: the least that a plan must quantize, as a share of what ``before`` quantizes.
    """
    plans = [plan for plan in found.plans if plan.whole and plan.quantized >= worth * before.quantized]
    if found.best.meets and found.best in plans:
        return True
    within = [
        plan for plan in plans
        if plan.outcome.noise < _QUIETER * before.outcome.noise
        and not budget.lacks(plan.outcome, found.reference, plan.seconds)
    ]  # fmt: skip
    best = min(within, key=lambda plan: plan.outcome.noise, default=None)
    if best is None:
        return False
    found.best, found.methods = replace(best, lacks={}), methods_of(simulation, best.amax)
    found.notes = [note for note in found.notes if note.code not in (Code.SEARCH_NEAREST, Code.SEARCH_ALL_FLOAT)]
    return True
