"""Types of float16 tensors between partitions: float32, as onnxruntime passes them between two nodes.

onnxruntime has few float16 kernels on the CPU. It computes other operators in float32, and omits the Casts between two
of them, so that the tensor in between is never rounded. Partitions must not round it either, or the results of a model
would depend on where it is cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from toolkit.base.types import Array
from toolkit.graph.large_models.cutting import Partition
from toolkit.graph.proto.light import LightModel
from toolkit.graph.proto.strangers import operator_of
from toolkit.graph.proto.survey import TYPE_ATTRIBUTES
from toolkit.graph.shape_inference.inferred import Inferred

HALF = "tensor(float16)"
"""onnxruntime's name of the type."""
_LEFT_OUT = "InsertedPrecisionFreeCast_"
"""Prefix of the names of onnxruntime's own Casts, which it removes if a Cast of the model undoes them
(core/optimizer/insert_cast_transformer.cc)."""


def widen_between_partitions(model: LightModel, partitions: Sequence[Partition]) -> dict[str, str]:
    """The float16 tensors that partitions pass to later ones, with their names as float32 tensors in between."""
    graph = model.proto.graph
    read = {name for one in partitions for name in one.reads}
    handed = {name for one in partitions for name in one.gives if name in read}
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    unknown = {name for name in handed if not kinds.get(name)}
    # shape inference takes about half as long as loading the partitions
    if unknown and not unknown.isdisjoint(_maybe_half(model.proto)):
        kinds = Inferred().facts(model.proto.SerializeToString(), None).types
    return {name: f"{name} in float32" for name in sorted(handed) if kinds.get(name) == TensorProto.FLOAT16}


def _maybe_half(proto: onnx.ModelProto) -> set[str]:
    """The tensors of the main graph that may be float16: computed from float16, or declared so by an attribute."""
    graph = proto.graph
    found = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    found |= {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    if proto.functions or graph.sparse_initializer:
        return {name for node in graph.node for name in node.output}
    for node in graph.node:
        # the result type of a Cast is that of its attribute, and QuantizeLinear never gives float16
        reads = operator_of(node) not in ("Cast", "QuantizeLinear") and not found.isdisjoint(node.input)
        if reads or any(map(_names_half, node.attribute)):
            found.update(node.output)
    return found


def _names_half(attribute: onnx.AttributeProto) -> bool:
    """Whether an attribute names the type float16, or is a graph, which may contain any type."""
    if attribute.type == onnx.AttributeProto.INT:
        return attribute.name in TYPE_ATTRIBUTES and attribute.i == TensorProto.FLOAT16
    if attribute.type == onnx.AttributeProto.TENSOR:
        return bool(attribute.t.data_type == TensorProto.FLOAT16)
    if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
        return bool(attribute.sparse_tensor.values.data_type == TensorProto.FLOAT16)
    return attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def widened(name: str, wide: str) -> list[onnx.NodeProto]:
    """Nodes that pass on a float16 tensor in float32, without rounding.

    Whether or not the producer has a float16 kernel, a Sum has none. The tensor is therefore computed as it would be
    before any other node without a float16 kernel.
    """
    half = f"{name} handed on"
    return [
        helper.make_node("Sum", [name], [half], half),
        helper.make_node("Cast", [half], [wide], wide, to=TensorProto.FLOAT),
    ]


def narrowed(wide: str, name: str) -> list[onnx.NodeProto]:
    """Nodes that restore the float16 tensor for its readers; see ``widened``."""
    half = f"{name} handed on"
    return [
        helper.make_node("Cast", [wide], [half], f"{_LEFT_OUT}{wide}", to=TensorProto.FLOAT16),
        helper.make_node("Sum", [half], [name], half),
    ]


def rounded(values: Array) -> Array:
    """A tensor passed on in float32 as the model would output it: values beyond float16's range become infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16)
