"""Two runs side by side: what differs in verdict, accuracy, precision, error and time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from toolkit.base.precision import Precision
from toolkit.contract.findings import Finding
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence
from toolkit.report.schema import Accuracy, Finite, LayerInfo, Part, Report, Status, Verdict, word

SCHEMA = "qtool-comparison-1"
ERROR_DB = 1.0
TIME_SHARE, TIME_MS = 0.1, 0.005
Aspect = Literal["asked", "actual", "status", "error", "time"]


class RunSide(Part):
    """One of the two runs."""

    label: str
    recipe: str
    fingerprint: str
    backend: str
    verdict: Verdict
    headline: str


class Figure(Part):
    """A figure of both runs; ``better`` says which way is better: 'more', 'less', or neither."""

    name: str
    a: Finite = None
    b: Finite = None
    unit: str = ""
    better: Literal["more", "less", ""] = ""

    @property
    def change(self) -> float | None:
        """The figure of b less that of a, where both are known."""
        return self.b - self.a if self.a is not None and self.b is not None else None


class NodeSide(Part):
    """One node in one of the runs."""

    asked: Precision | None = None
    actual: Precision | None = None
    status: Status = "unknown"
    reason: str = ""
    sqnr_db: Finite = None
    identical: bool = False
    time_ms: float | None = Field(default=None, description="summed over the profiles that both runs timed")


class NodeDifference(Part):
    """A node of both runs that differs, and in what. The deltas are b less a."""

    node: str
    op: str
    differs: list[Aspect]
    a: NodeSide
    b: NodeSide
    error_delta_db: Finite = None
    time_delta_ms: Finite = None


class Comparison(Part):
    """What differs between two runs, a and b."""

    schema_id: Literal["qtool-comparison-1"] = Field(default="qtool-comparison-1", alias="schema")
    headline: str
    same: bool = Field(description="whether nothing below differs")
    same_model: bool
    a: RunSide
    b: RunSide
    figures: list[Figure]
    nodes: list[NodeDifference]
    only_a: list[str]
    only_b: list[str]
    in_both: int

    def to_json(self) -> dict[str, Any]:
        """The machine form."""
        return self.model_dump(mode="json", by_alias=True)

    def differing(self, *aspects: Aspect) -> list[NodeDifference]:
        """The nodes that differ in any of ``aspects``."""
        return [node for node in self.nodes if set(aspects) & set(node.differs)]


def compare(report_a: Report, report_b: Report, *, labels: tuple[str, str] = ("a", "b")) -> Comparison:
    """What differs between two reports.

    Precision, status: any difference counts. Error: from 1 dB on, or where only one is identical to float. Time: from
    10% and 5 microseconds on.

    Args:
        report_a: the first run.
        report_b: the second run; changes are stated as b against a.
        labels: what to call the two, such as the run folders' names.
    """
    layers_a = {layer.node: layer for layer in report_a.layers}
    layers_b = {layer.node: layer for layer in report_b.layers}
    shared = [name for name in layers_a if name in layers_b]
    nodes = [found for name in shared if (found := _difference(layers_a[name], layers_b[name])) is not None]
    only_a = [name for name in layers_a if name not in layers_b]
    only_b = [name for name in layers_b if name not in layers_a]
    accuracy = list(_accuracy_figures(report_a.accuracy, report_b.accuracy))
    figures = [*accuracy, *_figures(report_a, report_b)]
    sides = [_side(report, label) for report, label in zip((report_a, report_b), labels)]
    changed = any(figure.a != figure.b for figure in figures) or sides[0].verdict != sides[1].verdict
    made = Comparison(
        headline="", same=not (changed or nodes or only_a or only_b), in_both=len(shared),
        same_model=report_a.model.fingerprint == report_b.model.fingerprint,
        a=sides[0], b=sides[1], figures=figures, nodes=nodes, only_a=only_a, only_b=only_b,
    )  # fmt: skip
    made.headline = sentence(_said(made, accuracy))
    return made


def _side(report: Report, label: str) -> RunSide:
    backend = f"{report.backend.name} {report.backend.version}".strip()
    return RunSide(
        label=label, recipe=report.recipe.name, fingerprint=report.model.fingerprint, backend=backend,
        verdict=report.summary.verdict, headline=report.summary.headline,
    )  # fmt: skip


def _difference(a: LayerInfo, b: LayerInfo) -> NodeDifference | None:
    timed = sorted(set(a.time_ms) & set(b.time_ms))
    side_a, side_b = _node_side(a, timed), _node_side(b, timed)
    error = time = None
    differs: list[Aspect] = []
    if side_a.asked != side_b.asked:
        differs.append("asked")
    if side_a.actual != side_b.actual:
        differs.append("actual")
    if side_a.status != side_b.status:
        differs.append("status")
    if side_a.sqnr_db is not None and side_b.sqnr_db is not None:
        error = side_b.sqnr_db - side_a.sqnr_db
    measured = a.error is not None and b.error is not None
    if (error is not None and abs(error) >= ERROR_DB) or (
        measured and error is None and (side_a.sqnr_db, side_a.identical) != (side_b.sqnr_db, side_b.identical)
    ):
        differs.append("error")
    if side_a.time_ms is not None and side_b.time_ms is not None:
        time = side_b.time_ms - side_a.time_ms
        if abs(time) >= max(TIME_MS, TIME_SHARE * side_a.time_ms):
            differs.append("time")
    if not differs:
        return None
    return NodeDifference(
        node=a.node, op=b.op, differs=differs, a=side_a, b=side_b, error_delta_db=error, time_delta_ms=time
    )


def _node_side(layer: LayerInfo, timed: list[str]) -> NodeSide:
    return NodeSide(
        asked=layer.asked_precision,
        actual=layer.actual.precision,
        status=layer.status,
        reason=layer.reason,
        sqnr_db=layer.error.sqnr_db if layer.error else None,
        identical=bool(layer.error and layer.error.identical),
        time_ms=sum(layer.time_ms[profile] for profile in timed) if timed else None,
    )


def _accuracy_figures(a: Accuracy | None, b: Accuracy | None) -> Iterator[Figure]:
    """The metric, where both runs have the same, then the outputs' own figures."""
    if a is None or b is None:
        return
    if a.metric == b.metric and a.quantized is not None:
        yield Figure(name=a.metric or "metric", a=a.quantized, b=b.quantized)
    if a.drop is not None or b.drop is not None:
        yield Figure(name="drop from float", a=a.drop, b=b.drop, better="less")
    for name in [name for name in a.outputs if name in b.outputs]:
        one, other = a.outputs[name], b.outputs[name]
        if one.sqnr_db is not None or other.sqnr_db is not None:
            yield Figure(name=f"{name} SQNR", a=one.sqnr_db, b=other.sqnr_db, unit="dB", better="more")
        if one.agreement is not None or other.agreement is not None:
            yield Figure(name=f"{name} agreement", a=one.agreement, b=other.agreement, better="more")


