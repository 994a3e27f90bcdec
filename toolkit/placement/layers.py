"""Layers with weights, for any operator and layout; and the values of constants, also behind a Q/DQ pair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from toolkit.base.types import Array
from toolkit.graph.layers.constants import constant_value
from toolkit.graph.model import Model
from toolkit.placement.existing import ExistingPair, pair_at
from toolkit.placement.ops import DEQUANTIZE, TARGETS, weight_axis


@dataclass(frozen=True)
class WeightedLayer:
    """A Conv, ConvTranspose, Gemm or MatMul with a constant weight.

    Attributes:
        node: the node.
        index: the input that is the weight.
        weight: its float values, in the node's own layout.
        axis: the axis of its output channels; None if the whole weight has one scale.
        quantized: whether the weight comes from a Q/DQ pair or is stored quantized.
        bias: its bias, or None if it has none or a computed one.
    """

    node: gs.Node
    index: int
    weight: Array
    axis: int | None
    quantized: bool
    bias: Array | None

    @property
    def name(self) -> str:
        """The node's name."""
        return str(self.node.name)

    @property
    def op(self) -> str:
        """The node's operator."""
        return str(self.node.op)


def layers(model: Model, subgraphs: bool = False) -> Iterator[WeightedLayer]:
    """The layers with weights, in graph order; MatMuls of two activations are left out.

    Args:
        subgraphs: whether to include those inside If, Loop and Scan.
    """
    for node, graph in model.walk():
        if node.op not in TARGETS or len(node.inputs) < 2 or (graph is not model.graph and not subgraphs):
            continue
        for index in (1, 0):
            tensor = node.inputs[index]
            values = constant_through_pair(model, tensor)
            if values is None:
                continue
            has_bias = node.op != "MatMul" and len(node.inputs) > 2 and not node.inputs[2].is_empty()
            bias = constant_through_pair(model, node.inputs[2]) if has_bias else None
            quantized = bool(tensor.inputs) and tensor.inputs[0].op == DEQUANTIZE
            yield WeightedLayer(
                node, index, values, weight_axis(node.op, index, values.ndim, node.attrs), quantized, bias
            )
            break


def constant_through_pair(model: Model, tensor: gs.Tensor) -> Array | None:
    """The float values of a constant, also behind a Q/DQ pair or stored quantized; None if the tensor is computed.

    Values stored quantized are returned as (stored - zero point) * scale in float32, as ONNX's DequantizeLinear
    computes them, also if operators lie between the pair's halves.
    """
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or node.op != DEQUANTIZE:
        return model.constant(tensor)
    pair = pair_at(model, node)
    if not isinstance(pair, ExistingPair):
        return None
    if pair.quantize is not None and not pair.between:
        return model.constant(pair.tensor)
    stored = constant_value(model, node.inputs[0])
    known = pair.grid.scale is not None and pair.grid.zero is not None
    return pair.grid.dequantize(stored) if stored is not None and known else None
