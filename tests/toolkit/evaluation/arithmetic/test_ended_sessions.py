"""A run says where its model.onnx ends the process of a user's own onnxruntime session."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from tests.conftest import build, node, normal
from toolkit import Model, Recipe, run
from toolkit.evaluation.arithmetic import ended_sessions as sessions
from toolkit.evaluation.arithmetic.ended_sessions import ended_sessions
from toolkit.evaluation.codes import EvaluationCode
from toolkit.report.findings import sentence

LOAD = "import onnxruntime, sys; onnxruntime.InferenceSession(sys.argv[1], disabled_optimizers=sys.argv[2:])"


@pytest.mark.parametrize("before", ["LayerNormalization", "Relu"])
@pytest.mark.parametrize("between", ["", "Add", "Mul", "factor", "factor first"])
def test_a_session_is_said_to_end_where_it_does(before, between, tmp_path):
    names = {"Add": ["t", "b"], "Mul": ["t", "b"], "factor": ["t", "f"], "factor first": ["f", "t"]}.get(between)
    nodes = [
        node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        node(before, ["h", "g"] if before == "LayerNormalization" else ["h"], ["n"]),
        node("Transpose", ["n"], ["t"], perm=[1, 0, 2]),
        *([node("Add" if between == "Add" else "Mul", names, ["a"])] if names else []),
        node("MatMul", ["a" if names else "t", "w"], ["m"]), node("Cast", ["m"], ["y"], to=1),
    ]  # fmt: skip
    half = {"g": np.ones(8), "b": np.arange(1, 9), "f": np.array(0.5), "w": normal(8, 24)}
    weights = {name: value.astype(np.float16) for name, value in half.items()}
    proto = build(nodes, {"x": ["n", 6, 8]}, {"y": [6, "n", 24]}, weights)
    onnx.save(proto, str(tmp_path / "model.onnx"))
    code = subprocess.run([sys.executable, "-c", LOAD, str(tmp_path / "model.onnx")], capture_output=True, check=False)
    found = [(one.code, one.values["ended_by"]) for one in ended_sessions(Model.from_proto(proto))]
    assert found == ([(EvaluationCode.DEFAULTS_END, "SIGSEGV")] if code.returncode == -11 else [])
    if onnxruntime.__version__.startswith("1.32."):
        ends = before == "LayerNormalization" and between in ("", "factor", "factor first")
        assert (code.returncode == -11) is ends


def turned():
    """A model that may end a session, by what it looks like."""
    nodes = [node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), node("Transpose", ["h"], ["t"], perm=[1, 0, 2]),
             node("MatMul", ["t", "w"], ["m"], name="project"), node("Cast", ["m"], ["y"], to=1)]  # fmt: skip
    return Model.from_proto(
        build(nodes, {"x": ["n", 6, 8]}, {"y": [6, "n", 24]}, {"w": normal(8, 24).astype(np.float16)})
    )


def test_a_session_that_is_not_ready_in_time_is_not_said_to_end(monkeypatch):
    monkeypatch.setattr(sessions, "_LOAD", "import time; time.sleep(60)")
    monkeypatch.setattr(sessions, "_SECONDS", 1)
    (found,) = ended_sessions(turned())
    assert found.code is EvaluationCode.DEFAULTS_UNTOLD and found.values["nodes"] == ("project",)
    said = sentence(found)
    assert "did not end within 1 s" in said and "'project'" in said and "MatmulTransposeFusion" in said
    assert "ends (" not in said


@pytest.mark.parametrize(
    ("name", "code"), [("SIGKILL", EvaluationCode.DEFAULTS_UNTOLD), ("SIGABRT", EvaluationCode.DEFAULTS_END)]
)
def test_a_session_that_is_killed_is_not_said_to_die_of_the_model(monkeypatch, name, code):
    monkeypatch.setattr(sessions, "_LOAD", f"import os, signal; os.kill(os.getpid(), signal.{name})")
    (found,) = ended_sessions(turned())
    assert found.code is code and name in sentence(found)


@pytest.mark.parametrize(
    ("perm", "rest", "ends"), [((1, 0, 2), "fp16", True), ((0, 2, 1), "fp16", False), ((1, 0, 2), "fp32", False)]
)
def test_a_run_tells_of_a_model_that_ends_a_session_and_how_to_open_it(perm, rest, ends, tmp_path):
    features = (8, 6)[perm[2] == 1]
    nodes = [node("LayerNormalization", ["x", "g"], ["n"], name="norm"), node("Transpose", ["n"], ["t"], name="turn", perm=list(perm)),
             node("MatMul", ["t", "w"], ["m"], name="project"), node("Transpose", ["m"], ["y"], name="back", perm=list(perm))]  # fmt: skip
    shape = ["n", 6, 24] if perm[0] else ["n", 24, 8]
    proto = build(nodes, {"x": ["n", 6, 8]}, {"y": shape}, {"g": np.ones(8, np.float32), "w": normal(features, 24)})
    onnx.save(proto, str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(8, 6, 8, seed=1))
    recipe = Recipe.build(
        "turned", model={"path": tmp_path / "model.onnx"}, evaluation={"data": str(tmp_path / "data.npz"), "task": "regression"},
        engine={"backend": "none", "rest": rest}, passes=[],
    )  # fmt: skip
    result = run(recipe, tmp_path / "out")
    said = [one for one in result.report.summary.warnings if "SIGSEGV" in one]
    assert bool(said) is ends and all("'project'" in one and "MatmulTransposeFusion" in one for one in said)
    if onnxruntime.__version__.startswith("1.32."):
        path = str(tmp_path / "out" / "model.onnx")
        codes = [subprocess.run([sys.executable, "-c", LOAD, path, *given], capture_output=True, check=False).returncode
                 for given in ([], ["MatmulTransposeFusion"])]  # fmt: skip
        assert codes == [-11 if ends else 0, 0]
