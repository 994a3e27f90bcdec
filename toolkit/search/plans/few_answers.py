"""A limit on noise besides one on a metric's drop that the samples are too few to judge."""

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
"""As a share of the noise: hardly less of it is not worth a layer in float."""


def with_quiet(
    budget: Budget, best: SearchedPlan, plans: Iterable[SearchedPlan], reference: Outcome
) -> tuple[Budget, Finding] | None:
    """The budget with an additional limit on noise, and the note that says so.

    With few answers, wins and losses may cancel by chance, and on other samples add up to a drop over the limit:
    seen on a text recogniser whose plan won one line of 96 and lost three of 96 others, with 8 percent of the readings
    changed. What few answers do not show about one plan, its noise does, and all plans that ran show how many change
    with how much noise: a share that grows with the size of the error, the square root of the noise (see
    ``TypeNoise``). So much noise is allowed that no more are likely to change than ``Budget.may_change`` says.

    Args:
        budget: what must hold, with its margin.
        best: the plan that was found to hold it.
        plans: what ran.
        reference: the float model.

    Returns:
        None where the answers are enough, no metric is limited, or hardly one answer is likely to change.
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
    # the margin is in the share already
    limit = max(least - budget.spare_db(best.outcome), budget.min_sqnr_db or -math.inf)
    note = DemandCode.ON_CHANCE(
        answers=one.answers, allowed=one.limit, changed=likely, most=most, sqnr_db=best.outcome.sqnr_db,
        least_db=least,
    )  # fmt: skip
    return replace(budget, min_sqnr_db=limit), note


def is_less_noisy(
    found: SearchResult, simulation: Simulation, before: SearchedPlan, budget: Budget, worth: float
) -> bool:
    """Whether a search with the limit on noise found a plan to take; one that misses it somewhat may become its best.

    Args:
        found: what it found; changed where no plan within the limit quantizes enough.
        simulation: what its plans ran on.
        before: the plan that was found without the limit.
        budget: the budget without it.
        worth: what a plan must quantize, as a share of what ``before`` does.
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
