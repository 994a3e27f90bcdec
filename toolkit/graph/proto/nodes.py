"""Walking the nodes of an ONNX message, subgraphs included."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


ONNX_DOMAINS = frozenset({None, "", "ai.onnx"})
"""How messages and onnx-graphsurgeon's nodes spell the domain of ONNX's own operators."""
MOST_TRIPS = 1_000_000
"""A Loop with a larger number of trips has no limit that anybody meant."""
_LIKE_FIRST = frozenset({"GroupNormalization", "MeanVarianceNormalization", "SimplifiedLayerNormalization"})
"""The last is onnxruntime's, which keeps it in ONNX's domain. Of opset 6 and newer onnx 1.23 infers all others whose
output has their input's shape."""
_LIKE_FIRST_OF = {
    "ai.onnx.ml": frozenset({"Imputer", "Binarizer", "Scaler", "Normalizer"}),
    "com.microsoft": frozenset(
        {"BiasAdd", "BiasGelu", "BiasSoftmax", "FastGelu", "Gelu", "GroupNorm", "QuickGelu", "SkipLayerNormalization",
         "RotaryEmbedding", "SkipSimplifiedLayerNormalization"}
    ),
}  # fmt: skip
"""The same in other domains, of which onnx infers nothing; those of onnxruntime by its ContribOperators.md."""
_MATRIX = 2
_FUSED = {"FusedConv": "Conv", "FusedGemm": "Gemm", "FusedMatMul": "MatMul"}
"""Operators of onnxruntime's with an activation or a factor in them, and those of ONNX's with outputs of that shape."""
_QUERIES, _VALUES = "bsh,btv->bsv", 3
"""The shape of attention's output, by those of queries and values with their heads side by side, and how many inputs
queries, keys and values are."""
_FLOATS = frozenset({"Scaler", "Normalizer"})
"""Those that give float32 for any numbers (ONNX's Operators-ml.md)."""
_INT, _STRING, _FLOAT = 2, 3, 1
"""AttributeProto.INT and STRING and TensorProto.FLOAT, by number since onnx is not loaded here."""
_HOLD = frozenset({5, 10})
_MAY_HOLD = _HOLD | {0}
"""AttributeProto.GRAPH and GRAPHS, and what messages of an IR version before 3 may say: nothing."""
_SUM = 3
"""Where SkipLayerNormalization and its like also give the sum that they normalize."""


def node_words(node: onnx.NodeProto) -> str:
    """How messages name a node: by what it makes where it has no name."""
    made = next(filter(None, node.output), "")
    if made and not node.name:
        return f"the {node.op_type} node that makes '{made}'"
    return f"node '{node.name}' ({node.op_type})"


def keep_first_nodes(graph: onnx.GraphProto, count: int) -> bool:
    """Leave the first nodes of a graph, with all results that none of them reads as outputs, in place.

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
            # of a large graph's many attributes few hold graphs, and asking for a message that is not there is slow
            if attribute.type not in _MAY_HOLD:
                continue
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g.node)
            for sub in attribute.graphs:
                yield from all_nodes(sub.node)


def let_inference_through(graph: onnx.GraphProto) -> None:
    """Make operators of which onnx infers nothing, and whose output is like their first input, an Identity of that.

    To be called on a copy that shapes are inferred of: what these compute is lost.
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
    """Make a fused operator of onnxruntime's one of ONNX's whose first output has its shape, where there is one.

    Args:
        node: the node.
        matrices: names of weights with two axes.
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
                # a matrix of weights is spread over the batch, of which inference knows nothing
                spread = ["" if name in matrices else "..." for name in node.input[:2]]
                _be_einsum(node, f"{spread[0]}{left},{spread[1]}{right}->{max(spread)}ik")
                return
        else:
            kept = [one for one in node.attribute if not one.name.startswith(("activation", "leaky_relu"))]
            del node.attribute[:]
            node.attribute.extend(kept)
        # the sum that a FusedConv may add has the shape of its output
        node.op_type, node.domain, node.input[:] = _FUSED[node.op_type], "", node.input[:3]
    elif node.op_type in ("MultiHeadAttention", "GroupQueryAttention") and len(node.input) >= _VALUES:
        query, key, value = node.input[:_VALUES]
        if not (key and value):
            # all three lie in one tensor
            return
        node.output[:] = node.output[:1]
        if node.op_type == "MultiHeadAttention":
            node.input[:] = [query, value]
            _be_einsum(node, _QUERIES)
        else:
            node.op_type, node.domain, node.input[:] = "Identity", "", [query]
            del node.attribute[:]


def _be_einsum(node: onnx.NodeProto, equation: str) -> None:
    """Make a node the Einsum of its first two inputs."""
    node.op_type, node.domain, node.input[:] = "Einsum", "", node.input[:2]
    del node.attribute[:]
    attribute = node.attribute.add()
    attribute.name, attribute.type, attribute.s = "equation", _STRING, equation.encode()


def operators_of(proto: onnx.ModelProto) -> frozenset[tuple[str, str]]:
    """Domain and name of every operator in a graph and its subgraphs; functions are left out."""
    return frozenset((node.domain, node.op_type) for node in all_nodes(proto.graph.node))


def held_by(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The subgraphs that a node holds itself."""
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
