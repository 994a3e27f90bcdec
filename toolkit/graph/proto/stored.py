"""The tensors stored in an ONNX file, at any place in it, and their sizes in bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import onnx.numpy_helper
from onnx import TensorProto

from toolkit.graph.proto.strangers import operator_of

BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
"""Bits per value by the type's number in ONNX's ``TensorProto.DataType``; strings are not included."""


def stored_tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every stored tensor: initializers, sparse tensors and attributes, including those in subgraphs and functions."""
    yield from _of_graph(proto.graph)
    for function in proto.functions:
        yield from _of_nodes(function.node)
        for attribute in function.attribute_proto:
            yield from _of_attribute(attribute)


def _of_graph(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from _of_attribute(attribute)


def _of_attribute(attribute: onnx.AttributeProto) -> Iterator[TensorProto]:
    # regardless of the attribute's type, since readers differ in the field they use
    for field, held in attribute.ListFields():
        name = field.name
        if name in ("t", "tensors"):
            yield from (held,) if name == "t" else held
        elif name in ("sparse_tensor", "sparse_tensors"):
            for one in (held,) if name == "sparse_tensor" else held:
                yield from (one.values, one.indices)
        elif name in ("g", "graphs"):
            for sub in (held,) if name == "g" else held:
                yield from _of_graph(sub)


def constants_of(body: onnx.GraphProto | onnx.FunctionProto) -> Iterator[tuple[str, TensorProto]]:
    """The constants of a graph or function and its subgraphs, by name: initializers, and values of Constant nodes.

    For sparse tensors these are their stored values.
    """
    if isinstance(body, onnx.GraphProto):
        yield from ((tensor.name, tensor) for tensor in body.initializer)
        yield from ((sparse.values.name, sparse.values) for sparse in body.sparse_initializer)
    for node in body.node:
        tensor = constant_tensor(node) if operator_of(node) == "Constant" and node.output else None
        if tensor is not None:
            yield node.output[0], tensor
        for attribute in node.attribute:
            if attribute.name == "sparse_value" and node.output:
                yield node.output[0], attribute.sparse_tensor.values
            for sub in (attribute.g, *attribute.graphs):
                yield from constants_of(sub)


def constant_tensor(node: onnx.NodeProto) -> TensorProto | None:
    """The value of a Constant node, without a copy if it is a tensor; None for strings and sparse tensors."""
    attribute = node.attribute[0] if len(node.attribute) == 1 else None
    if attribute is None or attribute.ref_attr_name:
        return None
    if attribute.name == "value":
        return attribute.t
    numbers: dict[str, tuple[object, type]] = {
        "value_float": (attribute.f, np.float32),
        "value_floats": (list(attribute.floats), np.float32),
        "value_int": (attribute.i, np.int64),
        "value_ints": (list(attribute.ints), np.int64),
    }
    if attribute.name not in numbers:
        return None
    value, dtype = numbers[attribute.name]
    return onnx.numpy_helper.from_array(np.array(value, dtype))


def value_count(tensor: TensorProto) -> int:
    """The number of values of a tensor according to its dimensions."""
    return math.prod(tensor.dims)


def byte_count(tensor: TensorProto) -> int:
    """The size in bytes of a tensor's values if stored raw; types of less than a byte are packed.

    Raises:
        ValueError: the type has no fixed size, such as strings.
    """
    bits = BITS.get(tensor.data_type)
    if bits is None:
        raise ValueError(f"data type {tensor.data_type} has no size")
    return -(-value_count(tensor) * bits // 8)
