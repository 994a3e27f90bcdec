"""Values of a model's shape arithmetic, computed from known shapes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from toolkit.graph.proto.nodes import ONNX_DOMAINS, inferred_shapes
from toolkit.graph.proto.strangers import operator_of
from toolkit.graph.shape_inference.node_values import run_node

_MOST = 256
"""Largest number of elements in shape arithmetic: shapes and indices are small."""
_MAKERS = frozenset({
    "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "CumSum", "Div", "Equal",
    "Expand", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Greater", "GreaterOrEqual", "Identity",
    "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "NonZero", "Not", "Or", "Pow", "Range", "ReduceMax",
    "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round", "ScatterElements", "ScatterND", "Shape", "Size",
    "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where", "Xor",
})  # fmt: skip
_NUMBERS = frozenset({"value_int", "value_ints", "value_float", "value_floats"})
"""Attributes of a Constant that hold numbers instead of a tensor."""


def with_known_values(model: onnx.ModelProto, inferred: onnx.GraphProto) -> onnx.ModelProto | None:
    """The model with its shape arithmetic computed as far as ``inferred`` shapes allow; None if nothing is new.

    ONNX's own data propagation does not support Div, Pow or Cast to float, which exporters use for the size of a head.

    Args:
        model: a model with fixed input shapes.
        inferred: its graph after shape inference.
    """
    values, found = _known_values(model, inferred)
    if not found:
        return None
    out = deepcopy(model)
    del out.graph.node[:]
    out.graph.node.extend(node for node in model.graph.node if not any(name in found for name in node.output))
    held = {tensor.name for tensor in out.graph.initializer}
    out.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(values[name]), name) for name in found if name not in held
    )
    return out


def trip_counts(model: onnx.ModelProto, inferred: onnx.GraphProto) -> dict[str, int]:
    """The largest number of trips of the main graph's Loops, by trip count tensor, if it follows from shapes.

    Exporters compute the trip count from the length of an input.

    Args:
        model: a model with fixed input shapes.
        inferred: its graph after shape inference.
    """
    counts = {node.input[0] for node in model.graph.node if operator_of(node) == "Loop" and node.input}
    values, _ = _known_values(model, inferred) if counts else ({}, {})
    return {name: int(values[name].reshape(-1)[0]) for name in counts if name in values and values[name].size == 1}


def _known_values(
    model: onnx.ModelProto, inferred: onnx.GraphProto
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, onnx.NodeProto]]:
    """Values by tensor, and the computing node of each computed one, by output."""
    shapes = inferred_shapes(inferred)
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    values: dict[str, np.ndarray[Any, Any]] = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if np.prod(tensor.dims) <= _MOST and _holds_values(tensor)
    }
    found: dict[str, onnx.NodeProto] = {}
    opsets = list(model.opset_import)
    for node in model.graph.node:
        made = _computed(node, values, shapes, opsets)
        if made is not None:
            values |= made
            found |= dict.fromkeys(made, node)
    return values, found


def _holds_values(tensor: TensorProto) -> bool:
    """Whether a tensor has its values: large weights have none in a skeleton."""
    fields = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")
    return tensor.data_location != TensorProto.EXTERNAL and any(
        tensor.HasField(f) if f == "raw_data" else len(getattr(tensor, f)) for f in fields
    )


def _computed(
    node: onnx.NodeProto, values: dict[str, np.ndarray[Any, Any]], shapes: dict[str, tuple[int, ...]], opsets: list[Any]
) -> dict[str, np.ndarray[Any, Any]] | None:
    """A node's outputs by name; None if it is not shape arithmetic, or if an input's value is unknown."""
    if node.domain not in ONNX_DOMAINS or not node.output or node.op_type not in _MAKERS:
        return None
    if operator_of(node) in ("Shape", "Size"):
        extents = _extents(node, shapes.get(node.input[0]) if node.input else None)
        return {node.output[0]: extents} if extents is not None else None
    return _constant(node, opsets) if operator_of(node) == "Constant" else _run(node, values, opsets)


def _constant(node: onnx.NodeProto, opsets: list[Any]) -> dict[str, np.ndarray[Any, Any]] | None:
    """The value of a Constant, by output; None if it is a string, sparse or large."""
    attributes = {one.name: one for one in node.attribute}
    if "value" in attributes:
        tensor = attributes["value"].t
        return {node.output[0]: numpy_helper.to_array(tensor)} if np.prod(tensor.dims) <= _MOST else None
    return _run(node, {}, opsets) if _NUMBERS & attributes.keys() else None


def _extents(node: onnx.NodeProto, shape: tuple[int, ...] | None) -> np.ndarray[Any, Any] | None:
    """The result of a Shape or Size for a tensor of this shape, int64; None if a dimension is unknown."""
    if shape is None or -1 in shape:
        return None
    if operator_of(node) == "Size":
        return np.asarray(np.prod(shape, dtype=np.int64))
    part = {one.name: one.i for one in node.attribute}
    return np.asarray(shape[part.get("start", 0) : part.get("end")], np.int64)


def _run(
    node: onnx.NodeProto, values: dict[str, np.ndarray[Any, Any]], opsets: list[Any]
) -> dict[str, np.ndarray[Any, Any]] | None:
    """A node's outputs from ONNX's reference implementation, by name; None if an input is unknown or large."""
    if any(name and name not in values for name in node.input):
        return None
    inputs = {name: values[name] for name in node.input if name}
    if sum(value.size for value in inputs.values()) > _MOST:
        return None
    try:
        made = run_node(node, inputs, opsets)
    except Exception:  # whatever the reference implementation raises: the shape stays unknown
        return None
    if any(value.size > _MOST for value in made):
        return None
    return {name: np.asarray(value) for name, value in zip(node.output, made) if name}
