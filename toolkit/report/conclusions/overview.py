"""Answers to three questions about a run: why layers stay in float, is it faster, which layers cost accuracy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from pydantic import Field

from toolkit.base.text import text_of
from toolkit.report.conclusions.speed import slower, speed
from toolkit.report.conclusions.verdict import culprits
from toolkit.report.findings import sentence
from toolkit.report.findings.commands.overview import (
    costs_words,
    floats_words,
    no_time_words,
    predicted_words,
    reason_words,
)
from toolkit.report.schema.part import Part
from toolkit.report.schema.report import Declined, LayerInfo, Report
from toolkit.report.sections.rest_reasons import UNASKED

_MOST = 5


class FloatGroup(Part):
    """Layers that run in float for one reason."""

    rule: str = Field(description="the pass that declined them and its rule, or who requested float")
    nodes: list[str]
    reason: str = Field(description="the reason of the first node")


class Overview(Part):
    """Answers to the first questions about a run."""

    computing: int
    floats: list[FloatGroup] = Field(description="the most layers first")
    speed: list[str]
    costs: list[str] = Field(description="the layers that cost accuracy, the worst first")
    measured: bool = Field(description="whether costs were measured at the output, not as the layers' own errors")
    text: str


def overview(report: Report) -> Overview:
    """The answers for a report, as data and as text."""
    layers = report.computing
    floats = _floats(report, [layer for layer in layers if not _quantized(layer)])
    harms = report.harms
    costs = [harm.node for harm in harms[:_MOST]] or [layer.node for layer in culprits(layers, _MOST)]
    faster = list(_speed(report))
    lines = [
        floats_words(sum(len(group.nodes) for group in floats), len(layers)),
        *(f"  {reason_words(len(group.nodes), group.rule, group.nodes[0], group.reason)}" for group in floats),
        "Is it faster?",
        *(f"  {one}" for one in faster),
        "Which layers cost accuracy?",
        f"  {costs_words(costs, harms[:_MOST])}",
    ]
    return Overview(
        computing=len(layers), floats=floats, speed=faster, costs=costs, measured=bool(harms),
        text=text_of(lines),
    )  # fmt: skip


def _quantized(layer: LayerInfo) -> bool:
    """Whether a layer runs quantized; if that is not known, whether it is requested to."""
    runs = layer.actual.precision or layer.asked_precision
    return runs is not None and runs.quantized


def _floats(report: Report, layers: list[LayerInfo]) -> list[FloatGroup]:
    rules = {entry.node: entry for entry in report.declined}
    groups: dict[tuple[str, str], list[LayerInfo]] = defaultdict(list)
    for layer in layers:
        entry = rules.get(layer.node)
        by = layer.asked.by if layer.asked is not None else ""
        # nodes of one operator without a request have the same reason
        of_op = (by, layer.op if not by or by in UNASKED else "")
        groups[(f"{entry.by}, rule {entry.rule}", "") if entry is not None else of_op].append(layer)
    return [
        FloatGroup(rule=rule, nodes=[one.node for one in of_rule], reason=_reason(of_rule[0], rules))
        for (rule, _), of_rule in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def _reason(layer: LayerInfo, rules: Mapping[str, Declined]) -> str:
    """Why a layer runs in float: the reason for which a pass declined it, else that of its request."""
    entry = rules.get(layer.node)
    return entry.reason if entry is not None and entry.reason else layer.why


def _speed(report: Report) -> Iterator[str]:
    found = slower(report.payoff) or speed(report.payoff)
    if found is not None:
        yield sentence(found)
    groups = [group for against in report.payoff.against.values() for group in against.groups] if report.payoff else []
    for group in [group for group in groups if group.why][:_MOST]:
        yield f"{group.name}: {group.why}"
    predicted = report.prediction
    if predicted is not None:
        yield predicted_words(predicted)
    if found is None and predicted is None:
        yield no_time_words()
