"""Whole numbers that are rounded amounts, as the grey levels of a picture are, and no numbers of classes."""

from __future__ import annotations

from collections.abc import Sequence

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
_WHOLE = (_CHOICES - _LOOKS_UP - {"Where", "TopK", "If", "Loop", "Scan"}) | {"Round", "Floor", "Ceil"}
_SUMS = frozenset({"Sum", "ReduceSum", "MatMul", "Gemm", "Einsum"})
_MOST_STEPS = 100


def rounded(model: Model, output: gs.Tensor) -> bool:
    """Whether an integer output is cast from what layers compute, and not from what chooses among values.

    Constants may scale and move it, and it may be resized, before or after it is rounded. Where several whole numbers
    are added up, each is a digit, as of a code that two classes or the levels of several channels make.
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
        elif node.op in _AFFINE | _SUMS and all(_whole(model, one) for one in others):
            return False
    return cast and not waiting


def _whole(model: Model, tensor: gs.Tensor) -> bool:
    """Whether all that a tensor is computed from is rounded, chosen or compared before it is scaled, moved or added."""
    waiting, seen = [tensor], set[int]()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None or len(seen) > _MOST_STEPS:
            return False
        if node.op in _WHOLE or (node.op == "Cast" and _of_integers(node)):
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
