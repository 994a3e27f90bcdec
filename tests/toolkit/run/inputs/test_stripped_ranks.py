"""A recipe whose strip_qdq restores limits of a rank that only the calibration samples show."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from tests.conftest import build, node, normal
from toolkit import Recipe, run
from toolkit.run.checks.dry_run import dry_run

RECIPE = """
[model]
path = "m.onnx"
[calibration]
data = "samples.npz"
[[profile]]
name = "default"
shapes.x = { min = [1, 3, 6, 6], opt = [1, 3, 6, 6], max = [1, 3, 6, 6] }
shapes.sides = { min = [3], opt = [3], max = [3] }
[engine]
backend = "none"
[[pass]]
use = "strip_qdq"
"""


def test_check_and_run_restore_limits_of_a_rank_that_only_samples_show(tmp_path):
    weights = {"w": normal(4, 3, 1, 1), "s": np.linspace(1, 5, 4, dtype=np.float32) / 255, "z": np.zeros(4, np.uint8)}
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Reshape", ["c", "sides"], ["r"]),
             node("QuantizeLinear", ["r", "s", "z"], ["q"], axis=1),
             node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=1), node("Neg", ["d"], ["y"])]  # fmt: skip
    shapes = {"x": ["n", 3, 6, 6], "sides": ["rank"]}
    onnx.save(build(nodes, shapes, {"y": None}, weights, types={"sides": TensorProto.INT64}), tmp_path / "m.onnx")
    samples = {"x": 5 * normal(8, 3, 6, 6), "sides": np.tile(np.array([-1, 4, 36]), (8, 1))}
    np.savez(tmp_path / "samples.npz", **samples)
    (tmp_path / "r.toml").write_text(RECIPE)
    dry_run(Recipe.load(tmp_path / "r.toml"))
    run(tmp_path / "r.toml", tmp_path / "out")
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    (limit,) = (one.input[1] for one in graph.node if one.op_type == "Min")
    assert [list(one.dims) for one in graph.initializer if one.name == limit] == [[1, 4, 1]]
