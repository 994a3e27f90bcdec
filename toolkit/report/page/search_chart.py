"""The geometry of the search's chart: accuracy over time or over work in float, with one dot per plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from toolkit.report.schema.search import PlanPoint, SearchInfo

WIDTH, HEIGHT = 1000.0, 260.0
_MARGIN = 0.06
_COUNTED = {"macs": "multiply-accumulates", "nodes": "layers"}


@dataclass(frozen=True)
class PlanDot:
    """One plan with its position and its CSS classes."""

    x: float
    y: float
    style: str
    plan: PlanPoint


@dataclass(frozen=True)
class Label:
    """A label in the chart."""

    x: float
    y: float
    text: str
    anchor: str
    below: bool = False


@dataclass(frozen=True)
class SearchChart:
    """The chart. ``reference`` is the float model's position; ``limits`` are budget lines (x1, y1, x2, y2, text)."""

    title: str
    x_title: str
    dots: list[PlanDot]
    front: str
    reference: tuple[float, float]
    chosen: tuple[float, float]
    labels: list[Label]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    limits: list[tuple[float, float, float, float, str]] = field(default_factory=list)


def search_chart(info: SearchInfo) -> SearchChart | None:
    """The chart of a search; None if no plan has a finite accuracy."""
    title, level, limit, exact = _accuracy(info)
    shown = [(plan, value) for plan in info.plans if (value := level(plan)) is not None and math.isfinite(value)]
    if not shown:
        return None
    # without a named GPU, times only serve to order plans
    timed = bool(info.gpu)
    costs = [plan.predicted_ms if timed else 100 * (1 - plan.quantized_share) for plan, _ in shown]
    float_cost = info.float_ms if timed else 100.0
    known = [value for _, value in shown] + [v for v in (limit, exact) if v is not None]
    x, y = axis([*costs, float_cost], None if timed else 100.0), axis(known)
    if exact is None:
        # the float model's SQNR is infinite: it is drawn at the upper edge
        y = (y[0], y[1] + y[2], y[2])
        exact = y[1]
    sheet = _Sheet(x, y)
    dots = [PlanDot(*sheet.place(cost, value), _style(plan), plan) for cost, (plan, value) in zip(costs, shown)]
    # of several dots at one position, such as a plan with different ranges, the last is visible
    dots.sort(key=lambda dot: (dot.plan.chosen, dot.plan.meets))
    reference = sheet.place(float_cost, exact)
    chosen = next(((dot.x, dot.y) for dot in dots if dot.plan.chosen), reference)
    return SearchChart(
        title=title,
        x_title="predicted time, ms" if timed else f"{_COUNTED[info.share_of]} in float, %",
        dots=dots,
        front=_front_path(dots),
        reference=reference,
        chosen=chosen,
        labels=_labels(info, dots, reference, chosen),
        x_ticks=[(sheet.place(ms, y[0])[0], f"{ms:.6g}") for ms in _ticks(*x)],
        y_ticks=[(sheet.place(x[0], value)[1], f"{value:.6g}") for value in _ticks(*y)],
        limits=_limits(info, limit, sheet),
    )


def _front_path(dots: Sequence[PlanDot]) -> str:
    """The line through the plans of the Pareto front, as an SVG path."""
    front = sorted((dot for dot in dots if dot.plan.front), key=lambda dot: dot.x)
    return " ".join(f"{'M' if number == 0 else 'L'}{dot.x:g} {dot.y:g}" for number, dot in enumerate(front))


def _labels(
    info: SearchInfo, dots: Sequence[PlanDot], reference: tuple[float, float], chosen: tuple[float, float]
) -> list[Label]:
    """The labels of the float model, the chosen plan, and the plan with all layers quantized, if different."""
    everything = next(((dot.x, dot.y) for dot in dots if dot.plan.kept == 0), None)
    named = [(reference, f"float ({info.rest})"), (chosen, "chosen")]
    if everything is not None and everything != chosen:
        named.append((everything, f"all {info.precision}"))
    return [_label(at, text, [point for point, _ in named if point != at]) for at, text in named]


