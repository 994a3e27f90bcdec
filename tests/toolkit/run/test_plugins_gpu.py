"""Plugins, what the parser refuses and types that a version lacks, with TensorRT itself."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.conftest import build, node, normal
from toolkit import run
from toolkit.backends.choose import usable
from toolkit.base.errors import BackendError

pytestmark = pytest.mark.gpu

RECIPE = """\
[model]
path = "model.onnx"
[[profile]]
name = "all"
shapes.x = { min = [1, 3, 8, 8], opt = [8, 3, 8, 8], max = [16, 3, 8, 8] }
[calibration]
data = "data.npz"
[[pass]]
use = "insert_qdq"
[engine]
backend = "tensorrt"
tactic_sources = []
optimization_level = 1
prefer = "int8"
[evaluation]
"""
BOXES = 12
WEIGHTS = {
    "w0": normal(8, 3, 3, 3, scale=0.3),
    "w1": normal(BOXES * 4, 8, 8, 8, seed=1, scale=0.1),
    "w2": normal(BOXES * 2, 8, 8, 8, seed=2, scale=0.1),
    "to_boxes": np.array([-1, BOXES, 4], np.int64),
    "to_scores": np.array([-1, BOXES, 2], np.int64),
}
NODES = [
    node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
    node("Relu", ["a"], ["r"]),
    node("Conv", ["r", "w1"], ["b"]),
    node("Conv", ["r", "w2"], ["s"]),
    node("Reshape", ["b", "to_boxes"], ["boxes"]),
    node("Reshape", ["s", "to_scores"], ["logits"]),
    node("Sigmoid", ["logits"], ["scores"]),
]
DETECTIONS = ("num", "det", "sco", "cl")


@pytest.fixture(autouse=True)
def _backend():
    features, refusal = usable("tensorrt")
    if features is None:
        pytest.skip(str(refusal))


def save(place, last, outputs, types=None):
    proto = build([*NODES, last], {"x": ["n", 3, 8, 8]}, dict.fromkeys(outputs), WEIGHTS, 17, types=types)
    onnx.save(proto, str(place / "model.onnx"))
    np.savez(place / "data.npz", x=normal(24, 3, 8, 8))
    (place / "recipe.toml").write_text(RECIPE)
    return place / "recipe.toml"


def test_an_engine_with_a_plugin_runs_in_int8_up_to_it(tmp_path):
    nms = helper.make_node(
        "EfficientNMS_TRT", ["boxes", "scores"], DETECTIONS, "nms", plugin_version="1", background_class=-1, box_coding=1,
        iou_threshold=0.45, max_output_boxes=5, score_activation=0, score_threshold=0.25,
    )  # fmt: skip
    recipe = save(tmp_path, nms, DETECTIONS, {"num": TensorProto.INT32, "cl": TensorProto.INT32})
    result = run(recipe, tmp_path / "out")
    layers = {layer.node: layer for layer in result.report.layers}
    print(result.report.summary.headline, {n: str(one.actual.precision) for n, one in layers.items()})
    assert result.report.summary.verdict == "unmeasured"
    assert str(layers["a"].actual.precision) == "int8" and layers["nms"].engine_layers
    with result.engine() as engine:
        found = engine.run({"x": normal(8, 3, 8, 8)})
    assert found["det"].shape == (8, 5, 4) and found["num"].shape == (8, 1)
    assert (found["num"] >= 1).all() and (found["num"] <= 5).all()
    assert ((found["sco"] >= 0.25) | (np.arange(5) >= found["num"])).all()


def test_a_plugin_that_is_not_there_is_refused_by_name_before_calibrating(tmp_path):
    recipe = save(tmp_path, helper.make_node("NoSuch_TRT", ["scores"], ["y"], "nowhere"), ["y"])
    with pytest.raises(BackendError, match="NoSuch_TRT"):
        run(recipe, tmp_path / "out")
    assert not (tmp_path / "out" / "ranges.json").exists()


def test_bfloat16_is_refused_by_8_6_before_calibrating(tmp_path):
    features, _ = usable("tensorrt")
    if not features["version"].startswith("8."):
        pytest.skip("this version has bfloat16")
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], "down", to=TensorProto.BFLOAT16),
        helper.make_node("Conv", ["h", "w"], ["c"], "conv"),
        helper.make_node("Cast", ["c"], ["y"], "up", to=TensorProto.FLOAT),
    ]
    weights = helper.make_tensor("w", TensorProto.BFLOAT16, [4, 3, 1, 1], np.ones(12))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 8, 8])], [weights],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        str(tmp_path / "model.onnx"),
    )
    np.savez(tmp_path / "data.npz", x=normal(24, 3, 8, 8))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    with pytest.raises(BackendError) as caught:
        run(tmp_path / "recipe.toml", tmp_path / "out")
    print(caught.value)
    assert not (tmp_path / "out" / "ranges.json").exists()
