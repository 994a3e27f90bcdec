"""What pairs mean for the nodes around them, also where operators lie between a pair's halves."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from tests.conftest import build, node, normal
from toolkit import Model, Precision
from toolkit.backends.attribution.flow import ComputeType, Flow, is_constant
from toolkit.backends.codes import EngineCode
from toolkit.report.findings import sentence

GRID = {"s": np.float32(0.05), "z": np.int8(0)}


def test_an_operator_between_the_halves_moves_quantized_values():
    proto = build(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("MaxPool", ["q"], ["p"], kernel_shape=[2, 2]),
            node("Transpose", ["p"], ["t"], perm=[0, 1, 3, 2]), node("DequantizeLinear", ["t", "s", "z"], ["d"]),
            node("DequantizeLinear", ["wq", "s", "z"], ["wd"]), node("Conv", ["d", "wd"], ["y"]),
        ],
        {"x": [1, 3, 6, 6]}, {"y": [1, 4, 5, 5]}, {**GRID, "wq": np.ones((4, 3, 1, 1), np.int8)},
    )  # fmt: skip
    flow = Flow(Model.from_proto(proto))
    assert {flow.verdict(flow.nodes[name]).precision for name in ("p", "t", "y")} == {Precision.INT8}


@pytest.mark.parametrize("zero", [True, False])
def test_a_layer_after_a_quantized_table_is_quantized_and_the_table_alone_is_constant(zero):
    grid = ["s", "z"] if zero else ["s"]
    proto = build(
        [
            node("Gather", ["table", "ids"], ["g"]), node("DequantizeLinear", ["g", *grid], ["e"]),
            node("DequantizeLinear", ["wq", "s", "z"], ["wd"]), node("MatMul", ["e", "wd"], ["y"]),
        ],
        {"ids": ["n", "t"]}, {"y": ["n", "t", 4]},
        {**GRID, "table": np.ones((9, 8), np.int8), "wq": np.ones((8, 4), np.int8)}, types={"ids": TensorProto.INT64},
    )  # fmt: skip
    model = Model.from_proto(proto)
    flow = Flow(model)
    assert flow.pair_type(flow.nodes["e"]) is Precision.INT8
    assert flow.verdict(flow.nodes["y"]).precision is flow.verdict(flow.nodes["g"]).precision is Precision.INT8
    assert is_constant(flow.nodes["wd"].outputs[0]) and not is_constant(flow.nodes["g"].outputs[0])


def test_floats_that_are_moved_for_a_quantizer_are_not_taken_for_quantized():
    proto = build(
        [node("Transpose", ["x"], ["t"]), node("QuantizeLinear", ["t", "s", "z"], ["q"]),
         node("DequantizeLinear", ["q", "s", "z"], ["d"]), node("MatMul", ["d", "w"], ["y"])],
        {"x": [4, 3]}, {"y": [3, 5]}, {**GRID, "w": normal(4, 5)},
    )  # fmt: skip
    flow = Flow(Model.from_proto(proto))
    assert flow.verdict(flow.nodes["t"]).precision is None and flow.verdict(flow.nodes["y"]).precision is None


@pytest.mark.parametrize(
    ("zero", "weights", "reason"),
    [
        # onnxruntime's default: without a zero point a QuantizeLinear makes uint8
        (np.uint8(3), np.int8, EngineCode.INPUT_TYPES_DIFFER(types=("uint8", "int8"))),
        (None, np.int8, EngineCode.INPUT_TYPES_DIFFER(types=("uint8", "int8"))),
        (np.uint16(3), np.int8, EngineCode.INPUT_TYPES_DIFFER(types=("uint16", "int8"))),
        (np.uint8(3), np.uint8, EngineCode.TYPE_WITHOUT_KERNELS(type="uint8")),
        (None, np.uint8, EngineCode.TYPE_WITHOUT_KERNELS(type="uint8")),
    ],
)
def test_types_that_tensorrt_computes_nothing_in_are_named(zero, weights, reason):
    grid = ["s"] if zero is None else ["s", "z"]
    proto = build(
        [node("QuantizeLinear", ["x", *grid], ["q"]), node("DequantizeLinear", ["q", *grid], ["d"]),
         node("DequantizeLinear", ["wq", "s"], ["wd"]), node("MatMul", ["d", "wd"], ["y"])],
        {"x": [4, 3]}, {"y": [4, 5]},
        {"s": np.float32(0.05), "wq": np.ones((3, 5), weights), **({} if zero is None else {"z": zero})}, opset=21,
    )  # fmt: skip
    flow = Flow(Model.from_proto(proto))
    found = flow.verdict(next(one for one in flow.nodes.values() if one.op == "MatMul"))
    assert found == ComputeType(None, reason) and all(part in sentence(found.reason) for part in ("uint", "quantized"))
