"""A precision search in words: its outcome in one line, its budget, and the limits that a plan misses."""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.base.text import count
from toolkit.report.findings.quantization.search_notes import NOT_SET, UNITS
from toolkit.report.findings.words import output_words, percent, work_share
from toolkit.report.schema.search import PlanPoint, SearchInfo


def search_line(info: SearchInfo) -> str:
    """The search's outcome in one line."""
    plan = info.chosen
    times = f"; {plan.predicted_ms:.4g} ms predicted on the {info.gpu}, float {info.float_ms:.4g} ms"
    if info.measured_share:
        times += f", {percent(info.measured_share, 0)} of it measured"
    level = f", {plan.sqnr_db:.1f} dB SQNR" if plan.sqnr_db is not None else ""
    level += f" of {output_words(info.output, info.squashed_by)} on these samples" if level and info.output else ""
    price = f" for {info.inferences:.1f} float inferences" if info.inferences else ""
    return (
        f"Search: {count(info.evaluations, 'plan')} on {count(info.samples, 'sample')}{price}; the chosen plan "
        f"{standing(info)}; {count(plan.kept, 'layer')} in float, {work_share(plan.quantized_share, info.share_of)} "
        f"requested in {str(info.precision).upper()}{level}{times if info.gpu else ''}"
    )


def bound_words(info: SearchInfo) -> str:
    """The heading of ``Summary.bound``, without a colon."""
    share = work_share(1.0 - info.chosen.quantized_share, info.share_of)
    return f"What keeps {share} out of {str(info.precision).upper()}"


def standing(info: SearchInfo) -> str:
    """Whether the chosen plan meets the budget in its actual types, as a predicate without subject."""
    if info.met:
        stands = f"the substitute for a limit on {info.unlabelled} without labels" if info.unlabelled else "the budget"
        return f"is {info.unsure}" if info.unsure else f"meets {stands}"
    rest = str(info.rest).upper()
    if info.rest_lacks:
        words = f"MISSES the budget, as {rest} alone does with nothing quantized: {lacks_words(info.rest_lacks)}"
    else:
        words = f"MISSES the budget{f' in {rest}' if info.in_types else ''}: {lacks_words(info.lacks)}"
    return words + (" (it meets it simulated in FP32)" if info.in_types else "")


def plan_standing(info: SearchInfo, plan: PlanPoint) -> str:
    """Whether a plan meets the budget, for a table's cell."""
    if not plan.meets:
        return "missed" + (f": {lacks_words(plan.lacks)}" if plan.lacks else "")
    return f"met in FP32, missed in {str(info.rest).upper()}" if plan.chosen and info.in_types else "met"


def lacks_words(lacks: Mapping[str, float | str | None]) -> str:
    """How far a plan misses each limit."""
    return ", ".join(
        f"{NOT_SET.get(name, name)} by {float(value):.3g}{UNITS.get(name, '')}"
        if value is not None
        else f"{NOT_SET.get(name, name)} (no finite figure)"
        for name, value in lacks.items()
    )


def budget_words(info: SearchInfo) -> str:
    """The budget's limits and margin, in words."""
    limits = [f"{name} {value:g}" for name, value in info.budget.items() if name != "margin"]
    margin = info.budget.get("margin")
    return ", ".join(limits) + (f", with a margin of {margin:g}" if margin else "")
