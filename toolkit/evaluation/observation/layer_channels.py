"""Find out from the graph which axis of an output is that of its layer's channels."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from toolkit.graph.model import Model

_EACH = frozenset({
    "Identity", "Cast", "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "HardSwish", "Swish", "Mish", "Tanh",
    "Softplus", "Clip", "Exp", "Neg", "Abs", "Sqrt", "Add", "Sub", "Mul", "Div", "Softmax", "LogSoftmax", "Sigmoid",
    "HardSigmoid", "BatchNormalization", "Dropout",
})  # fmt: skip
"""Operators that do not move values."""
_AFTER_BATCH = frozenset({"Conv", "ConvTranspose"})
"""Operators whose channels are on axis 1; those of a matrix product are on the last axis."""
_PRODUCTS = frozenset({"MatMul", "Gemm"})
_MOST_STEPS = 50


def layer_channels(model: Model, output: gs.Tensor) -> int | None:
    """The axis of an output that holds its layer's channels, counted from the end; None if not known.

    Between the layer and the output there may only be operators that keep values in place, Transposes and Squeezes.
    """
    tensor, moves = output, list[gs.Node]()
    for _ in range(_MOST_STEPS):
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None:
            return None
        read = [one for one in node.inputs if one.name and model.constant(one) is None]
        if node.op in _AFTER_BATCH | _PRODUCTS:
            return _moved(model, node, moves) if len(read) == 1 and read[0] is node.inputs[0] else None
        if len(read) != 1 or node.op not in _EACH | {"Transpose", "Squeeze"}:
            return None
        if node.op not in _EACH:
            moves.append(node)
        tensor = read[0]
    return None


def _moved(model: Model, layer: gs.Node, moves: Sequence[gs.Node]) -> int | None:
    """The axis of a layer's channels after the Transposes and Squeezes ``moves``, given from last to first."""
    weight = model.constant(layer.inputs[1])
    if weight is None:
        return None
    axis, rank = (1, weight.ndim) if layer.op in _AFTER_BATCH else (-1, None)
    for node in reversed(moves):
        if node.op == "Transpose":
            order = node.attrs.get("perm")
            if order is None or (rank is not None and len(order) != rank):
                return None
            axis, rank = list(order).index(axis % len(order)), len(order)
            continue
        given = model.constant(node.inputs[1]) if len(node.inputs) > 1 else node.attrs.get("axes")
        if given is None or rank is None:
            return None
        gone = {int(one) % rank for one in given}
        if axis % rank in gone:
            return None
        axis, rank = axis % rank - sum(one < axis % rank for one in gone), rank - len(gone)
    return axis if axis < 0 else axis - rank if rank is not None else None
