"""Conversion of a model's types that onnxruntime's CPU provider has few or no kernels for to types that it supports.

A bfloat16 model is computed entirely in float32: its activations are not rounded. Its constants are rounded, including
those that the graph computes from others. FLOAT4E2M1 is stored as E4M3, which represents the same values, and
FLOAT8E8M0 as float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from toolkit.graph.ort_forms.derived_constants import made_in_bfloat16, round_as_bfloat16
from toolkit.graph.proto.light import LightModel, is_detached
from toolkit.graph.proto.nodes import all_nodes, subgraphs_of
from toolkit.graph.proto.on_disk import spilled_as
from toolkit.graph.proto.stored import stored_tensors
from toolkit.graph.proto.strangers import operator_of
from toolkit.graph.proto.survey import TYPE_ATTRIBUTES, Survey, tensor_type
from toolkit.graph.shape_inference.block_functions import declare, is_written_out, round_by_function
from toolkit.graph.surgery.tensors import np_dtype

_WIDER = {TensorProto.BFLOAT16: TensorProto.FLOAT}
_STORABLE = {TensorProto.FLOAT4E2M1: TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E8M0: TensorProto.FLOAT}


def widen(model: LightModel) -> bool:
    """Convert all bfloat16 in a model to float32, in place: weights, types, Casts, subgraphs and functions.

    A model with bfloat16 only between two Casts stays as it is: onnxruntime rounds there as the model requires.

    Returns:
        Whether there was anything to convert.
    """
    if not computes_in_bfloat16(model.proto):
        return False
    made = made_in_bfloat16(model.proto.graph)
    _retype(model, _WIDER)
    # bodies first, since the nodes of a graph are replaced by copies when it gets new ones
    for graph, tensors in reversed(made):
        round_as_bfloat16(graph, tensors)
    return True


def store_otherwise(model: LightModel) -> None:
    """Replace types that onnxruntime knows only by name with types that it can compute with, in place.

    Operators that quantize in blocks get function definitions.
    """
    round_by_function(model.proto)
    if declare(model.proto) or any(tensor.data_type in _STORABLE for tensor in stored_tensors(model.proto)):
        _retype(model, _STORABLE)


def has_other_types(survey: Survey) -> bool:
    """Whether ``store_otherwise`` would change a model, or ``widen`` might."""
    types = survey.types & (_STORABLE.keys() | _WIDER.keys())
    return bool(types) or any(is_written_out(domain, op) for domain, op in survey.operators)


def _retype(model: LightModel, types: Mapping[int, int]) -> None:
    """Replace element types in tensors, value types, attributes, subgraphs and functions."""
    proto = model.proto
    for tensor in stored_tensors(proto):
        if tensor.data_type not in types:
            continue
        kind = types[tensor.data_type]
        if is_detached(tensor):
            tensor.data_type = kind
            model.weights[tensor.name] = spilled_as(model.weights[tensor.name], np_dtype(kind))
        else:
            # numpy converts some of these types only to float32
            values = numpy_helper.to_array(tensor).astype(np.float32).astype(np_dtype(kind))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for graph in (proto.graph, *subgraphs_of(proto.graph)):
        for value in (*graph.input, *graph.output, *graph.value_info):
            _retype_value(value.type, types)
    for function in proto.functions:
        for value in getattr(function, "value_info", ()):
            _retype_value(value.type, types)
    for node in _nodes(proto):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.INT and attribute.name in TYPE_ATTRIBUTES:
                attribute.i = types.get(attribute.i, attribute.i)
            elif attribute.type == AttributeProto.TYPE_PROTO:
                _retype_value(attribute.tp, types)


def computes_in_bfloat16(proto: onnx.ModelProto) -> bool:
    """Whether a model has bfloat16 anywhere except between two Casts."""
    if any(tensor.data_type == TensorProto.BFLOAT16 for tensor in stored_tensors(proto)):
        return True
    for graph in (proto.graph, *subgraphs_of(proto.graph)):
        if any(is_bfloat16(value.type) for value in (*graph.input, *graph.output)):
            return True
    made: set[str] = set()
    for node in _nodes(proto):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.INT and attribute.name in TYPE_ATTRIBUTES:
                if attribute.i != TensorProto.BFLOAT16:
                    continue
                if operator_of(node) != "Cast":
                    return True
                made.update(node.output)
    readers = (node for node in _nodes(proto) if operator_of(node) != "Cast") if made else ()
    return any(name in made for node in readers for name in node.input)


def _nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    bodies = (proto.graph, *proto.functions)
    return [node for body in bodies for node in all_nodes(body.node)]


def is_bfloat16(kind: onnx.TypeProto) -> bool:
    """Whether a type is a bfloat16 tensor, or a sequence or optional of bfloat16 tensors."""
    inner = tensor_type(kind)
    return inner is not None and inner.elem_type == TensorProto.BFLOAT16


def _retype_value(kind: onnx.TypeProto, types: Mapping[int, int]) -> None:
    inner = tensor_type(kind)
    if inner is not None:
        inner.elem_type = types.get(inner.elem_type, inner.elem_type)
