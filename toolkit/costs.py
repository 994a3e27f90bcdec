"""Multiply-accumulates of nodes and shapes at a profile's opt: what the report and the cost model both count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from toolkit.profiles import Extent, Profiles, ShapeProfile

if TYPE_CHECKING:
    from toolkit.model import Facts, Model


def facts_at_opt(model: Model, profiles: Profiles) -> Facts:
    """Types and shapes at the first profile's opt shapes, or with the dimensions the model declares."""
    first = next(iter(profiles), None)
    if first is None:
        return model.facts()
    opt = {name: Extent(extent.opt, extent.opt, extent.opt) for name, extent in first.shapes.items()}
    return model.facts(Profiles((ShapeProfile(first.name, opt),)))


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
