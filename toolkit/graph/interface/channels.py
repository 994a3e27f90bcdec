"""The number of channels that convolutions expect of a model's inputs, even if the inputs are declared dynamic."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from toolkit.graph.model import Model

_ONE_BY_ONE = frozenset(
    {"Identity", "Cast", "Clip", "Relu", "LeakyRelu", "Sqrt", "Abs", "Neg", "Exp", "Log", "QuantizeLinear",
     "DequantizeLinear"}
)  # fmt: skip
_BINARY = frozenset({"Add", "Sub", "Mul", "Div"})


def channels_read(model: Model) -> Mapping[str, tuple[int, int]]:
    """For inputs that a convolution reads, directly or normalized: the axis of the channels, and their number.

    The model's declaration is not used. Inputs are missing if a constant may broadcast their channels.
    """
    inputs = {id(tensor) for tensor in model.graph.inputs}
    found: dict[str, tuple[int, int]] = {}
    for node in model.nodes:
        if node.op != "Conv" or len(node.inputs) < 2 or not node.inputs[1].shape:
            continue
        each = node.inputs[1].shape[1] if len(node.inputs[1].shape) > 1 else None
        rank = len(node.inputs[1].shape)
        origin = _origin(model, node.inputs[0], rank)
        if origin is None or (origin[0].shape is not None and len(origin[0].shape) != rank):
            # a constant of higher rank has added dimensions by broadcasting
            continue
        if id(origin[0]) in inputs and isinstance(each, int):
            found[origin[0].name] = origin[1], each * int(node.attrs.get("group", 1))
    return found


def _origin(model: Model, tensor: gs.Tensor, rank: int) -> tuple[gs.Tensor, int] | None:
    """The tensor that another is computed from elementwise, and the axis of its channels; None if unknown."""
    axis = 1
    while tensor.inputs:
        node = tensor.inputs[0]
        if node.op == "Transpose":
            axis = node.attrs.get("perm", range(rank)[::-1])[axis]
        elif node.op in _BINARY:
            constants = [model.constant(one) for one in node.inputs]
            given = next((one for one in constants if one is not None), None)
            if given is None or (given.ndim >= rank - axis and given.shape[axis - rank] != 1):
                return None
            tensor = node.inputs[0] if constants[0] is None else node.inputs[1]
            continue
        elif node.op not in _ONE_BY_ONE:
            return None
        tensor = node.inputs[0]
    return tensor, axis
