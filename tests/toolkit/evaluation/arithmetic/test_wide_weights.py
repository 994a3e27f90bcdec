from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from tests.conftest import build, node
from toolkit import Model, session
from toolkit.evaluation.arithmetic.wide_weights import widen_weights
from toolkit.graph.large_models.memory import memory_limit

RNG = np.random.default_rng(3)
TYPES = {"x": TensorProto.FLOAT16, "y": TensorProto.FLOAT16}


def light(nodes, stored, width=64):
    stored = {name: np.asarray(value) for name, value in stored.items()}
    model = Model.from_proto(build(nodes, {"x": ["n", width]}, {"y": ["n", None]}, stored, 19, 10, TYPES))
    return model.to_light(), model.facts().types


def dequantized(scale):
    """A weight with a scale for each channel, transposed between its DequantizeLinear and the product."""
    nodes = [
        node("DequantizeLinear", ["q", "scale", "zero"], ["d"], axis=0),
        node("Transpose", ["d"], ["w"], perm=[1, 0]),
        node("MatMul", ["x", "w"], ["y"]),
    ]
    whole = RNG.integers(-128, 128, (96, 64)).astype(np.int8)
    scales = np.full(96, scale, np.float16) * RNG.uniform(0.5, 1, 96).astype(np.float16)
    return light(nodes, {"q": whole, "scale": scales, "zero": np.zeros(96, np.int8)})


@pytest.mark.parametrize("scale", [0.02, 1 / 3, 3e-7, 400.0])
def test_weights_that_are_dequantized_in_float16_have_the_same_values_in_float32(scale):
    model, types = dequantized(scale)
    x = RNG.standard_normal((5, 64)).astype(np.float16)
    before = session(model.copy(), optimise="constants").run({"x": x})["y"]
    wide = widen_weights(model, types)
    assert [one.op_type for one in wide.proto.graph.node] == ["Cast", "DequantizeLinear", "MatMul"]
    assert wide.weights["w widened"].dtype == np.float32 and wide.weights["w widened"].shape == (64, 96)
    found = session(wide, optimise="constants")
    assert found.inputs == ("x",)
    np.testing.assert_array_equal(found.run({"x": x})["y"], before)


def test_onnxruntime_converts_no_widened_weight_in_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weight = RNG.standard_normal((64, 96)).astype(np.float16)
    model, types = light([node("MatMul", ["x", "w"], ["y"])], {"w": weight})
    proto = widen_weights(model, types).whole()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "rewritten.onnx")
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "rewritten.onnx").graph.node
    assert [list(one.input)[1:] for one in nodes if one.op_type == "MatMul"] == [["w widened"]]
    assert [one.op_type for one in nodes] == ["Cast", "MatMul", "Cast"]


def test_a_weight_that_something_else_reads_in_float16_stays():
    weight = RNG.standard_normal((64, 96)).astype(np.float16)
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Gather", ["w", "i"], ["g"]), node("Add", ["m", "g"], ["y"])]
    model, types = light(nodes, {"w": weight, "i": np.int64([3])})
    assert [one.op_type for one in widen_weights(model, types).proto.graph.node] == ["MatMul", "Gather", "Add"]


def test_without_room_in_memory_weights_stay_in_float16():
    model, types = dequantized(0.1)
    with memory_limit(20_000):
        assert "w widened" not in widen_weights(model, types).weights
    assert "w widened" in widen_weights(model, types).weights


def test_a_model_whose_own_names_are_those_that_are_added_is_widened_too():
    weight = RNG.standard_normal((64, 64)).astype(np.float16)
    nodes = [
        node("MatMul", ["x", "w"], ["w widened"], name="w narrow"),
        node("MatMul", ["w widened", "w narrowed"], ["y"], name="w widened narrow"),
    ]
    model, types = light(nodes, {"w": weight, "w narrowed": weight * 2})
    x = RNG.standard_normal((5, 64)).astype(np.float16)
    before = session(model.copy(), optimise="constants").run({"x": x})["y"]
    wide = widen_weights(model, types)
    assert [one.op_type for one in wide.proto.graph.node] == ["Cast", "Cast", "MatMul", "MatMul"]
    np.testing.assert_array_equal(session(wide, optimise="constants").run({"x": x})["y"], before)
