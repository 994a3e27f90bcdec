"""Why a pass that quantizes left everything, or all layers of a kind, in float."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from toolkit.contract.findings import Finding
from toolkit.contract.roles import Role
from toolkit.placement.ops import TARGETS
from toolkit.report.advice import quantizers
from toolkit.report.codes import ReportCode
from toolkit.report.schema import Declined, LayerInfo, PassInfo
from toolkit.report.verdict import quantized_type

_KINDS = {"linear": ("Gemm", "MatMul"), "convolution": ("Conv", "ConvTranspose")}
_WISHED = ("excluded", "not-included", "kept")
"""Rules by which the recipe itself, or a search, keeps layers float."""
_PRODUCTS = "activation-matmul"


def left_out(layers: Sequence[LayerInfo], declined: Sequence[Declined], passes: Sequence[PassInfo]) -> Finding | None:
    """What the reader must know first where quantizing came to nothing, or to nothing for the layers of one kind.

    Args:
        layers: the report's layers.
        declined: what all passes left alone.
        passes: the recipe's passes.

    Returns:
        None where something is quantized and no kind of layers is left out for one rule; two layers are a kind.
    """
    if not any(one.role in (Role.QUANTIZE, Role.SEARCH) for one in passes):
        return None
    by = quantizers(passes)
    quantized = {layer.node for layer in layers if layer.role == "compute" and quantized_type(layer) is not None}
    # products of two activations have no weights and stay float by default
    mine = {e.node: e for e in declined if e.by in by and e.op in TARGETS and e.rule != _PRODUCTS}
    left = {node: entry for node, entry in mine.items() if node not in quantized}
    if not quantized:
        if left:
            entries = _largest(list(left.values()))
            return _said(ReportCode.NOTHING_QUANTIZED, entries, of=len(left))
        return None if any(layer.op in TARGETS for layer in layers) else ReportCode.NO_LAYER_TO_QUANTIZE()
    for kind, ops in _KINDS.items():
        of_kind = [entry for entry in left.values() if entry.op in ops]
        entries = _largest(of_kind)
        whole = len(entries) == len(of_kind) > 1 and entries[0].rule not in _WISHED
        if whole and not any(layer.op in ops and layer.node in quantized for layer in layers):
            return _said(ReportCode.KIND_LEFT_OUT, entries, kind=kind)
    return None


def _said(code: ReportCode, entries: Sequence[Declined], **values: object) -> Finding:
    first = entries[0]
    return code(count=len(entries), rule=first.rule, node=first.node, reason=first.reason, **values)


def _largest(entries: Sequence[Declined]) -> list[Declined]:
    """The entries of the most frequent rule."""
    by_rule: dict[str, list[Declined]] = defaultdict(list)
    for entry in entries:
        by_rule[entry.rule].append(entry)
    return max(by_rule.values(), key=len, default=[])
