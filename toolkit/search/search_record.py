"""What a search leaves for people and for the report: search.json, and whether its plan pays in predicted time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from toolkit.evaluation.budget import Budget
from toolkit.search.cost import CostModel
from toolkit.search.search import SearchedPlan, SearchResult
from toolkit.search.weak_spots import WeakSpot


def record(
    found: SearchResult, cost: CostModel, budget: Budget, prefer: str, samples: int, spots: Sequence[WeakSpot] = ()
) -> dict[str, Any]:
    """The content of search.json.

    Args:
        found: the search's result.
        cost: what predicted its times.
        budget: what had to hold.
        prefer: what made a plan cheap: int8 or time.
        samples: how many samples it decided on.
        spots: the worst layers, explained.
    """
    content = found.to_json()
    warning = slower_than_float(found, cost, prefer)
    limits = {k: v for k, v in asdict(budget).items() if v is not None and k not in ("higher_is_better", "doubt")}
    return {
        **content,
        "precision": str(cost.switches.precision),
        "rest": str(cost.rest),
        "gpu": cost.place,
        "prefer": prefer,
        "budget": limits,
        "higher_is_better": budget.higher_is_better,
        "samples": samples,
        "metric": found.sensitivity.metric if found.sensitivity is not None else None,
        "float": {**content["float"], "predicted_ms": cost.time(cost.switches.names) * 1e3},
        "measured_share": cost.measured_share(found.best.kept),
        "plans": [plan.to_json() for plan in found.plans],
        "warnings": [warning] if warning else [],
        "weak_spots": [spot.to_json() for spot in spots],
    }


def slower_than_float(found: SearchResult, cost: CostModel, prefer: str) -> str:
    """That the chosen plan is predicted slower than the float model, with what to do; empty where it is not."""
    plain = cost.time(cost.switches.names)
    best = found.best
    if best.seconds <= plain or len(best.kept) == len(cost.switches.names):
        return ""
    said = f"{best.seconds * 1e3:.4g} ms on the {cost.place}, the float model {plain * 1e3:.4g} ms"
    text = f"the chosen plan is predicted slower than the float model: {said}"
    share = cost.measured_share(best.kept)
    text += f" ({share:.0%} of its time was measured)" if share else " (by datasheet rates: no time was measured)"
    faster = [plan for plan in found.plans if plan.meets and plan.seconds < plain]
    if faster:
        plan = min(faster, key=lambda one: one.seconds)
        return f'{text}; {_words(plan)} meets the budget and is faster: set prefer = "time" to have it chosen'
    tried = "it is the only plan that was tried" if len(found.plans) == 1 else (
        "no plan that was tried meets the budget and is faster")  # fmt: skip
    if prefer == "time":
        return f"{text}; {tried}: stay with {cost.rest} on this GPU"
    return (f"{text}; {tried}: set prefer = \"time\" to look for one, "
            f"or stay with {cost.rest} on this GPU")  # fmt: skip


def _words(plan: SearchedPlan) -> str:
    count = len(plan.kept)
    return f"a plan of {plan.seconds * 1e3:.4g} ms that keeps {count} layer{'' if count == 1 else 's'} float"
