"""Traversal of the nodes of an ONNX message, including subgraphs."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


ONNX_DOMAINS = frozenset({None, "", "ai.onnx"})
"""The domain of ONNX's own operators in messages and in onnx-graphsurgeon's nodes."""
SAME_VALUES = frozenset({"Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})
"""Operators whose output holds exactly the values of their first input, in another shape or order."""
MOST_TRIPS = 1_000_000
"""Loops with a larger trip count are considered unlimited."""
_LIKE_FIRST = frozenset({"GroupNormalization", "MeanVarianceNormalization", "SimplifiedLayerNormalization"})
"""The last one is onnxruntime's, which uses ONNX's domain. From opset 6 on, onnx 1.23 infers all other operators with
outputs of their input's shape."""
_LIKE_FIRST_OF = {
    "ai.onnx.ml": frozenset({"Imputer", "Binarizer", "Scaler", "Normalizer"}),
    "com.microsoft": frozenset(
        {"BiasAdd", "BiasGelu", "BiasSoftmax", "FastGelu", "Gelu", "GroupNorm", "QuickGelu", "SkipLayerNormalization",
         "RotaryEmbedding", "SkipSimplifiedLayerNormalization"}
    ),
}  # fmt: skip
"""The same for other domains, in which onnx infers nothing; onnxruntime's according to its ContribOperators.md."""
_MATRIX = 2
_FUSED = {"FusedConv": "Conv", "FusedGemm": "Gemm", "FusedMatMul": "MatMul"}
"""onnxruntime's operators with a fused activation or factor, and ONNX's operators with the same output shape."""
_QUERIES, _VALUES = "bsh,btv->bsv", 3
"""The shape of attention's output from those of queries and values, which have their heads side by side, and the number
of inputs for queries, keys and values."""
_FLOATS = frozenset({"Scaler", "Normalizer"})
"""Operators that give float32 for any numeric input (ONNX's Operators-ml.md)."""
_INT, _STRING, _FLOAT = 2, 3, 1
"""AttributeProto.INT and STRING and TensorProto.FLOAT as numbers, since onnx is not imported here."""
_HOLD = frozenset({5, 10})
_MAY_HOLD = _HOLD | {0}
"""AttributeProto.GRAPH and GRAPHS, and 0, since messages of IR versions before 3 may omit the type."""
_SUM = 3
"""Index of the output with the sum that SkipLayerNormalization and similar operators normalize."""


def node_words(node: onnx.NodeProto) -> str:
    """A node's name in messages; a node without a name is identified by its output."""
    made = next(filter(None, node.output), "")
    if made and not node.name:
        return f"the {node.op_type} node that produces '{made}'"
    return f"node '{node.name}' ({node.op_type})"


def keep_first_nodes(graph: onnx.GraphProto, count: int) -> bool:
    """Keep only the first nodes of a graph, with all their unread results as outputs, in place.

    Returns:
        Whether there are any outputs.
    """
    del graph.node[count:]
    read = {name for node in graph.node for name in reads_of(node)}
    ends = [name for node in graph.node for name in node.output if name and name not in read]
    del graph.output[:]
    for name in ends:
        graph.output.add(name=name)
    return bool(ends)


def opset_of(proto: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model declares; 0 if it declares none."""
    return next((one.version for one in proto.opset_import if one.domain in ONNX_DOMAINS), 0)


def inferred_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Declared shapes of a graph's own tensors by name, -1 for unknown sizes; without tensors of unknown rank."""
    found = dict[str, tuple[int, ...]]()
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            found[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return found


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes including those of subgraphs, each after the node that contains it."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            # few of a large graph's many attributes are graphs, and accessing an unset message is slow
            if attribute.type not in _MAY_HOLD:
                continue
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g.node)
            for sub in attribute.graphs:
                yield from all_nodes(sub.node)


def let_inference_through(graph: onnx.GraphProto) -> None:
    """Replace operators unknown to onnx's inference, with outputs like their first input, by an Identity.

    For use on a copy for shape inference only, since the computation is lost.
    """
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == _MATRIX}
    for each in inside_out(graph):
        sums: list[tuple[int, str, str]] = []
        for place, node in enumerate(each.node):
            known = _LIKE_FIRST if node.domain in ONNX_DOMAINS else _LIKE_FIRST_OF.get(node.domain, frozenset())
            if node.domain == "com.microsoft":
                _as_onnx(node, matrices)
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


