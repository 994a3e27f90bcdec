"""The tensors compared for a model: its outputs, or substitutes for those that onnxruntime cannot compute."""

from __future__ import annotations

from toolkit.graph.model import Model
from toolkit.graph.sessions.runnable import not_run
from toolkit.graph.sessions.session import session

_SHAPES_ONLY = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze",
                          "QuantizeLinear", "DequantizeLinear"})  # fmt: skip
_SQUASHING = frozenset({"HardSigmoid", "LogSoftmax", "Sigmoid", "Softmax", "Tanh"})


def measured_outputs(model: Model) -> list[str]:
    """The tensors that are compared in place of a model's outputs; see ``Session.outputs``."""
    return list(session(model).outputs) if not_run(model) else [tensor.name for tensor in model.graph.outputs]


def squashed_by(model: Model, output: str) -> str:
    """The operator upstream of an output that squashes its range, such as Softmax; empty if there is none.

    The SQNR after such an operator differs from that of the scores before it: confident answers hardly change.
    """
    tensor = next((one for one in model.graph.outputs if one.name == output), None) or model.graph.tensors().get(output)
    node = model.producer(tensor) if tensor is not None else None
    while node is not None and node.op in _SHAPES_ONLY and node.inputs:
        node = model.producer(node.inputs[0])
    return str(node.op) if node is not None and node.op in _SQUASHING else ""
