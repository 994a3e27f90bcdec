"""What is in a message, found in one walk over its nodes: most questions about a large graph are answered here."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import AttributeProto

from toolkit.graph.proto.nodes import all_nodes, subgraphs_of
from toolkit.graph.proto.stored import stored_tensors

TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision"})
"""The attributes by which ONNX's operators name the type of a result or of what lies within."""

_NUMBERS = frozenset({
    AttributeProto.INTS, AttributeProto.FLOAT, AttributeProto.FLOATS, AttributeProto.STRING, AttributeProto.STRINGS,
})  # fmt: skip


@dataclass(frozen=True)
class Survey:
    """What is in a model.

    Attributes:
        operators: domain and name of every operator in the graph and its subgraphs, functions left out.
        types: the element types, as in ONNX's ``TensorProto.DataType``, of what is stored, of inputs and outputs, and
            of results whose type an attribute names; in subgraphs and functions too.
    """

    operators: frozenset[tuple[str, str]]
    types: frozenset[int]

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> Survey:
        """The survey of a message."""
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
    """Note the types that a node's attributes name; whether one of them may hold a tensor or a graph."""
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
    """The tensor type within a type: of a sequence or an optional the one that it holds; None where it is another."""
    word = kind.WhichOneof("value")
    while word in ("sequence_type", "optional_type"):
        kind = getattr(kind, word).elem_type
        word = kind.WhichOneof("value")
    return kind.tensor_type if word == "tensor_type" else None
