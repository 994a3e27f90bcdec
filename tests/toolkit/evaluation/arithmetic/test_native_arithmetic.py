from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from tests.conftest import build, node, run
from tests.control_flow import subgraph, switch
from toolkit import Model, session
from toolkit.evaluation.arithmetic.native_arithmetic import quantized_in_float32

EVERY = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def quantized(scale, ops, opset=19):
    """A sum in float16, which onnxruntime computes in float32 and rounds, ``ops`` after it, and a pair."""
    nodes, last = [node("Add", ["x", "c"], ["s"])], "s"
    for op in ops:
        nodes.append(node(op, [last, "low", "high"] if op == "Clip" else [last], [last := f"{last}_{op}"]))
    nodes += [
        node("QuantizeLinear", [last, "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    stored = {"c": np.float16([0.1]), "low": np.float16(0), "high": np.float16(6), "scale": np.float16(scale)}
    types = {"x": TensorProto.FLOAT16, "y": TensorProto.FLOAT16}
    return build(nodes, {"x": ["n"]}, {"y": ["n"]}, {**stored, "zero": np.int8(0)}, opset, 10, types)


@pytest.mark.parametrize("scale", [0.05, 1 / 3, 2.0, 6e-8, 500.0])
@pytest.mark.parametrize("ops", [[], ["Clip"], ["Relu", "Clip"]])
@pytest.mark.parametrize("opset", [19, 22, 23, 24])
def test_float16_quantized_in_float32_has_the_same_values(scale, ops, opset):
    light = Model.from_proto(quantized(scale, ops, opset)).to_light()
    before = session(light.copy(), optimise="constants").run({"x": EVERY})["y"]
    found = session(quantized_in_float32(light), optimise="constants").run({"x": EVERY})["y"]
    np.testing.assert_array_equal(found, before)


def kinds(light):
    """By node what its inputs are made by."""
    makers = {name: one.op_type for one in light.proto.graph.node for name in one.output}
    return {one.op_type: [makers.get(name) for name in one.input] for one in light.proto.graph.node}


def test_only_clips_that_are_quantized_alone_are_widened():
    light = quantized_in_float32(Model.from_proto(quantized(0.1, ["Clip"])).to_light())
    assert kinds(light)["QuantizeLinear"] == ["Clip", "Cast", None] and kinds(light)["Clip"] == ["Cast"] * 3
    proto = quantized(0.1, ["Clip"])
    proto.graph.node.append(node("Add", ["s_Clip", "y"], ["z"]))
    proto.graph.output[0].name = "z"
    found = kinds(light := quantized_in_float32(Model.from_proto(proto).to_light()))
    assert found["QuantizeLinear"] == ["Cast", "Cast", None] and found["Clip"] == ["Add", None, None]
    before = run(Model.from_proto(proto), {"x": EVERY})[0]
    np.testing.assert_array_equal(run(Model.from_light(light), {"x": EVERY})[0], before)


def test_what_is_quantized_in_a_body_is_too():
    half = {"types": {"y": TensorProto.FLOAT16}}
    pair = [
        node("QuantizeLinear", ["s", "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    other = subgraph([node("Identity", ["s"], ["z"])], {"z": ["n"]}, types={"z": TensorProto.FLOAT16})
    nodes = [node("Add", ["x", "c"], ["s"]), switch("if", "yes", ["out"], subgraph(pair, {"y": ["n"]}, **half), other)]
    stored = {"c": np.float16([0.1]), "scale": np.float16(0.05), "zero": np.int8(0)}
    types = {"x": TensorProto.FLOAT16, "yes": TensorProto.BOOL, "out": TensorProto.FLOAT16}
    proto = build(nodes, {"x": ["n"], "yes": []}, {"out": ["n"]}, stored, opset=19, ir_version=9, types=types)
    light = quantized_in_float32(Model.from_proto(proto).to_light())
    (body,) = (one.g for one in light.proto.graph.node[1].attribute if one.name == "then_branch")
    assert [one.op_type for one in body.node] == ["Identity", "Cast", "Cast", "QuantizeLinear", "DequantizeLinear"]
    feeds = {"x": EVERY, "yes": np.array(True)}
    np.testing.assert_array_equal(session(light, optimise="constants").run(feeds)["out"], run(proto, feeds)[0])
