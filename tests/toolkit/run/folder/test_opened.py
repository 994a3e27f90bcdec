"""What the Python API opens of a run: model.onnx, or its float32 form where onnxruntime lacks a kernel."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from toolkit import Recipe, run
from toolkit.base.errors import ModelError
from toolkit.graph.sessions.session import session


def made(folder, reduction, evaluated):
    """A run in float16 of a product that is scattered, with ``reduction`` where places coincide."""
    attrs = {"reduction": reduction} if reduction else {}
    nodes = [node("MatMul", ["x", "w"], ["h"], name="product"),
             node("ScatterElements", ["x", "where", "h"], ["y"], axis=1, **attrs)]  # fmt: skip
    weights = {"w": normal(8, 8), "where": np.arange(8).reshape(1, 8)}
    onnx.save(build(nodes, {"x": [1, 8]}, {"y": [1, 8]}, weights, opset=18), str(folder / "m.onnx"))
    np.savez(folder / "d.npz", x=normal(12, 1, 8))
    recipe = Recipe.build(
        "r", model={"path": folder / "m.onnx"}, calibration={"data": str(folder / "d.npz")}, passes=["insert_qdq"],
        engine={"backend": "none"}, evaluation={"data": str(folder / "d.npz")} if evaluated else {},
    )  # fmt: skip
    return run(recipe, folder / "out")


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_kernel_that_float16_lacks_is_replaced_by_float32(tmp_path, evaluated):
    """onnxruntime sums no float16 that is scattered, and says so only in a run."""
    result, x = made(tmp_path, "add", evaluated), {"x": normal(1, 8, seed=5)}
    with pytest.raises(ModelError):
        session(result.folder / "model.onnx").run(x)
    opened = result.session()
    first, second = opened.run(x)["y"], opened.run(x)["y"]
    wanted = session(tmp_path / "m.onnx").run(x)["y"]
    assert np.array_equal(first, second) and np.allclose(first, wanted, atol=0.2) and not np.array_equal(first, wanted)
    (each,) = opened.run_each([x])
    assert np.array_equal(each["y"], first)


def test_a_model_that_runs_is_opened_as_it_is_written_and_wrong_inputs_are_refused_by_it(tmp_path):
    result, x = made(tmp_path, "", True), {"x": normal(1, 8, seed=5)}
    opened = result.session()
    with pytest.raises(ModelError, match="takes only 8"):
        opened.run({"x": normal(1, 9)})
    assert np.array_equal(opened.run(x)["y"], session(result.folder / "model.onnx").run(x)["y"])
