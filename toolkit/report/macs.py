"""The role of a node: what counts as computing. Multiply-accumulates are counted in ``toolkit.costs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolkit.costs import facts_at_opt, macs

if TYPE_CHECKING:
    from toolkit.model import Facts
    from toolkit.report.schema import Role

CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "CastLike"})
_NO_COMPUTATION = frozenset({"Constant", "Shape", "Size"})


def role(node: Any, facts: Facts) -> Role:
    """What a node is: a computation, a conversion between types, or other (constants, shape arithmetic).

    A node whose types nobody knows (a plugin's) counts as a computation.
    """
    if node.op in CONVERSIONS:
        return "convert"
    if node.op in _NO_COMPUTATION:
        return "other"
    tensors = [tensor.name for tensor in (*node.inputs, *node.outputs)]
    if any(facts.is_float(name) for name in tensors):
        return "compute"
    known = any(tensor.name in facts.types for tensor in node.outputs)
    return "other" if known else "compute"


__all__ = ["CONVERSIONS", "facts_at_opt", "macs", "role"]
