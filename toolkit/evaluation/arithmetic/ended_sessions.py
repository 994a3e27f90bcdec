"""Detect models that crash a user's own onnxruntime session on loading, which qtool's sessions avoid."""

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
"""Signals that a process causes itself; others come from outside, such as SIGKILL when memory runs out."""
_LOAD = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
_SECONDS = 120
"""How long loading may take, in seconds; for a process that takes longer, it is not known whether it would crash."""


def ended_sessions(model: Model) -> list[Finding]:
    """A finding that onnxruntime crashes on the model with its default optimizations, or that this is not known.

    Release 1.32 fuses a Transpose that moves the first of three or more axes into the float16 MatMul that multiplies it
    by a weight; see ``wrong_rewrites``. Only some of these crash it, depending on the nodes before them, so the model
    is loaded in a separate process to find out. Empty if the model has no such nodes or loads.
    """
    nodes = [node.name for node in model.nodes if node.op == "MatMul" and _may_end(model, node)]
    return _loaded(model, nodes) if nodes else []


def _loaded(model: Model, nodes: list[str]) -> list[Finding]:
    """Load the model in a process; returns a finding if that crashes, is killed or takes too long."""
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
