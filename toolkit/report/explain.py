"""One node of a run, explained: what was asked, what runs and why, its neighbours, ranges, error and time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from toolkit.base.errors import QtoolError, did_you_mean
from toolkit.base.text import plain
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE
from toolkit.report.findings.words import share_percent
from toolkit.report.fragments import keep_fragment
from toolkit.report.part import Part
from toolkit.report.schema import Declined, LayerInfo, RangeInfo, Report, word
from toolkit.report.search_parts import CauseInfo, LayerHarm
from toolkit.report.shares import work_in
from toolkit.report.terminal import decibels
from toolkit.report.verdict import quantized_type

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from toolkit.graph.model import Model

_SEEN_THROUGH = frozenset({QUANTIZE, DEQUANTIZE, "Cast"})


class Neighbour(Part):
    """A tensor that a node reads or writes, and what is at its other end.

    ``nodes`` make it, or read it, seen through Q/DQ nodes and Casts; none do at the model's ends and for weights.
    """

    tensor: str
    shape: list[int | str | None] | None = None
    nodes: list[str] = Field(default_factory=list)
    weights: bool = False
    dtype: str = Field(default="", description="its element type, such as float, float16 or int64; empty if unknown")
    pair: bool = Field(default=False, description="whether a Q/DQ pair lies between")
    range: RangeInfo | None = Field(default=None, description="its calibrated range, where it has one")


class Explanation(Part):
    """All that a run knows of one node."""

    layer: LayerInfo
    why: str
    inputs: list[Neighbour]
    outputs: list[Neighbour]
    declined: list[Declined] = Field(default_factory=list)
    harm: LayerHarm | None = Field(default=None, description="what quantizing it costs, where a search measured it")
    causes: list[CauseInfo] = Field(default_factory=list, description="why it loses accuracy, for the worst layers")
    work_share: float | None = Field(default=None, description="its share of the model's work, 0 to 1")
    keep: str = Field(default="", description="a piece of recipe that keeps it in float, for a quantized node")


def explain(report: Report, model: Model, name: str) -> Explanation:
    """Explain a node.

    Args:
        report: of the run.
        model: the run's final model.
        name: of the node, or of a tensor that it makes.

    Raises:
        QtoolError: the run has no such node or tensor; the remedy names the nearest.
    """
    layers = {layer.node: layer for layer in report.layers}
    layer = layers.get(name) or layers.get(_maker(model, name))
    if layer is None:
        raise QtoolError(
            f"the run has no node '{name}', and no node makes a tensor of that name",
            remedy=did_you_mean(name, layers),
        )
    node = next((node for node, _ in model.walk() if node.name == layer.node), None)
    ranges = {info.tensor: info for info in report.ranges or ()}
    spots = [spot for spot in report.weak_spots if spot.node == layer.node]
    work = work_in(report.layers)
    return Explanation(
        layer=layer,
        why=layer.why,
        inputs=_inputs(node, ranges) if node is not None else [],
        outputs=_outputs(node, ranges) if node is not None else [],
        declined=[entry for entry in report.declined if entry.node == layer.node],
        harm=next((h for h in report.search.layers if h.node == layer.node), None) if report.search else None,
        causes=[cause for spot in spots for cause in spot.causes],
        work_share=work.share([layer.node]) if layer.node in work.weights else None,
        keep=keep_fragment([layer.node], "fp16") if quantized_type(layer) is not None else "",
    )


def _maker(model: Model, name: str) -> str:
    """The node that makes a tensor's values; empty where there is no such tensor."""
    tensor = next((t for node, _ in model.walk() for t in node.outputs if t.name == name), None)
    while tensor is not None and tensor.inputs:
        if tensor.inputs[0].op not in _SEEN_THROUGH:
            return str(tensor.inputs[0].name)
        tensor = tensor.inputs[0].inputs[0]
    return ""


def _inputs(node: gs.Node, ranges: dict[str, RangeInfo]) -> list[Neighbour]:
    found = []
    for tensor in node.inputs:
        if tensor.is_empty():
            continue
        pair, origin = False, tensor
        while origin.inputs and origin.inputs[0].op in _SEEN_THROUGH:
            pair |= origin.inputs[0].op == DEQUANTIZE
            origin = origin.inputs[0].inputs[0]
        makers = [maker.name for maker in origin.inputs if maker.op != "Constant"]
        weights = not makers and (type(origin).__name__ == "Constant" or bool(origin.inputs))
        found.append(_neighbour(origin, makers, pair, ranges, weights))
    return found


