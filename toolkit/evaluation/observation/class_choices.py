"""Find outputs that show that another output holds class scores, because they are choices among its values."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.graph.interface.used_inputs import SIZES
from toolkit.graph.model import Model

_MIXING = frozenset(
    {"Conv", "ConvTranspose", "ConvInteger", "DeformConv", "Gemm", "MatMul", "MatMulInteger", "MatMulNBits", "Einsum",
     "LSTM", "GRU", "RNN", "Attention", "MultiHeadAttention", "GroupQueryAttention", "FusedConv", "FusedMatMul"}
)  # fmt: skip
"""Layers that combine values: their results are no longer choices among the scores."""
_MEANS = frozenset({"GlobalAveragePool", "ReduceMean"})
_CHOOSING = frozenset(
    {"Softmax", "LogSoftmax", "Hardmax", "Sigmoid", "HardSigmoid", "ArgMax", "ArgMin", "TopK", "Greater",
     "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Round", "NonMaxSuppression"}
)  # fmt: skip
_BESTS = frozenset({"ReduceMax", "ReduceLogSumExp"})
"""Operators that return the score of the best class, exactly or approximately, if they reduce a single axis."""
_SHARES = frozenset({"Softmax", "LogSoftmax", "Hardmax"})
_ENLARGING = frozenset({"Resize", "Upsample"})
_LAST_BY_DEFAULT = 13
"""The opset from which on a softmax's default axis is the last."""


def chosen_by(model: Model, output: gs.Tensor) -> frozenset[str]:
    """Names of the outputs computed from choices among an output's values: probabilities, classes, areas, confidences.

    On the way there must be an operator that turns scores into probabilities or a choice, before any layer of weights
    and any mean over positions, because a choice after these is not among the scores. Outputs of layers of weights
    count if they read a softmax along axis 1, as for an expected age over age classes. An output that is only an
    enlargement counts if nothing is computed from it.

    Args:
        output: the output that may hold class scores.
    """
    finals = {id(tensor): tensor.name for tensor in model.graph.outputs}
    found, pending = set[str](), [(output, "")]
    seen = {(id(output), "")}
    while pending:
        tensor, how = pending.pop()
        name = finals.get(id(tensor))
        counts = how in ("chosen", "shares") or (how == "enlarged" and not tensor.outputs)
        if name is not None and tensor is not output and counts:
            found.add(name)
        for node in tensor.outputs:
            after = how if how == "shares" else _after(model, node, tensor, how)
            fresh = [] if after is None else [one for one in node.outputs if (id(one), after) not in seen]
            seen.update((id(one), after or "") for one in fresh)
            pending += [(one, after or "") for one in fresh]
    return frozenset(found)


def _after(model: Model, node: gs.Node, read: gs.Tensor, how: str) -> str | None:
    """The state of scores after a node that reads them: empty, ``enlarged``, ``chosen`` or ``shares``.

    ``shares`` are probabilities along axis 1. None if the values are no scores any more.
    """
    if node.op in _MIXING or node.op in SIZES or (node.op in _MEANS and how != "chosen"):
        return None
    if node.op in _SHARES and _axis(model, node, read) == 1:
        return "shares"
    if node.op in _CHOOSING and not _gates(node, read):
        return "chosen"
    if node.op in _BESTS and _axis(model, node, read) is not None:
        return "chosen"
    return "enlarged" if node.op in _ENLARGING and not how else how


def _axis(model: Model, node: gs.Node, read: gs.Tensor) -> int | None:
    """The single axis along which a node works, from 0 if the tensor's rank is known; None for several or all axes."""
    default = 1 if model.opset < _LAST_BY_DEFAULT else -1
    given = node.attrs.get("axes", node.attrs.get("axis", default if node.op in _SHARES else None))
    if given is None and len(node.inputs) > 1:
        given = model.constant(node.inputs[1])
    axes = [] if given is None else [int(one) for one in np.asarray(given).reshape(-1)]
    if len(axes) != 1:
        return None
    return axes[0] % len(read.shape) if read.shape is not None and len(read.shape) else axes[0]


def _gates(node: gs.Node, read: gs.Tensor) -> bool:
    """Whether a node's result is multiplied by the node's input, as in SiLU, so that it is part of an activation."""
    readers = [reader for made in node.outputs for reader in made.outputs]
    return any(reader.op == "Mul" and any(one is read for one in reader.inputs) for reader in readers)
