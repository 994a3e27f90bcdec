"""Multiply-accumulates of single operators, counted from their shapes.

A multiply-accumulate is one product that is added to a sum; element-wise products, interpolation and softmax have none.
Operators are those of ONNX (https://onnx.ai/onnx/operators) and of onnxruntime's domain com.microsoft
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from toolkit.graph.shape_inference.facts import Facts

_RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
_CONVOLUTIONS = ("Conv", "FusedConv", "NhwcConv", "NhwcFusedConv", "DeformConv", "ConvInteger", "QLinearConv")
_PRODUCTS = ("MatMul", "FusedMatMul", "TransposeMatMul", "FusedMatMulActivation", "MatMulInteger", "MatMulInteger16",
             "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul")  # fmt: skip
_MIXTURES = ("MoE", "QMoE")


def macs(node: Any, facts: Facts) -> int | None:
    """Multiply-accumulates of one execution of a node; 0 for operators without any.

    Counted are convolutions and matrix products, of floats and integers, LSTM, GRU, RNN, Einsum, ONNX's Attention, and
    com.microsoft's Attention, MultiHeadAttention and GroupQueryAttention.

    Returns:
        None if the shapes are not known, or for an attention variant that is not supported here.
    """
    formula = _FORMULAS.get(node.op)
    if formula is None:
        return None if node.op.endswith("Attention") or node.op in _MIXTURES else 0
    return formula(node, facts)


def shape_of(facts: Facts, tensor: str) -> Sequence[int] | None:
    """The shape of a tensor at the last corner; None if a dimension is not known."""
    shapes = facts.shapes.get(tensor)
    if not shapes or any(size < 0 for size in shapes[-1]):
        return None
    return shapes[-1]


def _shape(node: Any, facts: Facts, index: int) -> Sequence[int] | None:
    """The shape of an input; None if it is not known or not given."""
    return shape_of(facts, node.inputs[index].name) if _given(node, index) else None


def _given(node: Any, index: int) -> bool:
    return len(node.inputs) > index and not node.inputs[index].is_empty()


def _convolution(node: Any, facts: Facts) -> int | None:
    """For each output element, the number of weights of its channel's filter.

    Weights are [M, C / group, kernel], or [M, kernel, C / group] in com.microsoft's channels-last forms. QLinearConv's
    follow the scale and zero point of the activation.
    """
    weight, out = _shape(node, facts, 3 if node.op == "QLinearConv" else 1), shape_of(facts, node.outputs[0].name)
    return None if weight is None or out is None else math.prod(out) * math.prod(weight[1:])


def _transposed_convolution(node: Any, facts: Facts) -> int | None:
    """For each input element, the number of weights of its channel, [C, M / group, kernel]."""
    data, weight = _shape(node, facts, 0), _shape(node, facts, 1)
    return None if weight is None or data is None else math.prod(data) * math.prod(weight[1:])


def _gemm(node: Any, facts: Facts) -> int | None:
    """M N K for A' [M, K] and B' [K, N]."""
    data, out = _shape(node, facts, 0), shape_of(facts, node.outputs[0].name)
    return None if data is None or out is None else math.prod(out) * data[0 if node.attrs.get("transA", 0) else -1]


def _product(node: Any, facts: Facts) -> int | None:
    """For each output element, the number K of elements summed, as in numpy.matmul.

    For com.microsoft's FusedMatMul with ``transA``, A is [..., K, M]; with ``transBatchA``, the batch axes follow the
    first axis: [M, ..., K], or with both [K, ..., M].
    """
    data, out = _shape(node, facts, 0), shape_of(facts, node.outputs[0].name)
    if not data or out is None:
        return None
    turned, batched = node.attrs.get("transA", 0), node.attrs.get("transBatchA", 0)
    if not turned or len(data) < 2:
        return math.prod(out) * data[-1]
    return math.prod(out) * data[0 if batched else -2]


def _narrow_product(node: Any, facts: Facts) -> int | None:
    """As for MatMul, with weights [K, N] stored in few bits, where K and N are attributes."""
    data = _shape(node, facts, 0)
    return None if data is None else math.prod(data) * int(node.attrs["N"])


def _recurrent(node: Any, facts: Facts) -> int | None:
    """For each element of a sequence, the number of weights of input and state, in every direction.

    The gates are W x + R h. For ONNX's LSTM, W is [directions, 4 hidden, input] and R [directions, 4 hidden, hidden];
    GRU has 3 gates, RNN one. Biases, peepholes and activations are element-wise. Sequences count at their full length.
    """
    data, weight, recurrent = (_shape(node, facts, index) for index in range(3))
    if data is None or weight is None or recurrent is None:
        return None
    return data[0] * data[1] * (math.prod(weight) + math.prod(recurrent))


def _attention(node: Any, facts: Facts) -> int | None:
    """For softmax(Q K^T) V: B Hq Lq keys (dk + dv), where ``keys`` is the length of past and present.

    ONNX's Attention (opset 23) has Q [B, heads, Lq, dk], or [B, Lq, heads * dk] with the numbers of heads as
    attributes; keys and values may have fewer heads, each of which serves several of Q. Masks do not reduce the count:
    a causal product counts in full. com.microsoft's Attention makes Q, K and V from one input and one weight first.
    """
    if node.domain == "com.microsoft":
        return _attention_with_projection(node, facts)
    query, key, value = (_shape(node, facts, index) for index in range(3))
    if query is None or key is None or value is None or not len(query) == len(key) == len(value):
        return None
    past = _past(node, facts, 4)
    if past is None:
        return None
    if len(query) == 4:
        batch, heads, length, depth = query
        return batch * heads * length * (key[2] + past) * (depth + value[3])
    heads, groups = int(node.attrs.get("q_num_heads", 0)), int(node.attrs.get("kv_num_heads", 0))
    if len(query) != 3 or not heads or not groups:
        return None
    return query[0] * query[1] * (key[1] + past) * (query[2] + heads * value[2] // groups)


def _attention_with_projection(node: Any, facts: Facts) -> int | None:
    """For input [B, L, C] and weight [C, q + k + v]: B L C (q + k + v), then B L keys (q + v).

    q, k and v are from the attribute ``qkv_hidden_sizes``, else a third of the weight each; past is [2, B, heads, P,
    d].
    """
    data, weight, past = _shape(node, facts, 0), _shape(node, facts, 1), _past(node, facts, 4)
    if data is None or weight is None or past is None or len(data) != 3 or len(weight) != 2:
        return None
    sizes = list(node.attrs.get("qkv_hidden_sizes", ())) or [weight[1] // 3] * 3
    batch, length, _ = data
    return batch * length * (math.prod(weight) + (length + past) * (sizes[0] + sizes[2]))


def _multi_head_attention(node: Any, facts: Facts) -> int | None:
    """Multiply-accumulates of com.microsoft's MultiHeadAttention, counted like ONNX's Attention.

    Query is [B, Lq, heads * dk], with key [B, L, heads * dk] and value [B, L, heads * dv], or both as [B, heads, L, d]
    in cross-attention; query and keys may be packed as [B, L, heads, 2 or 3, d].
    """
    query, key, value, past = *(_shape(node, facts, index) for index in range(3)), _past(node, facts, 6)
    if query is None or past is None:
        return None
    if len(query) == 5:
        batch, length, heads, _, depth = query
        return 2 * batch * heads * length * (length + past) * depth
    if key is None or len(query) != 3:
        return None
    batch, length, wide = query
    if len(key) == 5:
        return 2 * batch * length * (key[1] + past) * wide
    if value is None or len(key) != len(value):
        return None
    if len(key) == 4:
        return batch * length * key[2] * (wide + value[1] * value[3])
    return batch * length * (key[1] + past) * (wide + value[2])


def _group_query_attention(node: Any, facts: Facts) -> int | None:
    """B Lq keys heads 2 d, for com.microsoft's GroupQueryAttention.

    Query is [B, L, heads * d], or without a key input packed with keys and values as [B, L, (heads + 2 kv_heads) * d].
    The number of keys is taken from the second output, [B, kv_heads, keys, d].
    """
    query, past = _shape(node, facts, 0), _past(node, facts, 3)
    heads, groups = int(node.attrs.get("num_heads", 0)), int(node.attrs.get("kv_num_heads", 0))
    if query is None or len(query) != 3 or not heads or not groups:
        return None
    present = shape_of(facts, node.outputs[1].name) if len(node.outputs) > 1 else None
    if present is None and past is None:
        return None
    batch, length, wide = query
    keys = present[2] if present is not None and len(present) == 4 else length + (past or 0)
    depth = wide // heads if _given(node, 1) else wide // (heads + 2 * groups)
    return 2 * batch * length * keys * heads * depth


def _past(node: Any, facts: Facts, index: int) -> int | None:
    """The number of keys of earlier steps in an input, on its second to last axis; 0 if it is not given."""
    if not _given(node, index):
        return 0
    shape = _shape(node, facts, index)
    return None if shape is None or len(shape) < 2 else shape[-2]


def _einsum(node: Any, facts: Facts) -> int | None:
    """The product of all extents of each contraction, with operands from left to right; none for a single operand.

    Labels as in numpy.einsum, which ONNX's Einsum follows. Between two contractions, labels stay that the output or
    a later operand has. If all labels stay, nothing is summed: an element-wise or outer product has none.
    """
    shapes = [_shape(node, facts, index) for index in range(len(node.inputs))]
    if any(shape is None for shape in shapes):
        return None
    left, arrow, right = str(node.attrs["equation"]).replace(" ", "").partition("->")
    terms, extents = [], dict[str, int]()
    for own, shape in zip(left.split(","), shapes):
        assert shape is not None
        labels = _labels(own, len(shape))
        if len(labels) != len(shape):
            return None
        for label, size in zip(labels, shape):
            extents[label] = max(size, extents.get(label, 1)) if size else 0
        terms.append(set(labels))
    every = "".join(left.split(","))
    wanted: set[str] = set(right) if arrow else {label for label in every if every.count(label) == 1}
    # an ellipsis is part of the output unless an explicit output omits it
    wanted |= {label for label in extents if len(label) > 1 and (not arrow or "..." in right)}
    total, held = 0, terms[0]
    for number, other in enumerate(terms[1:], start=2):
        joined = held | other
        held = joined & wanted.union(*terms[number:])
        if held != joined:
            total += math.prod(extents[label] for label in joined)
    return total


def _labels(term: str, rank: int) -> list[str]:
    """The labels of a term's axes; axes of an ellipsis are numbered from the last, as in broadcasting."""
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return [*before, *(f"...{number}" for number in range(hidden, 0, -1)), *after]


_FORMULAS: dict[str, Callable[[Any, Facts], int | None]] = {
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    "ConvTranspose": _transposed_convolution,
    **dict.fromkeys(("Gemm", "FusedGemm", "GemmFloat8", "QGemm"), _gemm),
    **dict.fromkeys(_PRODUCTS, _product),
    **dict.fromkeys(("MatMulNBits", "MatMulBnb4"), _narrow_product),
    **dict.fromkeys(_RECURRENT, _recurrent),
    "Attention": _attention,
    "MultiHeadAttention": _multi_head_attention,
    "GroupQueryAttention": _group_query_attention,
    "Einsum": _einsum,
}
