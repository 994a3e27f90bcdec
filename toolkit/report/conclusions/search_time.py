"""Findings on a search's latencies: a missed latency limit, a plan that is predicted to be slow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.contract.findings import Finding
from toolkit.report.codes import ReportCode
from toolkit.report.schema.search import SearchInfo


def too_slow(search: SearchInfo | None, latency: Mapping[str, Any]) -> Finding | None:
    """The finding that the engine takes longer than ``max_ms``; None if it does not, or there is no limit.

    Args:
        search: the search, whose chosen plan's predicted time counts if the engine was not measured.
        latency: the engine's latency as in the report, in milliseconds; the first profile's at opt shapes counts.
    """
    limit = search.budget.get("max_ms") if search is not None else None
    if search is None or limit is None:
        return None
    measured = next((times["opt"] for times in latency.values() if isinstance(times, Mapping) and "opt" in times), None)
    taken = measured if measured is not None else search.chosen.predicted_ms
    if taken <= limit:
        return None
    return ReportCode.LATENCY_OVER_LIMIT(ms=taken, max_ms=limit, gpu=search.gpu if measured is None else "")


def slow_plan(search: SearchInfo | None) -> Finding | None:
    """The finding that the chosen plan is predicted to be slower than the float model; None if it is not.

    Also None if nothing is quantized, or if the prediction is not for a GPU that was named or measured.
    """
    if (
        search is None
        or not search.gpu
        or not search.chosen.quantized_share
        or search.chosen.predicted_ms <= search.float_ms
    ):
        return None
    return ReportCode.PREDICTED_SLOWER(
        precision=search.rest, ms=search.chosen.predicted_ms, float_ms=search.float_ms, gpu=search.gpu
    )
