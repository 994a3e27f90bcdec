"""What a node computes: its role, its multiply-accumulates, and shapes at a profile's opt.

The report, the cost model and the passes count the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from toolkit.base.profiles import Extent, Profiles, ShapeProfile

if TYPE_CHECKING:
    from toolkit.graph.facts import Facts
    from toolkit.graph.model import Model

NodeRole = Literal["compute", "convert", "other"]
CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "CastLike"})
_NO_COMPUTATION = frozenset({"Constant", "Shape", "Size"})


def facts_at_opt(model: Model, profiles: Profiles) -> Facts:
    """Types and shapes at the first profile's opt shapes, or with the dimensions the model declares."""
    first = next(iter(profiles), None)
    if first is None:
        return model.facts()
    opt = {name: Extent(extent.opt, extent.opt, extent.opt) for name, extent in first.shapes.items()}
    return model.facts(Profiles((ShapeProfile(first.name, opt),)))


def role(node: Any, facts: Facts) -> NodeRole:
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


def macs(node: Any, facts: Facts) -> int | None:
    """Multiply-accumulates of a Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU or RNN; 0 for other operators.

    None where shapes are unknown.

    A Conv makes, for each element of its output, one for each weight of that output channel's filter.
    """
    if node.op in ("LSTM", "GRU", "RNN"):
        data, weight, recurrent = (shape_of(facts, tensor.name) for tensor in node.inputs[:3])
        if data is None or weight is None or recurrent is None:
            return None
        return data[0] * data[1] * (math.prod(weight) + math.prod(recurrent))
    if node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    data, weight = (shape_of(facts, tensor.name) for tensor in node.inputs[:2])
    out = shape_of(facts, node.outputs[0].name)
    if data is None or weight is None or out is None:
        return None
    if node.op == "Conv":
        return math.prod(out) * math.prod(weight[1:])
    if node.op == "ConvTranspose":
        return math.prod(data) * math.prod(weight[1:])
    if node.op == "Gemm":
        return math.prod(out) * (data[0] if node.attrs.get("transA", 0) else data[-1])
    return math.prod(out) * data[-1] if data else None


def shape_of(facts: Facts, tensor: str) -> Sequence[int] | None:
    """The shape of a tensor at the last corner, or None where a dimension is not known."""
    shapes = facts.shapes.get(tensor)
    if not shapes or any(size < 0 for size in shapes[-1]):
        return None
    return shapes[-1]