def _figures(a: Report, b: Report) -> Iterator[Figure]:
    """Shares quantized where both are of the same, engine size, latency and the count of each actual precision."""
    one, other = a.summary, b.summary
    if one.share_of == other.share_of:
        yield Figure(name="share requested quantized", a=one.asked_share, b=other.asked_share)
        if one.share_by == other.share_by == "actual":
            yield Figure(name="share run quantized", a=one.quantized_share, b=other.quantized_share)
    yield Figure(name="engine", a=a.backend.engine_bytes, b=b.backend.engine_bytes, unit="bytes", better="less")
    times_a, times_b = dict(_numbers(a.latency or {}, "latency")), dict(_numbers(b.latency or {}, "latency"))
    for name in [n for n in times_a if n in times_b]:
        yield Figure(name=name, a=times_a[name], b=times_b[name], unit="ms", better="less")
    count_a, count_b = a.summary.by_actual, b.summary.by_actual
    for precision in [word(p) for p in (*Precision, None) if word(p) in count_a or word(p) in count_b]:
        yield Figure(name=f"nodes in {precision}", a=count_a.get(precision, 0), b=count_b.get(precision, 0))


def _numbers(content: Any, prefix: str) -> Iterator[tuple[str, float]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _numbers(value, f"{prefix} {key}")
    elif isinstance(content, (int, float)) and not isinstance(content, bool):
        yield prefix, float(content)


def _said(made: Comparison, accuracy: list[Figure]) -> Finding:
    """What differs, in short."""
    a, b = made.a, made.b
    if made.same:
        return ReportCode.RUNS_ALIKE(a=a.label, b=b.label, verdict=a.verdict, nodes=made.in_both)
    figure = next((one for one in accuracy if one.change), None)
    deltas = [node.error_delta_db for node in made.differing("error") if node.error_delta_db is not None]
    lower = sum(delta < 0 for delta in deltas)
    return ReportCode.RUNS_DIFFER(
        a=a.label, b=b.label, verdict_a=a.verdict, verdict_b=b.verdict, figure=figure.name if figure else "",
        value_a=figure.a if figure else None, value_b=figure.b if figure else None, unit=figure.unit if figure else "",
        precision=len(made.differing("asked", "actual")), nodes=made.in_both, lower=lower, higher=len(deltas) - lower,
        only_a=len(made.only_a), only_b=len(made.only_b), same_model=made.same_model,
    )  # fmt: skip
