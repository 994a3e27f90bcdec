"""Find outputs with one value per position from a layer with one output channel, such as a forecast's hours."""

from __future__ import annotations

import onnx_graphsurgeon as gs

_POINTWISE = frozenset(
    {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Relu", "LeakyRelu", "PRelu", "Elu",
     "Selu", "Celu", "Gelu", "HardSwish", "Swish", "Mish", "Tanh", "Softplus", "Clip", "Exp", "Neg", "Abs", "Sqrt",
     "Add", "Sub", "Mul", "Div"}
)  # fmt: skip
_STORED = frozenset({"DequantizeLinear", "QuantizeLinear", "Cast", "Identity"})
"""Operators between a stored weight and its layer that keep its shape."""
_MOST_STEPS = 50


def one_each(output: gs.Tensor) -> bool:
    """Whether an output comes from a layer with one output channel: a Gemm or MatMul column, or a Conv filter.

    Only reshaping and pointwise operators may follow the layer, but no sigmoid: it makes the value a probability.
    """
    waiting, steps = [output], 0
    while waiting and steps < _MOST_STEPS:
        steps += 1
        tensor = waiting.pop()
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None:
            continue
        if node.op in _POINTWISE:
            waiting += [one for one in node.inputs if not isinstance(one, gs.Constant)]
        elif _channels(node) == 1:
            return True
    return False


def _channels(node: gs.Node) -> int | None:
    """A layer's number of output channels; None for other nodes, and if its weight is computed."""
    if node.op == "MatMulNBits":
        return int(node.attrs["N"])
    shape = weight_shape(node.inputs[1]) if len(node.inputs) > 1 else ()
    if len(shape) < 2:
        return None
    if node.op == "Conv":
        return int(shape[0])
    if node.op == "ConvTranspose":
        return int(shape[1]) * int(node.attrs.get("group", 1))
    if node.op in ("Gemm", "MatMul"):
        return int(shape[-2 if node.attrs.get("transB") else -1])
    return None


def weight_shape(tensor: gs.Tensor) -> tuple[int, ...]:
    """The shape of a layer's weight, even if it is stored in another type or transposed; empty if it is computed."""
    if isinstance(tensor, gs.Constant):
        return tuple(tensor.shape)
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or node.op not in (*_STORED, "Transpose"):
        return ()
    shape = weight_shape(node.inputs[0])
    places = node.attrs.get("perm", range(len(shape))[::-1]) if node.op == "Transpose" else range(len(shape))
    return tuple(shape[place] for place in places) if len(places) == len(shape) else ()
