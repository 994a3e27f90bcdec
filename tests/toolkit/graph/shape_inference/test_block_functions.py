"""FLOAT4E2M1 and FLOAT8E8M0 in a model: read, written, run in onnxruntime, which computes with neither."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import node, normal, run
from toolkit.base.block_scales import scales_of_blocks, to_e2m1
from toolkit.base.precision import Precision
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


@pytest.mark.parametrize(("axis", "block"), [(0, 16), (1, 16), (-2, 32), (2, 8), (None, None)])
@pytest.mark.parametrize("kind", ["nvfp4", "mxfp8"])
def test_tensorrts_own_quantizers_take_the_axis_and_the_block_that_the_node_says(kind, axis, block):
    """Where the node says neither, blocks are of the last axis, and of the type's size."""
    attrs = {} if axis is None else {"axis": axis, "block_size": block}
    own = Precision(kind).block
    along, size = (-1, own) if axis is None else (axis, block)
    x, whole = normal(32, 64, 32, scale=4), np.float32(0.01)
    if kind == "nvfp4":
        nodes = [
            node("TRT_FP4DynamicQuantize", ["x", "g"], ["q", "s"], domain="trt", scale_type=17, **attrs),
            node("DequantizeLinear", ["s", "g"], ["t"]),
            node("DequantizeLinear", ["q", "t"], ["y"], axis=along, block_size=size),
        ]
    else:
        nodes = [
            node("TRT_MXFP8DynamicQuantize", ["x"], ["q", "s"], domain="trt", output_dtype=17, **attrs),
            node("TRT_MXFP8DequantizeLinear", ["q", "s"], ["y"], domain="trt", output_dtype=1, **attrs),
        ]
    proto = model_of(nodes, {"g": whole})
    for one, shape in ((proto.graph.input[0], x.shape), (proto.graph.output[0], x.shape)):
        one.CopyFrom(helper.make_tensor_value_info(one.name, TensorProto.FLOAT, shape))
    proto.opset_import.append(helper.make_opsetid("trt", 1))
    moved = np.moveaxis(x, along, -1)
    blocks = moved.reshape(*moved.shape[:-1], -1, size)
    amax = np.abs(blocks).max(axis=-1, keepdims=True)
    if kind == "nvfp4":
        stored = np.clip(amax / np.float32(6) / whole, 2.0**-9, 448).astype(ml_dtypes.float8_e4m3fn)
        scale = stored.astype(np.float32) * whole
        kept = to_e2m1(blocks / scale)
    else:
        scale = scales_of_blocks(amax, Precision.MXFP8)
        kept = (blocks / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    wanted = np.moveaxis((kept * scale).reshape(moved.shape), -1, along)
    np.testing.assert_array_equal(run(Model.from_proto(proto), {"x": x})[0], wanted)
