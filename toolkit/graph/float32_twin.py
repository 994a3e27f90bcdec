"""A model with bfloat16 in it, for onnxruntime's CPU provider, which has bfloat16 kernels for few operators.

The twin computes everything in float32: the values that bfloat16 would round, before their rounding.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from toolkit.graph.light import LightModel, is_away
from toolkit.graph.nodes import all_nodes, subgraphs_of
from toolkit.graph.on_disk import spilled
from toolkit.graph.stored import stored_tensors

_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision"})
"""The attributes by which ONNX's operators name the type of a result or of what lies within."""


def widen(model: LightModel) -> bool:
    """Make every bfloat16 of a model float32, in place: weights, types, Casts, subgraphs and functions too.

    A model whose only bfloat16 lies between two Casts stays as it is: onnxruntime rounds there as the model says.

    Returns:
        Whether there was something to widen.
    """
    proto = model.proto
    if not computes_in_bfloat16(proto):
        return False
    for tensor in stored_tensors(proto):
        if tensor.data_type != TensorProto.BFLOAT16:
            continue
        if is_away(tensor):
            tensor.data_type = TensorProto.FLOAT
            model.weights[tensor.name] = spilled(model.weights[tensor.name].astype(np.float32))
        else:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for graph in (proto.graph, *subgraphs_of(proto.graph)):
        for value in (*graph.input, *graph.output, *graph.value_info):
            _widen_type(value.type)
    for function in proto.functions:
        for value in getattr(function, "value_info", ()):
            _widen_type(value.type)
    for node in _nodes(proto):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.INT and attribute.name in _TYPE_ATTRIBUTES:
                attribute.i = TensorProto.FLOAT if attribute.i == TensorProto.BFLOAT16 else attribute.i
            elif attribute.type == AttributeProto.TYPE_PROTO:
                _widen_type(attribute.tp)
    return True


def computes_in_bfloat16(proto: onnx.ModelProto) -> bool:
    """Whether a model holds bfloat16 anywhere but between two Casts."""
    if any(tensor.data_type == TensorProto.BFLOAT16 for tensor in stored_tensors(proto)):
        return True
    for graph in (proto.graph, *subgraphs_of(proto.graph)):
        if any(is_bfloat16(value.type) for value in (*graph.input, *graph.output)):
            return True
    made: set[str] = set()
    for node in _nodes(proto):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.INT and attribute.name in _TYPE_ATTRIBUTES:
                if attribute.i != TensorProto.BFLOAT16:
                    continue
                if node.op_type != "Cast":
                    return True
                made.update(node.output)
    readers = (node for node in _nodes(proto) if node.op_type != "Cast") if made else ()
    return any(name in made for node in readers for name in node.input)


def _nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    bodies = (proto.graph, *proto.functions)
    return [node for body in bodies for node in all_nodes(body.node)]


def is_bfloat16(kind: onnx.TypeProto) -> bool:
    """Whether a type is that of a bfloat16 tensor, or of a sequence or an optional of such."""
    inner = _element(kind)
    return inner is not None and inner.elem_type == TensorProto.BFLOAT16


def _widen_type(kind: onnx.TypeProto) -> None:
    inner = _element(kind)
    if inner is not None and inner.elem_type == TensorProto.BFLOAT16:
        inner.elem_type = TensorProto.FLOAT


def _element(kind: onnx.TypeProto) -> onnx.TypeProto.Tensor | None:
    """The tensor type within a type: of a sequence or an optional the one that it holds."""
    word = kind.WhichOneof("value")
    while word in ("sequence_type", "optional_type"):
        kind = getattr(kind, word).elem_type
        word = kind.WhichOneof("value")
    return kind.tensor_type if word == "tensor_type" else None
