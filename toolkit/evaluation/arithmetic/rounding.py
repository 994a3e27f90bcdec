"""Insert the rounding of 16-bit floats into a lowered model as Casts, because onnxruntime's CPU provider omits it.

The provider has no float16 kernels for most operators. It computes them in float32 and removes the Casts between two of
them, so that the tensors between them are never rounded. Here every result is rounded by a Cast in the graph that the
provider keeps: for small x, ((x + 8000) - 8000) is x in the provider's float16, but 0 here, as in an engine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from toolkit.graph.model import Model
from toolkit.graph.proto.light import LightModel
from toolkit.graph.proto.on_disk import spilled_as
from toolkit.graph.proto.strangers import operator_of
from toolkit.placement.ops import DEQUANTIZE, MOVERS

_NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_PICKS = frozenset({
    "Relu", "Clip", "Max", "Min", "GlobalMaxPool", "ReduceMax", "ReduceMin", "Abs", "Neg", "Concat", "Where",
    "GatherElements", "GatherND", "TopK",
})  # fmt: skip
"""Operators, besides the movers, that only return values of their inputs, their negatives or zeros: if the inputs are
rounded, so are the outputs."""


def with_rounding(lowered: Model, unknown: list[str] | None = None) -> LightModel:
    """The model in float32, with a Cast to float16 or bfloat16 and back after every node with a result of that type.

    This includes the subgraphs of If, Loop and Scan. No Casts follow nodes that only move values or select among
    rounded ones, nor DequantizeLinear, whose exact result the reading layer uses. Nodes' metadata, which no session
    reads, is dropped.

    Args:
        lowered: the model, which is not changed.
        unknown: receives the names of nodes in subgraphs whose result types are not known; they are not rounded.
    """
    types = lowered.facts().types
    light = lowered.to_light(metadata=False)
    if any(_bodies(node) for node in light.proto.graph.node):
        # names may denote different tensors in different subgraphs, so types are inferred into each subgraph
        light.proto.CopyFrom(onnx.shape_inference.infer_shapes(light.proto))
    graph = light.proto.graph
    for tensor in graph.initializer:
        if tensor.name in light.weights and tensor.data_type in _NARROW:
            tensor.data_type = TensorProto.FLOAT
            light.weights[tensor.name] = spilled_as(light.weights[tensor.name], np.dtype(np.float32))
    _round_graph(graph, types, light.weights, [] if unknown is None else unknown, frozenset())
    return light


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [one for attribute in node.attribute for one in _graphs(attribute)]


def _graphs(attribute: onnx.AttributeProto) -> Sequence[onnx.GraphProto]:
    if attribute.type == onnx.AttributeProto.GRAPH:
        return [attribute.g]
    return attribute.graphs if attribute.type == onnx.AttributeProto.GRAPHS else []


def _round_graph(
    graph: onnx.GraphProto, types: Mapping[str, int], away: Collection[str], unknown: list[str], outer: Set[str]
) -> None:
    """Widen a graph and its subgraphs to float32 and insert the rounding, in place.

    Args:
        types: the types of the tensors that its nodes read and return, as ``onnx.TensorProto`` constants.
        away: names of initializers whose values are stored outside the message.
        unknown: see ``with_rounding``.
        outer: names of the tensors in enclosing graphs that are rounded.
    """
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        _widen_type(value.type)
    for tensor in graph.initializer:
        if tensor.name not in away:
            _widen(tensor)
    nodes = list(graph.node)
    del graph.node[:]
    # inputs are not among them: a loop's subgraph may read unrounded values in later iterations
    rounded = {*outer, *(tensor.name for tensor in graph.initializer)}
    for node in nodes:
        for body in _bodies(node):
            values = (*body.value_info, *body.input, *body.output)
            own = {one.name: one.type.tensor_type.elem_type for one in values if one.type.HasField("tensor_type")}
            inner = {*_given(body), *(name for one in body.node for name in one.output)}
            typed = {one.name for one in values if not one.type.HasField("tensor_type") or own[one.name]}
            unknown += [one.name for one in body.node if not typed.issuperset(filter(None, one.output))]
            seen = {name: kind for name, kind in types.items() if name not in inner}
            _round_graph(body, {**seen, **own}, (), unknown, rounded - inner)
        graph.node.extend(_rounded(node, types, rounded))


def _given(graph: onnx.GraphProto) -> list[str]:
    return [one.name for one in (*graph.input, *graph.initializer)]


def _widen_type(kind: onnx.TypeProto) -> None:
    """Replace a 16-bit type by float32, in place, also that of the tensors in a sequence or optional type."""
    field = kind.WhichOneof("value")
    if field in ("sequence_type", "optional_type"):
        _widen_type(getattr(kind, field).elem_type)
    elif field == "tensor_type" and kind.tensor_type.elem_type in _NARROW:
        kind.tensor_type.elem_type = TensorProto.FLOAT


def _rounded(node: onnx.NodeProto, types: Mapping[str, int], rounded: set[str]) -> list[onnx.NodeProto]:
    """The node and the Casts that round its results; those results are added to ``rounded``.

    Args:
        node: the node, which is changed.
        types: the types of the tensors, as ``onnx.TensorProto`` constants.
        rounded: names of the tensors that are rounded; it is extended.
    """
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            _widen(attribute.t)
        elif attribute.name in ("to", "dtype", "output_dtype") and attribute.i in _NARROW:
            attribute.i = TensorProto.FLOAT
    made = [node]
    moves = operator_of(node) in MOVERS
    if moves or (node.op_type in _PICKS and not node.domain):
        exact = all(name in rounded for name in node.input if name and types.get(name, 0) in (0, *_NARROW))
        rounded.update(node.output if exact else ())
        if moves or exact:
            return made
    if operator_of(node) == DEQUANTIZE:
        return made
    for index, name in enumerate(node.output):
        kind = types.get(name, 0)
        if kind in _NARROW:
            rounded.add(name)
            before, half = f"{name} before rounding", f"{name} rounded"
            node.output[index] = before
            made.append(_cast(before, half, f"{node.name} {index} round", kind))
            made.append(_cast(half, name, f"{node.name} {index} widen", TensorProto.FLOAT))
    return made


def _cast(read: str, made: str, name: str, kind: int) -> onnx.NodeProto:
    """A Cast node; onnx's helper infers attribute types and takes three times as long, too long for 100,000 nodes."""
    node = onnx.NodeProto(op_type="Cast", input=[read], output=[made], name=name)
    node.attribute.add(name="to", type=onnx.AttributeProto.INT, i=kind)
    return node


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _NARROW:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
