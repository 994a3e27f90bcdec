"""Differences between runs in verdict, accuracy, precision, error and time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from toolkit.base.precision import Precision
from toolkit.contract.findings import Finding
from toolkit.report.codes import ReportCode
from toolkit.report.comparison.matching import match
from toolkit.report.findings import sentence
from toolkit.report.findings.outputs.accuracy import agreement_name
from toolkit.report.schema.report import NONE, Accuracy, Finite, LayerInfo, Part, Report, Status, Verdict, word

SCHEMA = "qtool-comparison-2"
ERROR_DB = 1.0
TIME_SHARE, TIME_MS = 0.1, 0.005
Aspect = Literal["there", "asked", "actual", "status", "error", "time"]


class RunSide(Part):
    """One of the compared runs."""

    label: str
    recipe: str
    fingerprint: str
    backend: str
    verdict: Verdict
    headline: str
    matched: int = Field(description="number of nodes with a counterpart in the first run")
    built: bool = Field(default=True, description="whether its engine shows the nodes' actual precisions")
    renamed: int = Field(default=0, description="number of these nodes with another name in the first run")


class Figure(Part):
    """A figure with its value in every run; ``better`` tells whether 'more' or 'less' is better, or neither."""

    name: str
    values: list[Finite]
    unit: str = ""
    better: Literal["more", "less", ""] = ""

    def change(self, run: int) -> float | None:
        """The value of a run minus that of the first; None unless both are known."""
        first, other = self.values[0], self.values[run]
        return other - first if first is not None and other is not None else None

    @property
    def differs(self) -> bool:
        """Whether its value differs between the runs."""
        return any(value != self.values[0] for value in self.values)


class NodeSide(Part):
    """One node in one of the runs."""

    node: str = Field(description="its name in that run")
    asked: Precision | None = None
    actual: Precision | None = None
    status: Status = "unknown"
    reason: str = ""
    sqnr_db: Finite = None
    identical: bool = False
    time_ms: float | None = Field(default=None, description="summed over the profiles that all runs timed")
    error_delta_db: Finite = Field(default=None, description="sqnr_db minus that of the first run")
    time_delta_ms: Finite = Field(default=None, description="time_ms minus that of the first run")


class NodeDifference(Part):
    """A node that differs between the first run and others, and in which aspects."""

    node: str
    op: str
    differs: list[Aspect]
    sides: list[NodeSide | None] = Field(description="by run; null if the run has no such node")


class Comparison(Part):
    """The differences of two or more runs from the first."""

    schema_id: Literal["qtool-comparison-2"] = Field(default="qtool-comparison-2", alias="schema")
    headline: str
    said: list[str] = Field(description="one sentence for each other run, comparing it with the first")
    same: bool = Field(description="whether no figure, verdict or node differs")
    same_model: bool
    runs: list[RunSide]
    figures: list[Figure]
    nodes: list[NodeDifference]
    only: list[list[str]] = Field(description="by run, the nodes without a counterpart in any other run")
    in_all: int

    def to_json(self) -> dict[str, Any]:
        """The machine form."""
        return self.model_dump(mode="json", by_alias=True)

    def differing(self, *aspects: Aspect) -> list[NodeDifference]:
        """The nodes that differ in any of ``aspects``."""
        return [node for node in self.nodes if set(aspects) & set(node.differs)]


def compare(reports: Sequence[Report], labels: Sequence[str]) -> Comparison:
    """Compare reports.

    Nodes correspond by name, or by structure if names differ: see ``matching``. Any difference in precision or status
    counts; in error, one of at least 1 dB, or if only one is identical to float; in time, one of at least 10% and 5
    microseconds.

    Args:
        reports: two or more runs; all others are compared with the first.
        labels: their names, such as those of the run folders.
    """
    matches = [match(reports[0], other) for other in reports[1:]]
    nodes, in_all = _node_differences(reports, matches)
    only = _unmatched(reports, matches)
    accuracy = list(_accuracy_figures([report.accuracy for report in reports]))
    figures = [*accuracy, *_size_figures(reports), *_count_figures(reports)]
    same_names = {layer.node: layer.node for layer in reports[0].layers}
    runs = [_side(*one) for one in zip(reports, labels, [same_names, *matches])]
    changed = any(figure.differs for figure in figures) or len({run.verdict for run in runs}) > 1
    made = Comparison(
        headline="", said=[], same=not (changed or nodes or any(only)), in_all=in_all,
        same_model=len({report.model.fingerprint for report in reports}) == 1,
        runs=runs, figures=figures, nodes=nodes, only=only,
    )  # fmt: skip
    made.said = [sentence(_said(made, run, accuracy)) for run in range(1, len(runs))]
    several = ReportCode.RUNS_SEVERAL(runs=[run.label for run in runs], verdicts=[run.verdict for run in runs])
    made.headline = made.said[0] if len(runs) == 2 else sentence(several)
    return made


def _node_differences(
    reports: Sequence[Report], matches: Sequence[Mapping[str, str]]
) -> tuple[list[NodeDifference], int]:
    """The nodes that differ, and how many nodes all runs have; ``matches``: by other run, see ``match``."""
    layers = [{layer.node: layer for layer in report.layers} for report in reports]
    differences: list[NodeDifference] = []
    in_all = 0
    for layer in reports[0].layers:
        names = [matched.get(layer.node) for matched in matches]
        found = [layer, *(layers[run][name] if name is not None else None for run, name in enumerate(names, 1))]
        in_all += None not in found
        if any(one is not None for one in found[1:]) and (different := _difference(found)) is not None:
            differences.append(different)
    return differences, in_all


def _unmatched(reports: Sequence[Report], matches: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """By run, the nodes without a counterpart in any other run."""
    taken = [set().union(*matches), *(set(matched.values()) for matched in matches)]
    return [[layer.node for layer in report.layers if layer.node not in own] for report, own in zip(reports, taken)]


def _side(report: Report, label: str, matched: Mapping[str, str]) -> RunSide:
    backend = f"{report.backend.name} {report.backend.version}".strip()
    return RunSide(
        label=label, recipe=report.recipe.name, fingerprint=report.model.fingerprint, backend=backend,
        verdict=report.summary.verdict, headline=report.summary.headline,
        built=_built(report),
        matched=len(matched), renamed=sum(name != other for name, other in matched.items()),
    )  # fmt: skip


def _difference(found: Sequence[LayerInfo | None]) -> NodeDifference | None:
    """How a node differs between the first run and the others; None if it does not."""
    here = [layer for layer in found if layer is not None]
    told = _told(here[0])
    if len(here) == len(found) and all(_told(layer) == told for layer in here[1:]):
        # a short cut for nearly every node of a large graph
        return None
    timed = sorted(set.intersection(*(set(layer.time_ms) for layer in here)))
    sides = [_node_side(layer, timed) if layer is not None else None for layer in found]
    first, base = sides[0], found[0]
    assert first is not None and base is not None
    differs: dict[Aspect, None] = {}
    for layer, side in zip(found[1:], sides[1:]):
        if layer is None or side is None:
            differs["there"] = None
            continue
        differs |= dict.fromkeys(_aspects(first, side, base.error is not None and layer.error is not None))
    if not differs:
        return None
    order: tuple[Aspect, ...] = ("there", "asked", "actual", "status", "error", "time")
    return NodeDifference(node=base.node, op=base.op, differs=[one for one in order if one in differs], sides=sides)


def _told(layer: LayerInfo) -> tuple[Any, ...]:
    """All values that nodes are compared by."""
    error = (layer.error.sqnr_db, layer.error.identical) if layer.error else None
    return layer.asked_precision, layer.actual.precision, layer.status, error, layer.time_ms


def _aspects(first: NodeSide, other: NodeSide, measured: bool) -> Iterator[Aspect]:
    """The aspects in which a node differs between the first run and another; sets the deltas of ``other``."""
    if first.asked != other.asked:
        yield "asked"
    if "unknown" not in (first.status, other.status):
        # unknown values do not count as different
        if first.actual != other.actual:
            yield "actual"
        if first.status != other.status:
            yield "status"
    if first.sqnr_db is not None and other.sqnr_db is not None:
        other.error_delta_db = other.sqnr_db - first.sqnr_db
    error = other.error_delta_db
    unlike = (first.sqnr_db, first.identical) != (other.sqnr_db, other.identical)
    if (error is not None and abs(error) >= ERROR_DB) or (measured and error is None and unlike):
        yield "error"
    if first.time_ms is not None and other.time_ms is not None:
        other.time_delta_ms = other.time_ms - first.time_ms
        if abs(other.time_delta_ms) >= max(TIME_MS, TIME_SHARE * first.time_ms):
            yield "time"


def _node_side(layer: LayerInfo, timed: list[str]) -> NodeSide:
    return NodeSide(
        node=layer.node,
        asked=layer.asked_precision,
        actual=layer.actual.precision,
        status=layer.status,
        reason=layer.reason,
        sqnr_db=layer.error.sqnr_db if layer.error else None,
        identical=bool(layer.error and layer.error.identical),
        time_ms=sum(layer.time_ms[profile] for profile in timed) if timed else None,
    )


def _accuracy_figures(found: Sequence[Accuracy | None]) -> Iterator[Figure]:
    """The metric and its drop, if all runs have the same metric, then SQNR and agreement of the outputs."""
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return
    alike = len({one.metric for one in known}) == 1
    if alike and known[0].quantized is not None:
        yield Figure(name=known[0].metric or "metric", values=[one.quantized for one in known])
    if alike and any(one.drop is not None for one in known):
        yield Figure(name="drop from float", values=[one.drop for one in known], better="less")
    for name in [name for name in known[0].outputs if all(name in one.outputs for one in known)]:
        outputs = [one.outputs[name] for one in known]
        sqnr, agreement = [output.sqnr_db for output in outputs], [output.agreement for output in outputs]
        if any(value is not None for value in sqnr):
            yield Figure(name=f"{name} SQNR", values=sqnr, unit="dB", better="more")
        if any(value is not None for value in agreement):
            kind = agreement_name(all(output.discrete for output in outputs))
            yield Figure(name=f"{name} {kind}", values=agreement, unit="share", better="more")


def _size_figures(reports: Sequence[Report]) -> Iterator[Figure]:
    """Quantized shares, if all runs count the same kind of work, then engine size and latency."""
    summaries = [report.summary for report in reports]
    if len({one.share_of for one in summaries}) == 1:
        yield Figure(name="share requested quantized", unit="share", values=[one.asked_share for one in summaries])
        if {one.share_by for one in summaries} == {"actual"}:
            yield Figure(name="share run quantized", unit="share", values=[one.quantized_share for one in summaries])
    sizes = [report.backend.engine_bytes for report in reports]
    if any(value is not None for value in sizes):
        yield Figure(name="engine", values=sizes, unit="bytes", better="less")
    times = [dict(_numbers(report.latency or {}, "latency")) for report in reports]
    for name in [n for n in times[0] if all(n in one for one in times)]:
        yield Figure(name=name, values=[one[name] for one in times], unit="ms", better="less")


def _count_figures(reports: Sequence[Report]) -> Iterator[Figure]:
    """How many nodes run in each precision; if a run has no engine, how many are requested to."""
    summaries = [report.summary for report in reports]
    built = all(_built(report) for report in reports)
    counts = [one.by_actual if built else one.by_asked for one in summaries]
    for precision in [word(p) for p in (*Precision, None) if any(word(p) in one for one in counts)]:
        called = ("nodes in " if built else "nodes requested in ") + precision
        if precision == NONE:
            called = "nodes in no known precision" if built else "nodes of no precision"
        yield Figure(name=called, values=[one.get(precision, 0) for one in counts])


def _built(report: Report) -> bool:
    """Whether any node's actual precision is known."""
    return any(layer.actual.precision is not None for layer in report.layers)


