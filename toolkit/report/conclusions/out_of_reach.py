"""How much of a model's arithmetic no plan can quantize, whatever the budget: layers without a quantized form."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from toolkit.contract.findings import BaseCode, Code, Finding
from toolkit.contract.roles import Role
from toolkit.report.bound_codes import BoundCode
from toolkit.report.schema.report import LayerInfo, PassInfo
from toolkit.report.sections.rest_reasons import UNASKED
from toolkit.report.sections.shares import work_in

_SOME = 0.15
"""The least share of the work that is reported."""
_WISHED = frozenset({Code.EXCLUDED, Code.NOT_INCLUDED, Code.KEPT})
"""Reasons of layers that the recipe or a search leaves in float."""
_NAMED = 3


def out_of_reach(
    layers: Sequence[LayerInfo], why: Callable[[str], Finding], passes: Sequence[PassInfo]
) -> Finding | None:
    """The share of the work in layers that cannot be quantized, by operator and reason, the largest share first.

    Args:
        layers: the layers of the report, with their multiply-accumulates.
        why: returns the reason for a node without a request.

    Returns:
        None if the recipe quantizes nothing, the work is not known, or less than 15% of it cannot be quantized.
    """
    work = work_in(layers)
    if work.of != "macs" or not any(one.role in (Role.QUANTIZE, Role.SEARCH) for one in passes):
        return None
    groups: dict[tuple[str, BaseCode], list[str]] = defaultdict(list)
    reasons: dict[tuple[str, BaseCode], Finding] = {}
    for layer in layers:
        if layer.asked is None or layer.asked.by not in UNASKED or not work.weights.get(layer.node):
            continue
        reason = why(layer.node)
        if reason.code not in _WISHED:
            groups[layer.op, reason.code].append(layer.node)
            reasons.setdefault((layer.op, reason.code), reason)
    share = work.share(node for nodes in groups.values() for node in nodes)
    if share < _SOME:
        return None
    shown = sorted(groups, key=lambda key: -work.share(groups[key]))[:_NAMED]
    return BoundCode.OUT_OF_REACH(
        share=share, of=work.of, ops=[op for op, _ in shown], counts=[len(groups[key]) for key in shown],
        shares=[work.share(groups[key]) for key in shown], reasons=[reasons[key] for key in shown],
        more=len(groups) - len(shown),
    )  # fmt: skip
