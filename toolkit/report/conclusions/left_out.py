"""Why quantization left everything, or all layers of a kind, in float."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from toolkit.base.precision import Precision
from toolkit.contract.findings import Code, Finding
from toolkit.contract.roles import Role
from toolkit.placement.ops import TARGETS
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.advice import quantizers
from toolkit.report.conclusions.verdict import quantized_type
from toolkit.report.schema.report import Asked, Declined, LayerInfo, PassInfo

_KINDS = {"linear": ("Gemm", "MatMul"), "convolution": ("Conv", "ConvTranspose")}
_WISHED = ("excluded", "not-included", "kept")
"""Rules of layers that the recipe or a search keeps in float."""
_STAYS = (Code.STAYS_FP32.value, Code.FLOAT_RANGE.value)
"""Rules of nodes that lowering keeps in float32."""
_PRODUCTS = "activation-matmul"


def left_out(
    layers: Sequence[LayerInfo],
    declined: Sequence[Declined],
    passes: Sequence[PassInfo],
    rest: Precision = Precision.FP32,
) -> Finding | None:
    """The finding that no layer, or no layer of a kind, was quantized, with the most frequent reason.

    Args:
        rest: the float type of all nodes without a request.

    Returns:
        None if something is quantized and no kind of layers (two layers or more) is left out by a single rule.
    """
    quantizing = any(one.role in (Role.QUANTIZE, Role.SEARCH) for one in passes)
    by = quantizers(passes)
    quantized = {layer.node for layer in layers if layer.role == "compute" and quantized_type(layer) is not None}
    mine = {e.node: e for e in declined if e.by in by and e.op in TARGETS and e.node not in quantized}
    # products of two activations have no weights and stay in float by default
    left = {node: entry for node, entry in mine.items() if entry.rule != _PRODUCTS}
    if not quantized and not quantizing:
        return _converted(layers, declined, rest)
    if not quantized:
        return _nothing(layers, list((left or mine).values()))
    if not quantizing:
        return None
    for kind in _KINDS:
        if (found := _kind_left_out(kind, layers, left, mine)) is not None:
            return found
    if not any(layer.role == "compute" and _runs_quantized(layer) for layer in layers):
        asked = [layer.node for layer in layers if layer.node in quantized]
        return ReportCode.NONE_RUNS_AS_REQUESTED(count=len(asked), node=asked[0])
    return None


def _kind_left_out(
    kind: str, layers: Sequence[LayerInfo], left: Mapping[str, Declined], mine: Mapping[str, Declined]
) -> Finding | None:
    """The finding that one rule left all layers of a kind (at least two) in float; None if not.

    Args:
        kind: the kind of layers, a key of ``_KINDS``.
        left: declined nodes by name, without products of two activations.
        mine: declined nodes by name, with these products.
    """
    ops = _KINDS[kind]
    of_kind = [entry for entry in left.values() if entry.op in ops]
    entries = _largest(of_kind)
    whole = len(entries) == len(of_kind) > 1 and entries[0].rule not in _WISHED
    named = {entry.node for entry in (*entries, *(one for one in mine.values() if one.rule == _PRODUCTS))}
    if whole and all(layer.node in named for layer in layers if layer.op in ops and layer.role == "compute"):
        return _said(ReportCode.KIND_LEFT_OUT, entries, kind=kind)
    return None


def _converted(layers: Sequence[LayerInfo], declined: Sequence[Declined], rest: Precision) -> Finding:
    """The finding that the recipe only converts to a float type, with the layers that stay in float32."""
    computing = [layer for layer in layers if layer.role == "compute"]
    if rest is Precision.FP32:
        return ReportCode.NO_PASS_QUANTIZES()
    why = {one.node: one.reason for one in declined if one.rule in _STAYS}
    islands = {
        layer.node: why.get(layer.node) or layer.asked.reason
        for layer in computing
        if layer.asked is not None and (
            layer.asked.precision is Precision.FP32 or layer.node in why or layer.actual.precision is Precision.FP32
        )
    }  # fmt: skip
    return ReportCode.FLOAT_CONVERTED(
        precision=rest, count=len(computing) - len(islands), of=len(computing), islands=list(islands),
        reason=next(iter(islands.values()), ""),
    )  # fmt: skip


def _nothing(layers: Sequence[LayerInfo], left: Sequence[Declined]) -> Finding:
    """Why nothing was quantized."""
    if left:
        return _said(ReportCode.NOTHING_QUANTIZED, _largest(left), of=len(left))
    candidates = [(layer, layer.asked) for layer in layers if layer.op in TARGETS and layer.asked is not None]
    if not candidates:
        return ReportCode.NO_LAYER_TO_QUANTIZE()
    # no pass declined them, so one requested another precision or removed their pairs
    by_pass: dict[str, list[tuple[LayerInfo, Asked]]] = defaultdict(list)
    for layer, asked in candidates:
        by_pass[asked.by].append((layer, asked))
    entries = max(by_pass.values(), key=len)
    first, asked = entries[0]
    more = {"by": asked.by, "reason": asked.reason} if asked.by else {}
    return ReportCode.FLOAT_REQUESTED(count=len(entries), of=len(candidates), node=first.node, **more)


def _runs_quantized(layer: LayerInfo) -> bool:
    """Whether a layer runs quantized, or may: its actual precision is unknown."""
    return layer.actual.precision is None or layer.actual.precision.quantized


def _said(code: ReportCode, entries: Sequence[Declined], **values: object) -> Finding:
    first = entries[0]
    return code(count=len(entries), rule=first.rule, node=first.node, reason=first.reason, **values)


def _largest(entries: Sequence[Declined]) -> list[Declined]:
    """The entries of the most frequent rule."""
    by_rule: dict[str, list[Declined]] = defaultdict(list)
    for entry in entries:
        by_rule[entry.rule].append(entry)
    return max(by_rule.values(), key=len, default=[])
