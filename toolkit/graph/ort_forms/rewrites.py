"""onnxruntime rewrites to disable: those that would change a model's results, copy weights, or find nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import onnx
from onnx import helper

from toolkit.graph.ort_forms.kernels import has_kernel
from toolkit.graph.proto.nodes import all_nodes, subgraphs_of
from toolkit.graph.proto.strangers import operator_of

_PRODUCTS = frozenset({"MatMul", "FusedMatMul", "Gemm"})
_NORMS = frozenset({
    "ReduceMean", "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
})  # fmt: skip
_PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})
# the transpose optimizer also removes pairs that follow pairs
_MOVES = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "DepthToSpace", "SpaceToDepth"}) | _PAIRS
_QUERIES = frozenset({"GroupQueryAttention", "MultiHeadAttention", "Attention"})
_BEGINS_AT: dict[str, frozenset[str]] = {
    "MatMulAddFusion": _PRODUCTS,
    "MatmulTransposeFusion": _PRODUCTS,
    "MatMulScaleFusion": _PRODUCTS,
    "MatMulActivationFusion": _PRODUCTS,
    "GemmActivationFusion": _PRODUCTS,
    "AttentionFusion": _PRODUCTS,
    "MatMulNBitsFusion": _PRODUCTS | {"MatMulNBits"},
    "MatMulIntegerToFloatFusion": frozenset({"MatMulInteger"}),
    "DynamicQuantizeMatMulFusion": frozenset({"MatMulInteger", "DynamicQuantizeLinear"}),
    "ConvActivationFusion": frozenset({"Conv", "FusedConv", "NhwcFusedConv"}),
    "ConvAddActivationFusion": frozenset({"Conv", "FusedConv", "NhwcFusedConv"}),
    "ReshapeFusion": frozenset({"Reshape"}),
    "TransposeOptimizer": _MOVES,
    "TransposeOptimizer_CPUExecutionProvider": _MOVES,
    "SliceConcatToSpaceToDepthFusion": frozenset({"Slice"}),
    "GatherSliceToSplitFusion": frozenset({"Gather", "Slice"}),
    "GatherToSliceFusion": frozenset({"Gather"}),
    "GeluFusionL1": frozenset({"Erf"}),
    "GeluFusionL2": frozenset({"Erf"}),
    "FastGeluFusion": frozenset({"Tanh"}),
    "BiasGeluFusion": frozenset({"Erf", "Tanh", "Gelu", "FastGelu"}),
    "QuickGeluFusion": frozenset({"Sigmoid"}),
    "SwiGluFusion": frozenset({"Sigmoid", "Swish", "QuickGelu"}),
    "LayerNormFusionL1": _NORMS,
    "LayerNormFusionL2": _NORMS,
    "SimplifiedLayerNormFusion": _NORMS,
    "SkipLayerNormFusion": _NORMS,
    "BiasSkipLayerNormFusion": _NORMS,
    "EmbedLayerNormFusion": _NORMS,
    "GroupQueryAttentionFusion": _QUERIES,
    "GroupQueryAttentionPreNormFusion": _QUERIES,
    "BiasSoftmaxFusion": frozenset({"Softmax"}),
    "BiasDropoutFusion": frozenset({"Dropout"}),
    "DoubleQDQPairsRemover": _PAIRS,
    "QDQFinalCleanupTransformer": _PAIRS,
}
"""Operators by onnxruntime rewrite: without at least one of them in the graph the rewrite finds nothing.

