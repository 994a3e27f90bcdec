"""Weights that are quantized once have the values that onnxruntime gives them in every run."""

from __future__ import annotations

import gc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from toolkit.graph.ort_forms import quantized_once
from toolkit.graph.ort_forms.quantized_once import quantize_weights
from toolkit.graph.proto.light import LARGE, LightModel
from toolkit.graph.sessions.session import session

ROWS, COLUMNS = 64, LARGE // 64


def _model(kind=np.int8, axis=None, zero=0, name="w", columns=COLUMNS, **more) -> onnx.ModelProto:
    random = np.random.default_rng(3)
    weight = (40 * random.standard_normal((ROWS, columns))).astype(np.float32)
    # ties, and values beyond the range
    weight[0] = np.arange(columns) * np.float32(0.5)
    count = {None: 0, 0: ROWS, 1: columns}[axis]
    scale = random.uniform(0.1, 1.0, count or ()).astype(np.float32)
    scale.reshape(-1)[:1] = 1
    attributes = {} if axis is None else {"axis": axis}
    pair = [scale, np.full(scale.shape, zero, kind)]
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", [name, "scale", "zero"], ["q"], "q", **attributes, **more),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], "dq", **attributes, **more),
            helper.make_node("MatMul", ["x", "dq"], ["y"], "layer"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, ROWS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, columns])],
        [numpy_helper.from_array(v, n) for v, n in zip([weight, *pair], ["w", "scale", "zero"])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize(("axis", "zero"), [(None, 0), (None, 7), (0, 0), (1, 3), (1, 0)])
def test_the_values_are_those_of_onnxruntime(kind, axis, zero, monkeypatch):
    # a part has seven rows
    monkeypatch.setattr("toolkit.base.parts.PART_BYTES", 4 * COLUMNS * 7)
    proto = _model(kind, axis, zero)
    wanted = session(proto, ["q", "y"], packed=False).run({"x": np.eye(ROWS, dtype=np.float32)})
    assert np.ptp(wanted["q"].astype(int)) > 100
    light = LightModel.of(proto)
    quantize_weights(light)
    assert [node.op_type for node in light.proto.graph.node] == ["DequantizeLinear", "MatMul"]
    assert light.weights.keys() == {"q"} and light.weights["q"].dtype == kind
    assert np.array_equal(light.weights["q"], wanted["q"])
    found = session(light, packed=False).run({"x": np.eye(ROWS, dtype=np.float32)})
    assert found["y"].tobytes() == wanted["y"].tobytes()


def test_scales_may_be_so_many_that_they_are_beside_the_message():
    proto = _model(axis=1, zero=2, columns=LARGE)
    wanted = session(proto, ["q"], packed=False).run({"x": np.eye(ROWS, dtype=np.float32)})
    light = LightModel.of(proto)
    assert light.weights.keys() == {"w", "scale", "zero"}
    quantize_weights(light)
    assert [node.op_type for node in light.proto.graph.node] == ["DequantizeLinear", "MatMul"]
    assert light.weights.keys() == {"q", "scale", "zero"}
    assert np.array_equal(light.weights["q"], wanted["q"])


def test_a_weight_whose_pair_is_bypassed_is_not_quantized_for_nobody():
    """As a batch is looked at without pairs: onnxruntime refuses values that nothing reads."""
    bypassed = _model(axis=1)
    bypassed.graph.node[1].CopyFrom(helper.make_node("Identity", ["w"], ["dq"], "dq"))
    weight = numpy_helper.to_array(bypassed.graph.initializer[0]).copy()
    light = LightModel.of(bypassed)
    quantize_weights(light)
    assert [one.op_type for one in light.proto.graph.node] == ["Identity", "MatMul"]
    assert light.weights.keys() == {"w"}
    # the same through a session, which does so itself
    bypassed = _model(axis=1)
    bypassed.graph.node[1].CopyFrom(helper.make_node("Identity", ["w"], ["dq"], "dq"))
    loaded = session(LightModel.of(bypassed), optimise=False, packed=False)
    assert np.array_equal(loaded.run({"x": np.eye(ROWS, dtype=np.float32)})["y"], weight)


def test_what_it_does_not_know_stays():
    wide = _model()
    wide.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.zeros((), np.int16), "zero"))
    broken = _model()
    values = numpy_helper.to_array(broken.graph.initializer[0]).copy()
    values[1, 1] = np.nan
    broken.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))
    asked = _model()
    asked.graph.output.append(onnx.ValueInfoProto(name="q"))
    for proto in (wide, broken, asked, _model(name="x")):
        light = LightModel.of(proto)
        before = light.proto.SerializeToString()
        quantize_weights(light)
        assert light.proto.SerializeToString() == before


def test_sessions_share_what_cannot_change_and_it_goes_with_the_weight():
    light = LightModel.of(_model())
    light.weights["w"].flags.writeable = False
    one, other = light.copy(), light.copy()
    for model in (one, other):
        quantize_weights(model)
    assert one.weights["q"] is other.weights["q"]
    changed = LightModel.of(_model())
    changed.weights["w"] = changed.weights["w"].copy()
    quantize_weights(changed)
    changed.weights.clear()
    del light, one, other, model, changed
    gc.collect()
    assert not quantized_once._known
