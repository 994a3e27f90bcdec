"""Outputs by which a model chooses among the values of another output, which are then scores of classes."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from toolkit.graph.model import Model
from toolkit.graph.used_inputs import SIZES

_MIXING = frozenset(
    {"Conv", "ConvTranspose", "ConvInteger", "DeformConv", "Gemm", "MatMul", "MatMulInteger", "MatMulNBits", "Einsum",
     "LSTM", "GRU", "RNN", "Attention", "MultiHeadAttention", "GroupQueryAttention", "FusedConv", "FusedMatMul"}
)  # fmt: skip
"""Layers of weights: what comes after them are other values, whatever they were made of."""
_MEANS = frozenset({"GlobalAveragePool", "ReduceMean"})
_CHOOSING = frozenset(
    {"Softmax", "LogSoftmax", "Hardmax", "Sigmoid", "HardSigmoid", "ArgMax", "ArgMin", "TopK", "Greater",
     "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Round", "NonMaxSuppression"}
)  # fmt: skip
_ENLARGING = frozenset({"Resize", "Upsample"})


def chosen_by(model: Model, output: gs.Tensor) -> frozenset[str]:
    """Names of the outputs that are made of the choices among an output's values: shares, classes, areas, confidences.

    Between the two lies an operator that makes scores into shares, chances or a choice, before any layer of weights and
    before any mean over places: what is chosen after these is chosen of the whole. An output that is only enlarged
    counts where it is the last.
    """
    finals = {id(tensor): tensor.name for tensor in model.graph.outputs}
    found, pending = set[str](), [(output, "")]
    seen = {(id(output), "")}
    while pending:
        tensor, how = pending.pop()
        name = finals.get(id(tensor))
        counts = how == "chosen" or (how == "enlarged" and not tensor.outputs)
        if name is not None and tensor is not output and counts:
            found.add(name)
        for node in tensor.outputs:
            after = _after(node, tensor, how)
            fresh = [] if after is None else [one for one in node.outputs if (id(one), after) not in seen]
            seen.update((id(one), after or "") for one in fresh)
            pending += [(one, after or "") for one in fresh]
    return frozenset(found)


def _after(node: gs.Node, read: gs.Tensor, how: str) -> str | None:
    """What has happened to scores after a node that reads them; None where they are no scores any more."""
    if node.op in _MIXING or node.op in SIZES or (node.op in _MEANS and how != "chosen"):
        return None
    if node.op in _CHOOSING and not _gates(node, read):
        return "chosen"
    return "enlarged" if node.op in _ENLARGING and not how else how


def _gates(node: gs.Node, read: gs.Tensor) -> bool:
    """Whether a node makes a factor of the value that it reads, as in SiLU, an activation."""
    readers = [reader for made in node.outputs for reader in made.outputs]
    return any(reader.op == "Mul" and any(one is read for one in reader.inputs) for reader in readers)
