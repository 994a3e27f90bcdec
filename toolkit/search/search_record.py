"""What a search leaves for people and for the report: search.json, and whether its plan pays in predicted time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from toolkit.contract.findings import Code, Finding
from toolkit.evaluation.budget import Budget
from toolkit.search.cost import CostModel
from toolkit.search.search import SearchResult
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
    slower = slower_than_float(found, cost, prefer)
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
        "share_of": cost.work.of,
        "plans": [plan.to_json() for plan in found.plans],
        "warnings": [slower.to_json()] if slower is not None else [],
        "weak_spots": [spot.to_json() for spot in spots],
    }


def slower_than_float(found: SearchResult, cost: CostModel, prefer: str) -> Finding | None:
    """That the chosen plan is predicted slower than the float model, with what to do; None where it is not."""
    plain = cost.time(cost.switches.names)
    best = found.best
    if best.seconds <= plain or len(best.kept) == len(cost.switches.names):
        return None
    faster = [plan for plan in found.plans if plan.meets and plan.seconds < plain]
    other = min(faster, key=lambda plan: plan.seconds, default=None)
    known = {"other_ms": other.seconds * 1e3, "other_kept": len(other.kept)} if other is not None else {}
    return Code.SEARCH_SLOWER(
        ms=best.seconds * 1e3, float_ms=plain * 1e3, gpu=cost.place, measured_share=cost.measured_share(best.kept),
        rest=cost.rest, prefer=prefer, plans=len(found.plans), **known,
    )  # fmt: skip
