"""How two runs compare, in one line."""

from __future__ import annotations

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
) -> str:
    # what makes all figures below incomparable comes first
    parts = [] if same_model else ["The runs started from DIFFERENT MODELS"]
    verdicts = f"Both are {verdict_a}" if verdict_a == verdict_b else f"{b} is {verdict_b}, {a} is {verdict_a}"
    parts.append(f"{verdicts[:1].lower()}{verdicts[1:]}" if parts and verdict_a == verdict_b else verdicts)
    if figure and value_a is not None and value_b is not None:
        parts.append(f"{figure} {value_b:.4g} against {value_a:.4g}{f' {unit}' if unit else ''}")
    parts.append(f"{precision} of {nodes} shared nodes differ in precision")
    if lower or higher:
        parts.append(f"SQNR is lower on {lower} shared nodes and higher on {higher}")
    if only_a or only_b:
        parts.append(f"{only_a} nodes only in {a}, {only_b} only in {b}")
    return "; ".join(parts) + "."


COMPARISON: Table = {
    ReportCode.RUNS_ALIKE: "{a} and {b} do not differ: both {verdict}, all {nodes} nodes alike.",
    ReportCode.RUNS_DIFFER: _differ,
}
