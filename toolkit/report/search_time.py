"""What the first line says of a search's times: a latency limit that is missed, a plan that is predicted to be slow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.report.search_parts import SearchInfo


def late_words(search: SearchInfo | None, latency: Mapping[str, Any]) -> str:
    """That the engine takes longer than ``max_ms``, in numbers; empty where it does not, or there is no limit.

    Args:
        search: the search, whose plan's time counts where the engine was not measured.
        latency: of the engine, as the report has it; that of the first profile at its opt shapes counts.
    """
    limit = search.budget.get("max_ms") if search is not None else None
    if search is None or limit is None:
        return ""
    measured = next((times["opt"] for times in latency.values() if isinstance(times, Mapping) and "opt" in times), None)
    taken = measured if measured is not None else search.chosen.predicted_ms
    if taken <= limit:
        return ""
    how = "measured" if measured is not None else f"predicted on the {search.gpu}"
    return f"{taken:.4g} ms {how}, max_ms {limit:g}"


def slow_plan_words(search: SearchInfo | None) -> str:
    """That the chosen plan is predicted slower than the float model; empty where it is not, or is the float model."""
    if search is None or not search.chosen.quantized_share or search.chosen.predicted_ms <= search.float_ms:
        return ""
    return (
        f"predicted SLOWER than {str(search.rest).upper()}: {search.chosen.predicted_ms:.4g} ms against "
        f"{search.float_ms:.4g} on the {search.gpu}"
    )
