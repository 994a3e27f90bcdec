"""Shares of a model's arithmetic that run quantized, for all parts of the report."""

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
    """The work of the report's computing layers."""
    return Work.counted({layer.node: layer.macs for layer in layers if layer.role == "compute"})


def quantized_shares(layers: Sequence[LayerInfo]) -> dict[str, Any]:
    """The quantized shares for the fields of ``Summary``, by field.

    If an engine's precisions are known, they are counted rather than requests; layers whose precision the engine does
    not show count as not quantized, and have a share of their own.
    """
    work = work_in(layers)
    if not work.weights:
        return {}
    asked = {x.node for x in layers if x.asked_precision is not None and x.asked_precision.quantized}
    # layers that the engine removed do not run, so their precision is not hidden
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


def work_not_known(
    layers: Sequence[LayerInfo], *, sizeless: bool = False, opaque: Sequence[str] = ()
) -> Finding | None:
    """The finding that shares count layers, since some have unknown multiply-accumulates; None if all are known.

    Args:
        sizeless: whether neither the model nor a profile gives all sizes of the inputs; if so, a profile is suggested.
        opaque: operators behind which shapes are not known.
    """
    computing = [layer for layer in layers if layer.role == "compute"]
    unknown = [layer.node for layer in computing if layer.macs is None]
    if not unknown:
        return None
    loops = any(layer.op == "Loop" for layer in layers)
    others: dict[str, Any] = {**({"loops": True} if loops else {}), **({"profiles": False} if sizeless else {})}
    return ReportCode.WORK_NOT_KNOWN(
        nodes=unknown, layers=len(computing), **others, **({"behind": list(opaque)} if opaque else {})
    )


def share_words(summary: Summary) -> str:
    """The share that runs quantized, and the requested one if it differs; empty if nothing computes."""
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
    """By node, its actual precision, or the requested one if that is not known."""
    known = {layer.node: layer.actual.precision or layer.asked_precision for layer in layers}
    return {node: precision for node, precision in known.items() if precision is not None}
