"""Where loading a model ends the process of a user's own onnxruntime session, which qtool's sessions avoid."""

from __future__ import annotations

import onnx_graphsurgeon as gs
from onnx import TensorProto

from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.graph.model import Model
from toolkit.graph.rewrites import TAKEN_OUT
from toolkit.graph.tensors import onnx_type

_MATRIX = 2


def ended_sessions(model: Model) -> list[Finding]:
    """A finding that onnxruntime 1.32 dies of the model with its default optimizations, where it does.

    It fuses a Transpose that moves the first of three axes or more into the float16 MatMul that multiplies it with a
    weight; see ``wrong_rewrites``.
    """
    nodes = [node.name for node in model.nodes if node.op == "MatMul" and _ends(model, node)]
    return [EvaluationCode.DEFAULTS_END(nodes=nodes)] if nodes else []


def _ends(model: Model, product: gs.Node) -> bool:
    tensor, weight = product.inputs
    if model.constant(weight) is None or onnx_type(weight.dtype) != TensorProto.FLOAT16:
        return False
    while tensor.inputs and tensor.inputs[0].op in TAKEN_OUT:
        tensor = tensor.inputs[0].inputs[0]
    if not tensor.inputs or tensor.inputs[0].op != "Transpose":
        return False
    order = tensor.inputs[0].attrs.get("perm") or [0]
    return len(order) > _MATRIX and order[0] != 0