@dataclass(frozen=True)
class _Sheet:
    """The chart's two axes, each as ``axis`` returns it."""

    x: tuple[float, float, float]
    y: tuple[float, float, float]

    def place(self, cost: float, value: float) -> tuple[float, float]:
        """The position of a plan with this cost and accuracy."""
        (left, right, _), (low, high, _) = self.x, self.y
        return round(WIDTH * (cost - left) / (right - left), 1), round(HEIGHT * (1 - (value - low) / (high - low)), 1)


def _style(plan: PlanPoint) -> str:
    return " ".join(word for word, yes in (("meets", plan.meets), ("front", plan.front)) if yes)


def _limits(info: SearchInfo, limit: float | None, sheet: _Sheet) -> list[tuple[float, float, float, float, str]]:
    """The budget's lines: horizontal for the least accuracy, vertical for the longest time."""
    limits = []
    if limit is not None:
        _, y = sheet.place(sheet.x[0], limit)
        margin = "min_sqnr_db" in info.budget and info.budget.get("margin")
        limits.append((0.0, y, WIDTH, y, f"budget with its margin of {margin:g} dB" if margin else "budget"))
    if "max_ms" in info.budget:
        x, _ = sheet.place(info.budget["max_ms"], sheet.y[0])
        if 0 <= x <= WIDTH:
            limits.append((x, 0.0, x, HEIGHT, "max_ms"))
    return limits


def axis(values: Sequence[float], most: float | None = None) -> tuple[float, float, float]:
    """Lower end, upper end and step of an axis with round numbers that includes ``values`` with some margin.

    Args:
        values: the values to show.
        most: a round number that no value can exceed, so the axis ends there.
    """
    low, high = min(values), max(values)
    room = (high - low) * _MARGIN or abs(high) * _MARGIN or 1.0
    raw = (high - low + 2 * room) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    gap = next(power * step for step in (1, 2, 5, 10) if power * step >= raw)
    bottom = math.floor((low - room) / gap) * gap
    # times and shares are never negative
    bottom = max(bottom, 0.0) if low >= 0 else bottom
    top = max(math.ceil((high + room) / gap) * gap, bottom + gap)
    return bottom, top if most is None else min(top, most), gap


def _ticks(low: float, high: float, gap: float) -> list[float]:
    return [low + gap * step for step in range(round((high - low) / gap) + 1)]


def _accuracy(
    info: SearchInfo,
) -> tuple[str, Callable[[PlanPoint], float | None], float | None, float | None]:
    """The charted quantity: its name, a plan's value, the budget's, and the float model's (None if infinite)."""
    budget = info.budget
    if "min_sqnr_db" in budget or info.float_metric is None:
        if "min_sqnr_db" not in budget and "min_agreement" in budget:
            return "agreement with the float model", lambda plan: plan.agreement, budget["min_agreement"], 1.0
        least = budget["min_sqnr_db"] + budget.get("margin", 0.0) if "min_sqnr_db" in budget else None
        return "SQNR at the output, dB", lambda plan: plan.sqnr_db, least, None
    limit = budget.get("min_value")
    if "max_drop" in budget:
        limit = info.float_metric - budget["max_drop"] * (1 if info.higher_is_better else -1)
    return info.metric or "metric", lambda plan: plan.metric, limit, info.float_metric


def _label(at: tuple[float, float], text: str, others: Sequence[tuple[float, float]]) -> Label:
    """A label beside its point and inside the chart; below the point if another's label is too close."""
    x, y = at
    crowded = any(abs(x - other[0]) < 120 and -30 < other[1] - y <= 0 and other != at for other in others)
    anchor = "end" if x > WIDTH - 120 else "start"
    return Label(x + (-12 if anchor == "end" else 12), y + (18 if crowded or y < 14 else -10), text, anchor, crowded)