def _outputs(node: gs.Node, ranges: dict[str, RangeInfo]) -> list[Neighbour]:
    found = []
    for tensor in node.outputs:
        readers, pair, pending = dict[str, None](), False, list(tensor.outputs)
        while pending:
            reader = pending.pop(0)
            if reader.op in _SEEN_THROUGH:
                pair |= reader.op == QUANTIZE
                pending += [behind for output in reader.outputs for behind in output.outputs]
            else:
                readers[reader.name] = None
        found.append(_neighbour(tensor, list(readers), pair, ranges))
    return found


def _neighbour(
    tensor: gs.Tensor, nodes: list[str], pair: bool, ranges: dict[str, RangeInfo], weights: bool = False
) -> Neighbour:
    shape = None if tensor.shape is None else [s if isinstance(s, (int, str)) else None for s in tensor.shape]
    return Neighbour(
        tensor=tensor.name, shape=shape, nodes=nodes, weights=weights, pair=pair, range=ranges.get(tensor.name),
        dtype=_type_name(tensor),
    )  # fmt: skip


def _type_name(tensor: gs.Tensor) -> str:
    from onnx import TensorProto

    from toolkit.graph.tensors import onnx_type

    kind = onnx_type(tensor.dtype)
    return TensorProto.DataType.Name(kind).lower() if kind else ""


def explanation_text(found: Explanation) -> str:
    """An explanation for the terminal."""
    return "".join(f"{plain(line)}\n" for line in _lines(found))


def _lines(found: Explanation) -> Iterable[str]:
    layer, asked = found.layer, found.layer.asked
    yield f"{layer.node} ({layer.op})"
    if asked is not None and asked.precision is not None:
        yield f"  requested  {word(asked.precision)}, by {asked.by}: {asked.reason}"
    yield f"  runs in    {_runs_in(layer)}"
    if layer.reason and layer.reason != getattr(asked, "reason", ""):
        yield f"  why        {layer.reason}"
    if layer.remedy:
        yield f"  what to do {layer.remedy}"
    for entry in found.declined:
        yield f"  declined   by {entry.by}, rule {entry.rule}: {entry.reason}"
    for title, sides in (("reads", found.inputs), ("writes", found.outputs)):
        for side in sides:
            yield f"  {title:10} {_side(side, 'from' if title == 'reads' else 'to')}"
    if layer.error is not None:
        drop = layer.error.drop_db
        below = f", {drop:.1f} dB below its inputs" if drop is not None else ""
        unit = " dB SQNR" if layer.error.sqnr_db is not None else ""
        yield f"  error      {decibels(layer)}{unit} at its output{below}"
    if found.harm is not None:
        yield f"  alone      {_harm(found.harm)}"
    if found.work_share is not None:
        yield f"  work       {share_percent(found.work_share)} of the model's"
    if layer.time_ms:
        yield "  time       " + ", ".join(
            f"{value:.3f} ms in profile '{name}'" for name, value in layer.time_ms.items()
        )
    if layer.engine_layers:
        yield f"  engine     {'; '.join(layer.engine_layers)}"
    for cause in found.causes:
        yield f"  cause      {cause.text}. Remedy: {cause.remedy}."
    if found.keep:
        yield "  to keep it in float, put this before the pass that quantizes:"
        yield from (f"    {line}" for line in found.keep.splitlines())


def _runs_in(layer: LayerInfo) -> str:
    """What it runs in, and how that is known."""
    actual = layer.actual
    if actual.precision is not None:
        return f"{actual.precision} ({layer.status}, known from: {actual.source})"
    if layer.asked is not None and layer.asked.precision is None:
        return f"no precision of its own: {layer.asked.reason} ({layer.status})"
    return f"not known ({layer.status})"


def _side(side: Neighbour, preposition: str) -> str:
    words = f"'{side.tensor}'"
    if side.shape is not None:
        words += f" [{', '.join('?' if size is None else str(size) for size in side.shape)}]"
    if side.weights:
        words += ", weights"
    elif side.nodes:
        words += f" {preposition} " + ", ".join(f"'{name}'" for name in side.nodes)
    words += ", quantized by a Q/DQ pair" if side.pair else f", {side.dtype}" if side.dtype else ""
    if side.range is not None:
        words += f", range ±{side.range.amax:.4g} ({side.range.method})"
        if side.range.observed is not None:
            low, high = side.range.observed
            words += f", seen {low:.4g} to {high:.4g}"
    return words


def _harm(harm: LayerHarm) -> str:
    parts = []
    if harm.alone_db is not None:
        parts.append(f"with it alone quantized {harm.alone_db:.1f} dB at the model's output")
    if harm.without_db is not None:
        parts.append(f"with all but it {harm.without_db:.1f} dB")
    parts.append(f"{share_percent(harm.share)} of the loss of all layers")
    return ", ".join(parts) + ("; the chosen plan keeps it in float" if harm.kept else "")
