"""Whether few samples alone keep layers float, and what to do then."""

from __future__ import annotations

from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.evaluation.budget import Budget
from toolkit.search.search import SearchResult
from toolkit.search.searched_plan import SearchedPlan

_WORTH = 0.75
"""A plan that is safe for few samples is taken if it gains this share of what a search without that doubt gains."""


def doubtful(found: SearchResult, budget: Budget) -> bool:
    """Whether doubt about few samples, and not the samples themselves, may keep layers float."""
    return bool(found.best.kept) and found.best.outcome.positions < budget.enough()


def gives_up_too_much(
    safe: SearchedPlan, other: SearchedPlan, plain: float | None, dtype: str, journal: Journal
) -> bool:
    """Whether to take ``other``, the plan of a search without that doubt; the journal says so then.

    With a hundred samples no plan is safe against a budget of one point: keeping ever more layers float for that
    helps nobody.

    Args:
        safe: the plan that holds on other samples too.
        other: the plan that holds on these samples.
        plain: the float model's time in seconds where time decides, None where the quantized share does.
        dtype: the quantized type.
        journal: gets a note where ``other`` is taken.
    """
    if plain is not None:
        gains = [max(1 - plan.seconds / plain, 0.0) for plan in (safe, other)]
    else:
        gains = [safe.quantized, other.quantized]
    if not other.meets or (safe.meets and gains[0] >= _WORTH * gains[1]):
        return False
    journal.noted(
        Code.SEARCH_UNSAFE(
            positions=other.outcome.positions, by_time=plain is not None, dtype=dtype,
            safe_gain=gains[0] if safe.meets else None, gain=gains[1],
        )
    )  # fmt: skip
    return True
