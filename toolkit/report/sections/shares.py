"""How much of a model's arithmetic runs quantized, as every part of the report states it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from toolkit.base.precision import Precision
from toolkit.contract.findings import Finding
from toolkit.graph.layers.work import Work
from toolkit.report.codes import ReportCode
from toolkit.report.findings.words import share_percent, work_share
from toolkit.report.schema.report import LayerInfo, Summary


def work_in(layers: Iterable[LayerInfo]) -> Work:
    """What the report's layers count for."""
    return Work.counted({layer.node: layer.macs for layer in layers if layer.role == "compute"})


def quantized_shares(layers: Sequence[LayerInfo]) -> dict[str, Any]:
    """The shares of ``Summary``, by field.

    Where an engine's precisions are known, what runs is counted, never what was asked for; layers whose precision it
    does not show count as not quantized, and their share is given separately.
    """
    work = work_in(layers)
    if not work.weights:
        return {}
    asked = {x.node for x in layers if x.asked_precision is not None and x.asked_precision.quantized}
    # what the engine removed does not run at all: nothing of it is hidden
    known = {x.node for x in layers if x.actual.precision is not None or x.status == "removed"} & work.weights.keys()
    runs = {x.node for x in layers if x.actual.precision is not None and x.actual.precision.quantized}
    engine = any(layer.actual.precision is not None for layer in layers if layer.role == "compute")
    return {
        "quantized_share": work.share(runs if engine else asked),
        "asked_share": work.share(asked),
        "hidden_share": work.share(work.weights.keys() - known) if engine else None,
        "share_of": work.of,
        "share_by": "actual" if engine else "asked",
    }


def work_not_known(layers: Sequence[LayerInfo], *, profiles: bool = True) -> Finding | None:
    """The layers with unknown multiply-accumulates, because of which shares count layers; None where there are none.

    Args:
        layers: all layers.
        profiles: whether the recipe has profiles, whose shapes would tell.
    """
    computing = [layer for layer in layers if layer.role == "compute"]
    unknown = [layer.node for layer in computing if layer.macs is None]
    if not unknown:
        return None
    loops = any(layer.op == "Loop" for layer in layers)
    others = {**({"loops": True} if loops else {}), **({} if profiles else {"profiles": False})}
    return ReportCode.WORK_NOT_KNOWN(nodes=unknown, layers=len(computing), **others)


def share_words(summary: Summary) -> str:
    """How much runs quantized, and what was asked for where that is not the same; empty where nothing computes."""
    share, asked, hidden = summary.quantized_share, summary.asked_share, summary.hidden_share
    if share is None:
        return ""
    if summary.share_by == "asked":
        return f"{work_share(share, summary.share_of)} requested quantized (no engine confirms it)"
    words = f"{work_share(share, summary.share_of)} run quantized"
    if asked is not None and asked != share:
        words += f", {share_percent(asked)} requested"
    return words + (f"; the engine hides the precision of {share_percent(hidden)}" if hidden else "")


def computes(layers: Iterable[LayerInfo]) -> dict[str, Precision]:
    """What each node runs in, or was asked to run in where that is not known."""
    known = {layer.node: layer.actual.precision or layer.asked_precision for layer in layers}
    return {node: precision for node, precision in known.items() if precision is not None}
