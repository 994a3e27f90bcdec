"""Where loading a model ends the process of a user's own onnxruntime session, which qtool's sessions avoid."""

from __future__ import annotations

import signal
import subprocess
import sys

import onnx_graphsurgeon as gs
from onnx import TensorProto

from toolkit.base.temporary import temporary_folder
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.graph.model import Model
from toolkit.graph.ort_forms.rewrites import TAKEN_OUT
from toolkit.graph.surgery.tensors import onnx_type

_MATRIX = 2
_OWN_FAULTS = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL")
"""Signals of what a process does itself; others come from outside, as SIGKILL does where memory runs out."""
_LOAD = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
_SECONDS = 120
"""How long loading may take; of a process that takes longer it is not known whether it would have died."""


def ended_sessions(model: Model) -> list[Finding]:
    """A finding that onnxruntime dies of the model with its default optimizations, where it does or that is not known.

    Release 1.32 fuses a Transpose that moves the first of three axes or more into the float16 MatMul that multiplies it
    with a weight; see ``wrong_rewrites``. It dies of some of these only, by what comes before them: the model is loaded
    in a process of its own to tell.
    """
    nodes = [node.name for node in model.nodes if node.op == "MatMul" and _may_end(model, node)]
    return _loaded(model, nodes) if nodes else []


def _loaded(model: Model, nodes: list[str]) -> list[Finding]:
    """What a process shows that loads the model."""
    import onnxruntime

    release = onnxruntime.__version__
    with temporary_folder("session") as folder:
        file = folder / "model.onnx"
        model.copy().save(file)
        try:
            done = subprocess.run(
                [sys.executable, "-c", _LOAD, str(file)], check=False, timeout=_SECONDS,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return [EvaluationCode.DEFAULTS_UNTOLD(nodes=nodes, release=release, seconds=_SECONDS)]
    if done.returncode >= 0:
        return []
    ended_by = signal.Signals(-done.returncode).name
    if ended_by not in _OWN_FAULTS:
        return [EvaluationCode.DEFAULTS_UNTOLD(nodes=nodes, release=release, ended_by=ended_by)]
    return [EvaluationCode.DEFAULTS_END(nodes=nodes, release=release, ended_by=ended_by)]


def _may_end(model: Model, product: gs.Node) -> bool:
    tensor, weight = product.inputs
    if model.constant(weight) is None or onnx_type(weight.dtype) != TensorProto.FLOAT16:
        return False
    while tensor.inputs and tensor.inputs[0].op in TAKEN_OUT:
        read = tensor.inputs[0].inputs
        tensor = next((one for one in read if model.constant(one) is None), read[0])
    if not tensor.inputs or tensor.inputs[0].op != "Transpose":
        return False
    order = tensor.inputs[0].attrs.get("perm") or [0]
    return len(order) > _MATRIX and order[0] != 0
