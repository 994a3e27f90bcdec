"""Whole numbers that are rounded amounts, as the grey levels of a picture are, and no numbers of classes."""

from __future__ import annotations

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
_MOST_STEPS = 100


def rounded(model: Model, output: gs.Tensor) -> bool:
    """Whether an integer output is cast from what layers compute, and not from what chooses among values.

    Constants may scale and move it, and it may be resized, before or after it is rounded.
    """
    waiting, steps, cast = [output], 0, False
    while waiting and steps < _MOST_STEPS:
        steps += 1
        tensor = waiting.pop()
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None or node.op in _CHOICES:
            return False
        others = [one for one in node.inputs if model.constant(one) is None]
        if node.op == "Concat":
            waiting += others
        elif node.op in _MOVES or (node.op in _AFFINE and len(others) == 1):
            cast = cast or node.op == "Cast"
            waiting += others[:1]
    return cast and not waiting
