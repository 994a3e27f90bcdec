"""A lowered model for onnxruntime's CPU provider, which would leave float16's rounding out.

The provider has no float16 kernels for most operators: it computes them in float32 and removes the Casts between two
of them, so that what lies in between is never rounded. Here every result is rounded by a Cast of the graph's own,
which stays: ((x + 8000) - 8000) is x by the provider's float16 and 0 by this, as on an engine.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from toolkit.base.errors import ModelError
from toolkit.graph.light import LightModel
from toolkit.graph.model import Model
from toolkit.graph.on_disk import spilled
from toolkit.placement.ops import DEQUANTIZE, MOVERS

_NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_PICKS = frozenset({
    "Relu", "Clip", "Max", "Min", "GlobalMaxPool", "ReduceMax", "ReduceMin", "Abs", "Neg", "Concat", "Where",
    "GatherElements", "GatherND", "TopK",
})  # fmt: skip
"""Operators beside the movers that give values that they read, negatives of them or zeros: rounding leaves these as
they are where all that is read was rounded before."""


def with_rounding(lowered: Model) -> LightModel:
    """The same model in float32, with a Cast to float16 or bfloat16 and back behind every node of such a result.

    What only moves values or picks among rounded ones rounds nothing, and what DequantizeLinear gives is exact in the
    layer that reads it.

    Raises:
        ModelError: the model has subgraphs.
    """
    types = lowered.facts().types
    light = lowered.to_light()
    graph = light.proto.graph
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in _NARROW:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        if tensor.name not in light.weights:
            _widen(tensor)
        elif tensor.data_type in _NARROW:
            tensor.data_type = TensorProto.FLOAT
            light.weights[tensor.name] = spilled(light.weights[tensor.name].astype(np.float32))
    nodes = list(graph.node)
    del graph.node[:]
    rounded = {tensor.name for tensor in graph.initializer}
    for node in nodes:
        graph.node.extend(_rounded(node, types, rounded))
    return light


def _rounded(node: onnx.NodeProto, types: Mapping[str, int], rounded: set[str]) -> list[onnx.NodeProto]:
    """A node with what rounds its results behind it; ``rounded`` are the tensors that are rounded, and gets its own."""
    for attribute in node.attribute:
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            raise ModelError("16-bit floats are not rounded inside an If, Loop or Scan", where=node.name)
        if attribute.type == onnx.AttributeProto.TENSOR:
            _widen(attribute.t)
        elif attribute.name in ("to", "dtype", "output_dtype") and attribute.i in _NARROW:
            attribute.i = TensorProto.FLOAT
    made = [node]
    moves = node.op_type in MOVERS
    if moves or (node.op_type in _PICKS and not node.domain):
        exact = all(name in rounded for name in node.input if types.get(name) in _NARROW)
        rounded.update(node.output if exact else ())
        if moves or exact:
            return made
    if node.op_type == DEQUANTIZE:
        return made
    for index, name in enumerate(node.output):
        kind = types.get(name)
        if kind in _NARROW:
            rounded.add(name)
            before, half = f"{name} before rounding", f"{name} rounded"
            node.output[index] = before
            made.append(helper.make_node("Cast", [before], [half], f"{node.name} {index} round", to=kind))
            made.append(helper.make_node("Cast", [half], [name], f"{node.name} {index} widen", to=TensorProto.FLOAT))
    return made


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _NARROW:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