def _as_onnx(node: onnx.NodeProto, matrices: Container[str]) -> None:
    """Replace a fused operator of onnxruntime by one of ONNX with the same shape of its first output, if there is one.

    Args:
        matrices: names of weights of rank 2.
    """
    given = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type in _FUSED:
        turned = [name for name in ("transA", "transB") if name in given and given[name].i]
        if node.op_type == "FusedMatMul":
            if any(name in given and given[name].i for name in ("transBatchA", "transBatchB")):
                return
            del node.attribute[:]
            if turned:
                left, right = "ji" if "transA" in turned else "ij", "kj" if "transB" in turned else "jk"
                # a weight matrix gets no ellipsis: inference does not broadcast it over the batch
                spread = ["" if name in matrices else "..." for name in node.input[:2]]
                _be_einsum(node, f"{spread[0]}{left},{spread[1]}{right}->{max(spread)}ik")
                return
        else:
            kept = [one for one in node.attribute if not one.name.startswith(("activation", "leaky_relu"))]
            del node.attribute[:]
            node.attribute.extend(kept)
        # the tensor that a FusedConv may add has the shape of its output
        node.op_type, node.domain, node.input[:] = _FUSED[node.op_type], "", node.input[:3]
    elif node.op_type in ("MultiHeadAttention", "GroupQueryAttention") and len(node.input) >= _VALUES:
        query, key, value = node.input[:_VALUES]
        if not (key and value):
            # all three are packed in one tensor
            return
        node.output[:] = node.output[:1]
        if node.op_type == "MultiHeadAttention":
            node.input[:] = [query, value]
            _be_einsum(node, _QUERIES)
        else:
            node.op_type, node.domain, node.input[:] = "Identity", "", [query]
            del node.attribute[:]


def _be_einsum(node: onnx.NodeProto, equation: str) -> None:
    """Turn a node into an Einsum of its first two inputs."""
    node.op_type, node.domain, node.input[:] = "Einsum", "", node.input[:2]
    del node.attribute[:]
    attribute = node.attribute.add()
    attribute.name, attribute.type, attribute.s = "equation", _STRING, equation.encode()


def operators_of(proto: onnx.ModelProto) -> frozenset[tuple[str, str]]:
    """Domain and name of every operator in a graph and its subgraphs, without functions."""
    return frozenset((node.domain, node.op_type) for node in all_nodes(proto.graph.node))


def held_by(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The subgraphs in a node's own attributes."""
    for attribute in node.attribute:
        if attribute.type in _HOLD:
            yield from (attribute.g, *attribute.graphs)


def subgraphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The subgraphs of a graph, at any depth."""
    for node in graph.node:
        for sub in held_by(node):
            yield sub
            yield from subgraphs_of(sub)


def inside_out(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """A graph and its subgraphs, innermost first, so that the nodes of each can be rewritten in turn."""
    return [graph, *subgraphs_of(graph)][::-1]


def reads_of(node: onnx.NodeProto) -> set[str]:
    """The names that a node reads, including outer names that its subgraphs read."""
    found = set(node.input)
    found.discard("")
    for graph in held_by(node) if len(node.attribute) else ():
        own = {name for inner in graph.node for name in inner.output}
        own |= {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        found |= {name for inner in graph.node for name in reads_of(inner)} - own
        found |= {value.name for value in graph.output} - own
    return found
