"""Operators and types in a message, collected in one traversal of its nodes, which is slow for large graphs."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import AttributeProto

from toolkit.graph.proto.nodes import all_nodes, subgraphs_of
from toolkit.graph.proto.stored import stored_tensors

TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision"})
"""Attributes in which ONNX's operators name the type of a result or of intermediate values."""

_NUMBERS = frozenset({
    AttributeProto.INTS, AttributeProto.FLOAT, AttributeProto.FLOATS, AttributeProto.STRING, AttributeProto.STRINGS,
})  # fmt: skip


@dataclass(frozen=True)
class Survey:
    """The operators and types in a model.

    Attributes:
        operators: domain and name of every operator in the graph and its subgraphs, without functions.
        types: the element types (ONNX's ``TensorProto.DataType``) of stored tensors, of inputs and outputs, and of
            results whose type an attribute names, including subgraphs and functions.
    """

    operators: frozenset[tuple[str, str]]
    types: frozenset[int]

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> Survey:
        """Collect the survey of a message."""
        operators, types = set[tuple[str, str]](), set[int]()
        attributes = False
        for node in all_nodes(proto.graph.node):
            operators.add((node.domain, node.op_type))
            attributes |= _look(node, types)
        for function in proto.functions:
            for node in all_nodes(function.node):
                attributes |= _look(node, types)
            attributes |= bool(function.attribute_proto)
        if attributes:
            types.update(one.data_type for one in stored_tensors(proto))
        else:
            types.update(one.data_type for one in proto.graph.initializer)
            types.update(one.values.data_type for one in proto.graph.sparse_initializer)
        for graph in (proto.graph, *(subgraphs_of(proto.graph) if attributes else ())):
            for value in (*graph.input, *graph.output):
                if (held := tensor_type(value.type)) is not None:
                    types.add(held.elem_type)
        return cls(frozenset(operators), frozenset(types))


def _look(node: onnx.NodeProto, types: set[int]) -> bool:
    """Add the types named in a node's attributes; returns whether an attribute may hold a tensor or graph."""
    holds = False
    for attribute in node.attribute:
        kind = attribute.type
        if kind == AttributeProto.INT:
            if attribute.name in TYPE_ATTRIBUTES:
                types.add(attribute.i)
        elif kind not in _NUMBERS:
            holds = True
    return holds


def tensor_type(kind: onnx.TypeProto) -> onnx.TypeProto.Tensor | None:
    """The tensor type of a type, or the element type of a sequence or optional; None for other types."""
    word = kind.WhichOneof("value")
    while word in ("sequence_type", "optional_type"):
        kind = getattr(kind, word).elem_type
        word = kind.WhichOneof("value")
    return kind.tensor_type if word == "tensor_type" else None
