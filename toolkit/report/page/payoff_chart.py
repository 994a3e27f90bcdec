"""The geometry of the payoff table's bars: for each group, this engine's time in parts, and the other engine's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.report.schema.engine import GroupTime, Payoff, PayoffGroup

WIDTH = 160.0
_MOST_ROWS = 24


@dataclass(frozen=True)
class GroupRow:
    """One group in one profile; lengths are in units of a chart ``WIDTH`` wide.

    Attributes:
        group: the group; None for a sum of several, or for layers of no node.
        name: its name.
        times: its times in milliseconds.
        parts: (class, start, length) of this engine's bar: computing, reformats, Q/DQ kernels.
        other: the length of the other engine's bar.
    """

    group: PayoffGroup | None
    name: str
    times: GroupTime
    parts: list[tuple[str, float, float]]
    other: float


def profiles_of(payoff: Payoff) -> list[str]:
    """The profiles for which the groups have times, in order."""
    return list(dict.fromkeys(name for group in payoff.groups for name in group.times))


def group_rows(payoff: Payoff, profile: str) -> list[GroupRow]:
    """The groups that gain or cost most, the costliest first, then the sum of all others, then layers of no node."""
    here = [(group, group.times[profile]) for group in payoff.groups if profile in group.times]
    shown = sorted(here, key=lambda item: -abs(item[1].gain_ms))[:_MOST_ROWS]
    kept = {id(group) for group, _ in shown}
    others = [times for group, times in here if id(group) not in kept]
    shown.sort(key=lambda item: item[1].gain_ms)
    longest = max((max(t.ours_ms, t.other_ms) for _, t in shown), default=0.0) or 1.0
    rows = [_row(group, group.name, times, longest) for group, times in shown]
    if others:
        rows.append(_row(None, f"{len(others)} others together", _total(others), longest))
    if profile in payoff.rest:
        rows.append(_row(None, "layers of no node", payoff.rest[profile], longest))
    return rows


def _row(group: PayoffGroup | None, name: str, times: GroupTime, longest: float) -> GroupRow:
    def length(milliseconds: float) -> float:
        return round(min(WIDTH * milliseconds / longest, WIDTH), 1)

    own = max(times.ours_ms - times.reformat_ms - times.qdq_ms, 0.0)
    parts, start = [], 0.0
    for kind, value in (("own", own), ("reformat", times.reformat_ms), ("qdq", times.qdq_ms)):
        if value > 0 and start < WIDTH:
            parts.append((kind, start, round(min(length(value), WIDTH - start), 1)))
            start = round(start + length(value), 1)
    return GroupRow(group, name, times, parts, length(times.other_ms))


def _total(times: Sequence[GroupTime]) -> GroupTime:
    return GroupTime(
        **{key: sum(getattr(one, key) for one in times) for key in ("ours_ms", "other_ms", "reformat_ms", "qdq_ms")}
    )