def _numbers(content: Any, prefix: str) -> Iterator[tuple[str, float]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _numbers(value, f"{prefix} {key}")
    elif isinstance(content, (int, float)) and not isinstance(content, bool):
        yield prefix, float(content)


def _said(made: Comparison, run: int, accuracy: list[Figure]) -> Finding:
    """The finding that sums up how another run differs from the first."""
    a, b = made.runs[0], made.runs[run]
    unbuilt = [one.label for one in (a, b) if not one.built]
    pairs = [(node.sides[0], node.sides[run]) for node in made.nodes]
    both = [(one, other) for one, other in pairs if one is not None and other is not None]
    differences = [set(_aspects(one, other, True)) for one, other in both]
    only_a, only_b = len(made.only[0]) + len(pairs) - len(both), len(made.only[run])
    unlike = any(one.values[0] != one.values[run] for one in made.figures)
    if not (any(differences) or unlike or a.verdict != b.verdict or only_a or only_b):
        return ReportCode.RUNS_ALIKE(a=a.label, b=b.label, verdict=a.verdict, nodes=b.matched, renamed=b.renamed,
                                      unbuilt=unbuilt)  # fmt: skip
    deltas = [delta for _, other in both if (delta := other.error_delta_db) is not None and abs(delta) >= ERROR_DB]
    lower = sum(delta < 0 for delta in deltas)
    return ReportCode.RUNS_DIFFER(
        a=a.label, b=b.label, verdict_a=a.verdict, verdict_b=b.verdict, **_first_change(accuracy, run),
        precision=sum(bool({"asked", "actual"} & one) for one in differences),
        nodes=b.matched, lower=lower, higher=len(deltas) - lower, only_a=only_a, only_b=only_b,
        same_model=a.fingerprint == b.fingerprint, renamed=b.renamed, unbuilt=unbuilt,
    )  # fmt: skip


def _first_change(accuracy: Sequence[Figure], run: int) -> dict[str, Any]:
    """The first accuracy figure that differs from the first run's, as values of RUNS_DIFFER."""
    figure = next((one for one in accuracy if one.change(run)), None)
    if figure is None:
        return {"figure": "", "value_a": None, "value_b": None, "unit": ""}
    return {"figure": figure.name, "value_a": figure.values[0], "value_b": figure.values[run], "unit": figure.unit}
