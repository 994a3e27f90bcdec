"""Models of opsets that are not read, made newer as the refusal says."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper, version_converter

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, placeholder_context, run
from toolkit import Model
from toolkit.base.errors import ModelError


def old_proto(opset):
    """As exporters of 2018 wrote: IR version 3, whose weights are inputs too, and Dropout, Upsample and Reshape."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]), node("Relu", ["n"], ["r"]),
        node("Dropout", ["r"], ["d"], ratio=0.5), node("MaxPool", ["d"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Upsample", ["p"], ["u"], mode="nearest", scales=[1.0, 1.0, 2.0, 2.0]), node("Sum", ["u", "r"], ["a"]),
        node("Reshape", ["a", "shape"], ["f"]), node("Gemm", ["f", "g", "o"], ["y"]),
    ]  # fmt: skip
    weights = {"w": normal(4, 3, 3, 3), "s": 1 + 0.1 * normal(4), "b": normal(4), "m": normal(4), "v": np.ones(4, np.float32),
               "shape": np.array([2, 256]), "g": normal(256, 5), "o": normal(5)}  # fmt: skip
    proto = build(nodes, {"x": [2, 3, 8, 8]}, {"y": None}, weights, opset=opset, ir_version=3)
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return proto


@pytest.mark.parametrize("opset", [7, 8])
@pytest.mark.parametrize("target", [9, 13, 17])
def test_what_a_refusal_of_an_old_opset_advises_helps(opset, target):
    proto, x = old_proto(opset), normal(2, 3, 8, 8)
    with pytest.raises(ModelError, match=f"opset {opset}; qtool reads 9 to") as caught:
        Model.from_proto(proto)
    assert "onnx.version_converter and set its ir_version to 8" in caught.value.remedy
    wanted = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    made = version_converter.convert_version(proto, target)
    made.ir_version = 8
    model = Model.from_proto(made)
    assert [tensor.name for tensor in model.graph.inputs] == ["x"]
    np.testing.assert_allclose(run(model, {"x": x})[0], wanted, rtol=1e-4, atol=1e-4)
    context = placeholder_context()
    InsertQDQ()(model, context)
    assert any(one.op == "QuantizeLinear" for one in model.nodes)