These are operators of the original model, from which earlier rewrites create the patterns of later ones
(onnxruntime/core/optimizer/graph_transformer_utils.cc).
"""
TAKEN_OUT = frozenset({"Add", "Cast", "Div", "Dropout", "Expand", "Identity", "Mul", "Reshape", "Slice", "Sub"})
"""Operators that onnxruntime removes, or fuses into a MatMul as its factor, before it looks for a Transpose."""


_MATRIX = 2
"""Rank of a matrix."""
_STOPS = frozenset({
    "Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "MatMulInteger", "QLinearConv", "QLinearMatMul",
    "RNN",
})  # fmt: skip
"""Operators that no Transpose is moved across."""
_TURNING = ("TransposeOptimizer", "TransposeOptimizer_CPUExecutionProvider")
_WIDE_NORMS = ("LayerNormFusionL1", "LayerNormFusionL2", "SimplifiedLayerNormFusion")


def wrong_rewrites(proto: onnx.ModelProto) -> list[str]:
    """The rewrites that would change results or crash.

    ``MatmulTransposeFusion`` fuses a Transpose of a MatMul's first operand into the MatMul. If the second operand is a
    vector, onnxruntime 1.32 then multiplies it with rows instead of columns. In float16, if the Transpose makes the
    batch axis one of the matrix axes and the second operand is a weight, the process crashes (SIGSEGV) in the
    optimization for blocked layout.
    ``LayerNormFusion`` fuses a preceding Cast into the normalization, but has no kernel for float64 inputs.
    """
    # whether there is anything to look for takes a tenth of the time that looking takes, at every session
    ops = {operator_of(node) for node in all_nodes(proto.graph.node)}
    wide = {"Cast", "ReduceMean"} <= ops and _computes_in(proto, onnx.TensorProto.DOUBLE)
    products = _wrong_products(proto) if {"Transpose", "MatMul"} <= ops else []
    return [*products, *(_WIDE_NORMS if wide else ())]


def _computes_in(proto: onnx.ModelProto, wanted: int) -> bool:
    """Whether anything is computed in this ONNX type."""
    kinds = {tensor.data_type for tensor in proto.graph.initializer}
    kinds |= {value.type.tensor_type.elem_type for value in proto.graph.input}
    for node in all_nodes(proto.graph.node):
        if operator_of(node) in ("Cast", "Constant"):
            kinds |= {one.i if one.name == "to" else one.t.data_type for one in node.attribute}
    return wanted in kinds


def _wrong_products(proto: onnx.ModelProto) -> list[str]:
    """The fusion of a Transpose into a MatMul, if the model has a form that onnxruntime computes incorrectly."""
    ranks = {tensor.name: len(tensor.dims) for tensor in proto.graph.initializer}
    half = _computes_in(proto, onnx.TensorProto.FLOAT16)
    moved: set[str] = set()
    turned: set[str] = set()
    batched: set[str] = set()
    for node in all_nodes(proto.graph.node):
        op = operator_of(node)
        if op in ("Cast", "DequantizeLinear") and node.input[0] in ranks:
            ranks[node.output[0]] = ranks[node.input[0]]
        elif op == "Transpose":
            # onnxruntime merges two Transposes in a row
            again = not moved.isdisjoint(node.input)
            turned.update(node.output if _turns(node) or again else ())
            batched.update(node.output if _turns_batch(node) or again else ())
            moved.update(node.output)
        elif op in TAKEN_OUT:
            for names in (moved, turned, batched):
                names.update(node.output if not names.isdisjoint(node.input) else ())
        elif op == "MatMul" and node.input[0] in turned and ranks.get(node.input[1], 1) == 1:
            # an operand of unknown rank may be a vector too
            return ["MatmulTransposeFusion"]
        elif op == "MatMul" and half and node.input[0] in batched:
            return ["MatmulTransposeFusion"]
    return []


def wrong_turns(proto: onnx.ModelProto) -> list[str]:
    """The rewrites that would give wrong values around a pair and a Transpose, in the model or in a body in it.

    If a QuantizeLinear reads a Transpose, onnxruntime 1.32 puts another pair before the Transpose, and takes the
    pair's result for what the Transpose has read: an output too, if no other node reads that. A Transpose that it moves
    across a pair and a node that reads the pair is not undone for another reader that leads to a Transpose: that one's
    values are in the wrong order.
    """
    graphs = (proto.graph, *subgraphs_of(proto.graph))
    return list(_TURNING) if any(_rounds_output(graph) or _turns_one_reader(graph) for graph in graphs) else []


def _rounds_output(graph: onnx.GraphProto) -> bool:
    same, turned = {value.name for value in graph.output}, set[str]()
    # what an output is made of by operators that may be taken out, or turns that undo each other, becomes the output
    for node in reversed(graph.node):
        op = operator_of(node)
        if (op == "Transpose" or op in TAKEN_OUT) and not same.isdisjoint(node.output):
            same.update(node.input)
    for node in graph.node:
        op = operator_of(node)
        if op == "Transpose":
            turned.update(node.output if not (same | turned).isdisjoint(node.input) else ())
        elif op in TAKEN_OUT:
            same.update(node.output if not same.isdisjoint(node.input) else ())
            turned.update(node.output if not turned.isdisjoint(node.input) else ())
        elif op == "QuantizeLinear" and node.input[0] in turned:
            return True
    return False


def _turns_one_reader(graph: onnx.GraphProto) -> bool:
    """Whether a pair behind a Transpose has several readers, one of which leads to a Transpose."""
    readers = Counter(name for node in graph.node for name in node.input)
    leads: set[str] = set()
    for node in reversed(graph.node):
        op = operator_of(node)
        if op == "Transpose" or (op not in _STOPS and not leads.isdisjoint(node.output)):
            leads.update(node.input)
    turned: set[str] = set()
    for node in graph.node:
        op = operator_of(node)
        if op == "Transpose" or (op not in _STOPS and not turned.isdisjoint(node.input)):
            turned.update(node.output)
        if op == "DequantizeLinear" and node.output[0] in turned & leads and readers[node.output[0]] > 1:
            return True
    return False


def copying_rewrites(proto: onnx.ModelProto) -> list[str]:
    """The rewrites that would create copies of stored weights, of the same size or several times larger.

    A stored weight read by a DequantizeLinear or Cast would be folded to four or two times its size. A transposed
    weight would be stored again although a MatMul can read it as it is; from 2 GB on onnxruntime 1.32 refuses its own
    result.
    """
    constant = {tensor.name for tensor in proto.graph.initializer}
    turned = False
    for node in proto.graph.node:
        if operator_of(node) != "Constant" and constant.issuperset(filter(None, node.input)):
            constant.update(node.output)
            turned |= operator_of(node) == "Transpose"
    return ["ConstantFolding", *(_TURNING if turned else ())]


def idle_rewrites(operators: Collection[tuple[str, str]]) -> list[str]:
    """The rewrites that would find nothing in a model with these operators, given by domain and name.

    Each of them traverses and sorts the whole graph: together they take a quarter of the time to load a session of
    20,000 nodes (measured with onnxruntime 1.32). The list is empty if an operator is expanded as a function.
    """
    if not all(has_kernel(domain, op) for domain, op in operators):
        return []
    ops = {op for _, op in operators}
    return [rewrite for rewrite, needs in _BEGINS_AT.items() if needs.isdisjoint(ops)]


def _turns(node: onnx.NodeProto) -> bool:
    """Whether onnxruntime can fuse a Transpose into a MatMul: it swaps the last two axes, or moves the first one."""
    perm = _order(node)
    return perm is None or perm[:1] != [0] or perm[-2:] == [len(perm) - 1, len(perm) - 2]


def _turns_batch(node: onnx.NodeProto) -> bool:
    """Whether a Transpose of rank 3 or more moves the first axis."""
    perm = _order(node)
    return perm is not None and len(perm) > _MATRIX and perm[0] != 0


def _order(node: onnx.NodeProto) -> list[int] | None:
    """The permutation of a Transpose; None if it reverses the axes."""
    return next((list(helper.get_attribute_value(one)) for one in node.attribute if one.name == "perm"), None)
