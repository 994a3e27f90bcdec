"""How runs compare, in one line; the first run is said first, everywhere."""

from __future__ import annotations

from toolkit.base.text import count
from toolkit.report.codes import ReportCode
from toolkit.report.findings.table import Table


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
) -> str:
    # what makes all figures below incomparable comes first
    parts = [] if same_model else [f"{a} and {b} started from DIFFERENT MODELS"]
    parts.append(
        f"{a} is {verdict_a}, {b} is {verdict_b}" if verdict_a != verdict_b else f"{a} and {b} are {verdict_a}"
    )
    if figure and value_a is not None and value_b is not None:
        ending = f" {unit}" if unit else ""
        parts.append(f"{figure} is {value_a:.4g}{ending} in {a} and {value_b:.4g}{ending} in {b}")
    shared = count(nodes, "shared node")
    parts.append(
        f"{a} and {b} differ in the precision of {precision} of {shared}"
        if precision
        else f"{a} and {b} have the same precisions on all of {shared}"
    )
    if lower or higher:
        parts.append(f"from {a} to {b} SQNR falls on {count(lower, 'shared node')} and rises on {higher}")
    if only_a or only_b:
        parts.append(f"{count(only_a, 'node')} only in {a}, {only_b} only in {b}")
    return "; ".join([*parts, *_renamed(a, b, renamed)]) + "."


def _alike(a: str, b: str, verdict: str, nodes: int, renamed: int) -> str:
    said = f"{a} and {b} do not differ: both are {verdict}, all {nodes} nodes alike"
    return "; ".join([said, *_renamed(a, b, renamed)]) + "."


def _renamed(a: str, b: str, renamed: int) -> list[str]:
    if not renamed:
        return []
    nodes = "1 node that has another name" if renamed == 1 else f"{renamed} nodes that have other names"
    return [f"{nodes} in {a} than in {b} {'was' if renamed == 1 else 'were'} matched by structure"]


def _several(runs: tuple[str, ...], verdicts: tuple[str, ...]) -> str:
    said = ", ".join(f"{run} is {verdict}" for run, verdict in zip(runs, verdicts))
    return f"{len(runs)} runs, all held against {runs[0]}: {said}."


COMPARISON: Table = {
    ReportCode.RUNS_ALIKE: _alike,
    ReportCode.RUNS_DIFFER: _differ,
    ReportCode.RUNS_SEVERAL: _several,
}
