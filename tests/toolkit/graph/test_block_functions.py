"""FLOAT4E2M1 and FLOAT8E8M0 in a model: read, written, run in onnxruntime, which computes with neither."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import node, normal, run
from toolkit.base.block_scales import to_e2m1
from toolkit.graph.model import Model


def model_of(nodes, stored, x=("n", 64), opset=23):
    graph = helper.make_graph(
        nodes, "test", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)


@pytest.mark.parametrize("block", [0, 16])
def test_float4_is_read_written_and_run(tmp_path, block):
    weight = to_e2m1(normal(64, 8, scale=3)).astype(ml_dtypes.float4_e2m1fn)
    scale = np.abs(normal(4, 8, seed=1)) + 0.1 if block else np.array(0.3, np.float32)
    attrs = {"axis": 0, "block_size": block} if block else {}
    nodes = [node("DequantizeLinear", ["w", "s"], ["d"], **attrs), node("MatMul", ["x", "d"], ["y"])]
    model = Model.from_proto(model_of(nodes, {"w": weight, "s": scale}))
    again = Model.load(model.save(tmp_path / "model.onnx"))
    stored = {t.name: t for t in again.to_proto().graph.initializer}["w"]
    assert stored.data_type == TensorProto.FLOAT4E2M1 and len(stored.raw_data) == 64 * 8 // 2
    assert again.weight_bytes() == 64 * 8 // 2 + scale.nbytes
    x, steps = normal(3, 64, seed=2), np.repeat(scale, block, axis=0) if block else scale
    np.testing.assert_allclose(run(again, {"x": x})[0], x @ (weight.astype(np.float32) * steps), rtol=1e-4, atol=1e-4)


def test_rounding_to_float4_by_the_standard_operator_is_run():
    zero = np.zeros((), ml_dtypes.float4_e2m1fn)
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    model = Model.from_proto(model_of(nodes, {"s": np.array(0.5, np.float32), "z": zero}))
    model.check()
    x = normal(3, 64, scale=2)
    np.testing.assert_array_equal(run(model, {"x": x})[0], to_e2m1(x / np.float32(0.5)) * np.float32(0.5))


def test_powers_of_two_as_scales_are_read_and_run(tmp_path):
    weight = normal(64, 8, scale=30).astype(ml_dtypes.float8_e4m3fn)
    scale = np.exp2(np.round(normal(2, 8, seed=1))).astype(ml_dtypes.float8_e8m0fnu)
    nodes = [
        node("DequantizeLinear", ["w", "s"], ["d"], axis=0, block_size=32, output_dtype=TensorProto.FLOAT),
        node("MatMul", ["x", "d"], ["y"]),
    ]
    model = Model.load(
        Model.from_proto(model_of(nodes, {"w": weight, "s": scale}, opset=24)).save(tmp_path / "model.onnx")
    )
    x, steps = normal(3, 64, seed=2), np.repeat(scale.astype(np.float32), 32, axis=0)
    np.testing.assert_allclose(run(model, {"x": x})[0], x @ (weight.astype(np.float32) * steps), rtol=1e-4, atol=1e-2)
