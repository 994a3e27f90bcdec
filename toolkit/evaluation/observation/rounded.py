"""Find integer outputs that are rounded quantities, such as grey levels of a picture, rather than class numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import pairwise

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from toolkit.graph.model import Model

_MOVES = frozenset({
    "Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Resize",
    "Upsample", "DepthToSpace", "SpaceToDepth", "Pad", "Clip", "Round", "Floor", "Ceil", "Concat",
})  # fmt: skip
_REARRANGES = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice"})
_AFFINE = frozenset({"Mul", "Div", "Add", "Sub", "Min", "Max"})
_CHOICES = frozenset({
    "ArgMax", "ArgMin", "TopK", "Gather", "GatherElements", "GatherND", "Where", "OneHot", "NonZero", "Unique", "Sign",
    "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor", "Not", "Multinomial", "Bernoulli",
    "NonMaxSuppression", "Range", "Shape", "Size", "If", "Loop", "Scan", "ScatterElements", "ScatterND", "Hardmax",
    "LabelEncoder", "CategoryMapper", "Mod", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseNot", "BitwiseXor",
})  # fmt: skip
"""Operators that choose, compare, count or look up values rather than compute quantities."""
_LOOKS_UP = frozenset({"Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND"})
"""Those of them that return integers only if they pick from integers."""
_ROUNDS = frozenset({"Round", "Floor", "Ceil"})
_WHOLE = (_CHOICES - _LOOKS_UP - {"Where", "TopK", "If", "Loop", "Scan"}) | _ROUNDS
_SUMS = frozenset({"Sum", "ReduceSum", "MatMul", "Gemm", "Einsum"})
_PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum"})
_BASE, _EXACT = 2, 1e-4
"""Smallest base of digits, and relative tolerance within which a digit's weight is a multiple of the previous one."""
_MOST_STEPS = 100


def rounded(model: Model, output: gs.Tensor) -> bool:
    """Whether an integer output is cast or quantized from computed quantities, not from a choice such as an ArgMax.

    Before or after rounding, it may be scaled and shifted by constants, and resized. A sum of several integers is a
    code (such as one of two classes, or of the levels of several channels) if they result from choices or are weighted
    like digits. Other sums of rounded quantities, such as a grey level from rounded colours, are quantities.
    """
    waiting, steps, cast = [output], 0, False
    while waiting and steps < _MOST_STEPS:
        steps += 1
        tensor = waiting.pop()
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None or node.op in _CHOICES:
            return False
        others = _computed(model, node.inputs)
        if node.op == "QuantizeLinear":
            # q = round(x / scale) + zero point
            cast = True
            waiting += node.inputs[:1]
        elif node.op == "Concat":
            waiting += others
        elif node.op in _MOVES or (node.op in _AFFINE and len(others) == 1):
            cast = cast or node.op == "Cast"
            waiting += others[:1]
        elif node.op in _AFFINE | _SUMS and all(_whole(model, one, _WHOLE) for one in others):
            if all(_whole(model, one, _WHOLE - _ROUNDS) for one in others) or _digits(_weights(model, node)):
                return False
            cast = True
    return cast and not waiting


def quantized(model: Model, output: gs.Tensor) -> tuple[float, float] | None:
    """Scale and zero point of an integer output that a QuantizeLinear writes, perhaps reshaped, per tensor.

    Its definition in float operators counts too: Cast(Clip(Round(x / scale) + zero point)). None for other outputs; see
    ``dequantized``.
    """
    node = output.inputs[0] if output.inputs else None
    while node is not None and node.op in _REARRANGES:
        source = node.inputs[0]
        node = source.inputs[0] if source.inputs else None
    given = _spelled(node) if node is None or node.op != "QuantizeLinear" else node.inputs[1:3]
    if not given:
        return None
    known = [model.constant(one) for one in given if not one.is_empty()]
    single = [float(one.reshape(-1)[0]) for one in known if one is not None and one.size == 1]
    return (single[0], single[1] if len(single) > 1 else 0.0) if len(single) == len(known) else None


def _spelled(node: gs.Node | None) -> list[gs.Tensor]:
    """The scale and the zero point of a quantization that ends with this Cast; empty if it is none."""
    given: list[gs.Tensor] = []
    for op in ("Cast", "Clip", "Add", "Round", "Div"):
        if node is None or node.op != op:
            return []
        given += node.inputs[1:2] if op in ("Add", "Div") else []
        node = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
    return given[::-1]


def _weights(model: Model, total: gs.Node) -> list[float]:
    """The weights of a sum's terms, or the distinct constants of a matrix product; empty if they are not known."""
    terms = _computed(model, total.inputs)
    if total.op in _PRODUCTS:
        return _constants(model, total)
    if len(terms) > 1:
        found = [_factor(model, one) for one in terms]
        return [each[0] for each in found] if all(len(each) == 1 for each in found) else []
    return _factor(model, terms[0])


def _factor(model: Model, tensor: gs.Tensor) -> list[float]:
    """The last factor of a tensor, upstream to the nearest rounding or choice: 1 if none, several if per channel."""
    while tensor.inputs and tensor.inputs[0].op not in _WHOLE:
        node = tensor.inputs[0]
        terms = _computed(model, node.inputs)
        if node.op in ("Mul", "Div") and len(terms) == 1 and (values := _constants(model, node)):
            return values if node.op == "Mul" else [1 / one for one in values]
        if len(terms) != 1:
            break
        tensor = terms[0]
    return [1.0]


def _constants(model: Model, node: gs.Node) -> list[float]:
    """The distinct nonzero magnitudes in the constants among a node's first two inputs, sorted."""
    known = [values for one in node.inputs[:2] if one.name and (values := model.constant(one)) is not None]
    found = {abs(float(value)) for values in known for value in np.unique(values).tolist()}
    return sorted(found - {0.0})


def _digits(weights: Sequence[float]) -> bool:
    """Whether weights are those of digits: sorted, each is an integer multiple of the previous, as 1, 10 and 100."""
    ordered = sorted(weights)
    times = [high / low for low, high in pairwise(ordered)]
    if not all(map(math.isfinite, times)):
        return False
    return bool(times) and all(round(one) >= _BASE and abs(one - round(one)) < _EXACT * one for one in times)


def _whole(model: Model, tensor: gs.Tensor, ends: Collection[str]) -> bool:
    """Whether a tensor is computed only from results of the operators in ``ends``, by scaling, moving and adding."""
    waiting, seen = [tensor], set[int]()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None or len(seen) > _MOST_STEPS:
            return False
        if node.op in ends or (node.op == "Cast" and _of_integers(node) and _ROUNDS & set(ends)):
            continue
        given = node.inputs[1:] if node.op == "Where" else node.inputs
        others = _computed(model, given)
        if node.op in _MOVES | _AFFINE | _SUMS | {"Where"}:
            waiting += others
        elif node.op in _LOOKS_UP and others[:1] == node.inputs[:1]:
            waiting += others[:1]
        else:
            return False
    return True


def _computed(model: Model, tensors: Sequence[gs.Tensor]) -> list[gs.Tensor]:
    return [one for one in tensors if one.name and model.constant(one) is None]


def _of_integers(cast: gs.Node) -> bool:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(int(cast.attrs["to"]))).kind in "iub"
