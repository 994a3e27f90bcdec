"""A precision search in words: its outcome in one line, its budget, and what a plan misses."""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.base.text import count
from toolkit.report.findings.words import percent, work_share
from toolkit.report.search_parts import SearchInfo

_UNITS = {"max_ms": " ms", "min_sqnr_db": " dB"}


def search_line(info: SearchInfo) -> str:
    """The search in one line."""
    plan = info.chosen
    met = "meets the budget" if info.met else f"MISSES the budget: {lacks_words(info.lacks)}"
    times = f"; {plan.predicted_ms:.4g} ms predicted on the {info.gpu}, float {info.float_ms:.4g} ms"
    if info.measured_share:
        times += f", {percent(info.measured_share, 0)} of it measured"
    level = f", {plan.sqnr_db:.1f} dB SQNR" if plan.sqnr_db is not None else ""
    price = f" for {info.inferences:.1f} float inferences" if info.inferences else ""
    return (
        f"Search: {count(info.evaluations, 'plan')} on {count(info.samples, 'sample')}{price}; the chosen plan {met}; "
        f"{count(plan.kept, 'layer')} in float, {work_share(plan.quantized_share, info.share_of)} requested in "
        f"{str(info.precision).upper()}{level}{times if info.gpu else ''}"
    )


def lacks_words(lacks: Mapping[str, float | str | None]) -> str:
    """How far a plan misses each limit."""
    return ", ".join(
        f"{name} by {float(value):.3g}{_UNITS.get(name, '')}" if value is not None else f"{name} (no finite figure)"
        for name, value in lacks.items()
    )


def budget_words(info: SearchInfo) -> str:
    """The budget's limits, and the margin kept from them."""
    limits = [f"{name} {value:g}" for name, value in info.budget.items() if name != "margin"]
    margin = info.budget.get("margin")
    return ", ".join(limits) + (f", with a margin of {margin:g}" if margin else "")
