"""Messages on the comparison of runs, in one line; the first run always comes first."""

from __future__ import annotations

from toolkit.base.text import count
from toolkit.report.codes import ReportCode
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import joined, share_percent

_VERDICTS = {
    "usable": "is usable",
    "doubtful": "is within its budget with doubts",
    "missed": "misses its budget",
    "broken": "is broken",
    "unmeasured": "is not measured",
    "outdated": "is out of date",
}


def _differ(
    a: str,
    b: str,
    verdict_a: str,
    verdict_b: str,
    figure: str,
    value_a: float | None,
    value_b: float | None,
    unit: str,
    precision: int,
    nodes: int,
    lower: int,
    higher: int,
    only_a: int,
    only_b: int,
    same_model: bool,
    renamed: int,
    unbuilt: tuple[str, ...],
) -> str:
    # different models make all figures incomparable, so they are mentioned first
    parts = [] if same_model else [f"{a} and {b} started from DIFFERENT MODELS"]
    parts.append(f"{a} {_VERDICTS[verdict_a]}, {b} {_VERDICTS[verdict_b]}")
    if figure and value_a is not None and value_b is not None:
        parts.append(f"{figure} is {figure_value(value_a, unit)} in {a} and {figure_value(value_b, unit)} in {b}")
    shared, asked = count(nodes, "shared node"), "requested " if unbuilt else ""
    parts.append(
        f"{a} and {b} share no node"
        if not nodes
        else f"{a} and {b} differ in the {asked}precision of {precision} of {shared}"
        if precision
        else f"{a} and {b} have the same {asked}precisions on all {shared}"
    )
    parts += _unbuilt(unbuilt)
    if lower or higher:
        parts.append(f"from {a} to {b} SQNR falls on {count(lower, 'shared node')} and rises on {higher}")
    if only_a or only_b:
        parts.append(f"{count(only_a, 'node')} only in {a}, {only_b} only in {b}")
    return "; ".join([*parts, *_renamed(a, b, renamed)]) + "."


def _alike(a: str, b: str, verdict: str, nodes: int, renamed: int, unbuilt: tuple[str, ...]) -> str:
    said = f"{a} and {b} do not differ: each {_VERDICTS[verdict]}, all {nodes} nodes alike"
    return "; ".join([said, *_unbuilt(unbuilt), *_renamed(a, b, renamed)]) + "."


def _unbuilt(runs: tuple[str, ...]) -> list[str]:
    return [f"no engine shows what runs in {joined(runs)}, so requests are compared"] if runs else []


def figure_value(value: float, unit: str, sign: str = "") -> str:
    """A figure with its unit, or its change with its sign."""
    if unit == "share":
        return f"{sign if value >= 0 else '-'}{share_percent(abs(value))}"
    return f"{value:{sign}.2f} dB" if unit == "dB" else f"{value:{sign}.4g}" + (f" {unit}" if unit else "")


def _renamed(a: str, b: str, renamed: int) -> list[str]:
    if not renamed:
        return []
    nodes = "1 node with another name" if renamed == 1 else f"{renamed} nodes with other names"
    return [f"{nodes} in {a} than in {b} {'was' if renamed == 1 else 'were'} matched by structure"]


def _several(runs: tuple[str, ...], verdicts: tuple[str, ...]) -> str:
    said = ", ".join(f"{run} {_VERDICTS[verdict]}" for run, verdict in zip(runs, verdicts))
    return f"{len(runs)} runs, all compared with {runs[0]}: {said}."


COMPARISON: Table = {
    ReportCode.RUNS_ALIKE: _alike,
    ReportCode.RUNS_DIFFER: _differ,
    ReportCode.RUNS_SEVERAL: _several,
}
