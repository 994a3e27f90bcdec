"""A lowered model for onnxruntime's CPU provider, which would leave float16's rounding out.

The provider has no float16 kernels for most operators: it computes them in float32 and removes the Casts between two
of them, so that what lies in between is never rounded. Here every result is rounded by a Cast in the graph,
which stays: ((x + 8000) - 8000) is x in the provider's float16 and 0 here, as in an engine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from toolkit.graph.model import Model
from toolkit.graph.proto.light import LightModel
from toolkit.graph.proto.on_disk import spilled_as
from toolkit.placement.ops import DEQUANTIZE, MOVERS

_NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_PICKS = frozenset({
    "Relu", "Clip", "Max", "Min", "GlobalMaxPool", "ReduceMax", "ReduceMin", "Abs", "Neg", "Concat", "Where",
    "GatherElements", "GatherND", "TopK",
})  # fmt: skip
"""Operators besides the movers that return values that they read, their negatives or zeros: rounding leaves these as
they are where all that is read was rounded before."""


def with_rounding(lowered: Model, unknown: list[str] | None = None) -> LightModel:
    """The same model in float32, with a Cast to float16 or bfloat16 and back after every node with such a result.

    Without its nodes' metadata, which no session reads. The same inside the bodies of If, Loop and Scan. What only
    moves values or picks among rounded ones rounds nothing, and the result of DequantizeLinear is exact in the layer
    that reads it.

    Args:
        lowered: the model.
        unknown: gets the names of nodes in bodies whose result types are not known: these are not rounded.
    """
    types = lowered.facts().types
    light = lowered.to_light(metadata=False)
    if any(_bodies(node) for node in light.proto.graph.node):
        # names in one body may mean something else in another: each holds what is known of their types
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
    """Widen and round a graph with its bodies, in place.

    Args:
        graph: the graph.
        types: of the tensors that its nodes read and return.
        away: initializers whose values are not in the message.
        unknown: see ``with_rounding``.
        outer: the tensors of the graphs around it that are rounded.
    """
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        _widen_type(value.type)
    for tensor in graph.initializer:
        if tensor.name not in away:
            _widen(tensor)
    nodes = list(graph.node)
    del graph.node[:]
    # what a loop's body reads in a later iteration may differ from the first
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
    """Put float32 in the place of a 16-bit type, also of the tensors of a sequence or of what may be none."""
    field = kind.WhichOneof("value")
    if field in ("sequence_type", "optional_type"):
        _widen_type(getattr(kind, field).elem_type)
    elif field == "tensor_type" and kind.tensor_type.elem_type in _NARROW:
        kind.tensor_type.elem_type = TensorProto.FLOAT


def _rounded(node: onnx.NodeProto, types: Mapping[str, int], rounded: set[str]) -> list[onnx.NodeProto]:
    """A node followed by what rounds its results; ``rounded``, the tensors that are rounded, gets the node's."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            _widen(attribute.t)
        elif attribute.name in ("to", "dtype", "output_dtype") and attribute.i in _NARROW:
            attribute.i = TensorProto.FLOAT
    made = [node]
    moves = node.op_type in MOVERS
    if moves or (node.op_type in _PICKS and not node.domain):
        exact = all(name in rounded for name in node.input if name and types.get(name, 0) in (0, *_NARROW))
        rounded.update(node.output if exact else ())
        if moves or exact:
            return made
    if node.op_type == DEQUANTIZE:
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
    """A Cast; onnx's helper, which finds out types of attributes, takes three times as long for one of 100,000."""
    node = onnx.NodeProto(op_type="Cast", input=[read], output=[made], name=name)
    node.attribute.add(name="to", type=onnx.AttributeProto.INT, i=kind)
    return node


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _NARROW:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
