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


def with_rounding(lowered: Model) -> LightModel:
    """The same model in float32, with a Cast to float16 or bfloat16 and back behind every node of such a result.

    What only moves values rounds nothing, and what DequantizeLinear gives is exact in the layer that reads it.

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
    for node in nodes:
        graph.node.extend(_rounded(node, types))
    return light


def _rounded(node: onnx.NodeProto, types: Mapping[str, int]) -> list[onnx.NodeProto]:
    for attribute in node.attribute:
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            raise ModelError("16-bit floats are not rounded inside an If, Loop or Scan", where=node.name)
        if attribute.type == onnx.AttributeProto.TENSOR:
            _widen(attribute.t)
        elif attribute.name in ("to", "dtype", "output_dtype") and attribute.i in _NARROW:
            attribute.i = TensorProto.FLOAT
    made = [node]
    if node.op_type in MOVERS or node.op_type == DEQUANTIZE:
        return made
    for index, name in enumerate(node.output):
        kind = types.get(name)
        if kind in _NARROW:
            exact, half = f"{name} before rounding", f"{name} rounded"
            node.output[index] = exact
            made.append(helper.make_node("Cast", [exact], [half], f"{node.name} {index} round", to=kind))
            made.append(helper.make_node("Cast", [half], [name], f"{node.name} {index} widen", to=TensorProto.FLOAT))
    return made


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _NARROW:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
