"""Whole numbers that are rounded amounts, as the grey levels of a picture are, and no numbers of classes."""

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
_AFFINE = frozenset({"Mul", "Div", "Add", "Sub", "Min", "Max"})
_CHOICES = frozenset({
    "ArgMax", "ArgMin", "TopK", "Gather", "GatherElements", "GatherND", "Where", "OneHot", "NonZero", "Unique", "Sign",
    "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor", "Not", "Multinomial", "Bernoulli",
    "NonMaxSuppression", "Range", "Shape", "Size", "If", "Loop", "Scan", "ScatterElements", "ScatterND", "Hardmax",
    "LabelEncoder", "CategoryMapper", "Mod", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseNot", "BitwiseXor",
})  # fmt: skip
"""What chooses, compares, counts or looks up rather than computes amounts."""
_LOOKS_UP = frozenset({"Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND"})
"""Of these the operators whose results are whole numbers where what they pick from is."""
_ROUNDS = frozenset({"Round", "Floor", "Ceil"})
_WHOLE = (_CHOICES - _LOOKS_UP - {"Where", "TopK", "If", "Loop", "Scan"}) | _ROUNDS
_SUMS = frozenset({"Sum", "ReduceSum", "MatMul", "Gemm", "Einsum"})
_PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum"})
_BASE, _EXACT = 2, 1e-4
"""The least number of values of a digit, and how exactly its weight is a multiple of the one before."""
_MOST_STEPS = 100


def rounded(model: Model, output: gs.Tensor) -> bool:
    """Whether an integer output is cast from what layers compute, and not from what chooses among values.

    Constants may scale and move it, and it may be resized, before or after it is rounded. Where several whole numbers
    are added up that are chosen, or each of which is weighted as a digit, they make a code: of two classes, or of the
    levels of several channels. Rounded amounts in other sums, as a grey of rounded colours, stay amounts.
    """
    waiting, steps, cast = [output], 0, False
    while waiting and steps < _MOST_STEPS:
        steps += 1
        tensor = waiting.pop()
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None or node.op in _CHOICES:
            return False
        others = _computed(model, node.inputs)
        if node.op == "Concat":
            waiting += others
        elif node.op in _MOVES or (node.op in _AFFINE and len(others) == 1):
            cast = cast or node.op == "Cast"
            waiting += others[:1]
        elif node.op in _AFFINE | _SUMS and all(_whole(model, one, _WHOLE) for one in others):
            if all(_whole(model, one, _WHOLE - _ROUNDS) for one in others) or _digits(_weights(model, node)):
                return False
            cast = True
    return cast and not waiting


def _weights(model: Model, total: gs.Node) -> list[float]:
    """What each term of a sum is multiplied by; empty where that is not known."""
    terms = _computed(model, total.inputs)
    if total.op in _PRODUCTS:
        return _constants(model, total)
    if len(terms) > 1:
        found = [_factor(model, one) for one in terms]
        return [each[0] for each in found] if all(len(each) == 1 for each in found) else []
    return _factor(model, terms[0])


def _factor(model: Model, tensor: gs.Tensor) -> list[float]:
    """What a tensor was multiplied by last: 1 where it was not, one for each channel where these differ."""
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
    """The distinct values, but 0, of a node's constants."""
    known = [values for one in node.inputs[:2] if one.name and (values := model.constant(one)) is not None]
    found = {abs(float(value)) for values in known for value in np.unique(values).tolist()}
    return sorted(found - {0.0})


def _digits(weights: Sequence[float]) -> bool:
    """Whether weights are those of digits: each a multiple of the one before, as 1, 10 and 100 are."""
    ordered = sorted(weights)
    times = [high / low for low, high in pairwise(ordered)]
    if not all(map(math.isfinite, times)):
        return False
    return bool(times) and all(round(one) >= _BASE and abs(one - round(one)) < _EXACT * one for one in times)


def _whole(model: Model, tensor: gs.Tensor, ends: Collection[str]) -> bool:
    """Whether all that a tensor is computed from are results of some operators that were scaled, moved or added."""
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
