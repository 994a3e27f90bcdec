"""Walking the nodes of an ONNX message, subgraphs included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


ONNX_DOMAINS = frozenset({None, "", "ai.onnx"})
"""How messages and onnx-graphsurgeon's nodes spell the domain of ONNX's own operators."""
_LIKE_FIRST = frozenset({"GroupNormalization", "MeanVarianceNormalization"})
"""Of opset 6 and newer all others whose output has their input's shape are inferred by onnx 1.23."""
_LIKE_FIRST_OF = {
    "ai.onnx.ml": frozenset({"Imputer", "Binarizer", "Scaler", "Normalizer"}),
    "com.microsoft": frozenset(
        {"BiasAdd", "BiasGelu", "BiasSoftmax", "FastGelu", "Gelu", "GroupNorm", "QuickGelu", "SkipLayerNormalization",
         "SkipSimplifiedLayerNormalization"}
    ),
}  # fmt: skip
"""The same in other domains, of which onnx infers nothing; those of onnxruntime by its ContribOperators.md."""
_FLOATS = frozenset({"Scaler", "Normalizer"})
"""Those that give float32 for any numbers (ONNX's Operators-ml.md)."""
_INT, _FLOAT = 2, 1
"""AttributeProto.INT and TensorProto.FLOAT, by number since onnx is not loaded here."""
_SUM = 3
"""Where SkipLayerNormalization and its like also give the sum that they normalize."""


def opset_of(proto: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model says it uses; 0 where it names none."""
    return next((one.version for one in proto.opset_import if one.domain in ONNX_DOMAINS), 0)


def inferred_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """By name the shapes that a graph declares of its own tensors, -1 for unknown sizes; none of unknown rank."""
    found = dict[str, tuple[int, ...]]()
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            found[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return found


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes with those of their subgraphs, each after the node that holds it."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            # asking for a message that is not there is slow
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g.node)
            for sub in attribute.graphs:
                yield from all_nodes(sub.node)


def let_inference_through(graph: onnx.GraphProto) -> None:
    """Make operators of which onnx infers nothing, and whose output is like their first input, an Identity of that.

    To be called on a copy that shapes are inferred of: what these compute is lost.
    """
    for each in inside_out(graph):
        sums: list[tuple[int, str, str]] = []
        for place, node in enumerate(each.node):
            known = _LIKE_FIRST if node.domain in ONNX_DOMAINS else _LIKE_FIRST_OF.get(node.domain, frozenset())
            if node.op_type not in known:
                continue
            if len(node.output) > _SUM and node.output[_SUM]:
                sums.append((place, node.input[0], node.output[_SUM]))
            floats = node.op_type in _FLOATS
            node.op_type, node.domain = "Cast" if floats else "Identity", ""
            node.input[:], node.output[:] = node.input[:1], node.output[:1]
            del node.attribute[:]
            if floats:
                attribute = node.attribute.add()
                attribute.name, attribute.type, attribute.i = "to", _INT, _FLOAT
        for place, first, made in reversed(sums):
            each.node.insert(place, type(node)(op_type="Identity", input=[first], output=[made]))


def operators_of(proto: onnx.ModelProto) -> frozenset[tuple[str, str]]:
    """Domain and name of every operator in a graph and its subgraphs; functions are left out."""
    return frozenset((node.domain, node.op_type) for node in all_nodes(proto.graph.node))


def held_by(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The subgraphs that a node holds itself."""
    for attribute in node.attribute:
        yield from (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ()


def subgraphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The subgraphs of a graph, at any depth."""
    for node in graph.node:
        for sub in held_by(node):
            yield sub
            yield from subgraphs_of(sub)


def inside_out(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """A graph after its subgraphs, each after those within it, so that the nodes of each can be rewritten in turn."""
    return [graph, *subgraphs_of(graph)][::-1]


def reads_of(node: onnx.NodeProto) -> set[str]:
    """Names a node reads, those that its subgraphs take from outside included."""
    found = set(node.input)
    found.discard("")
    for graph in held_by(node) if len(node.attribute) else ():
        own = {name for inner in graph.node for name in inner.output}
        own |= {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        found |= {name for inner in graph.node for name in reads_of(inner)} - own
        found |= {value.name for value in graph.output} - own
    return found
