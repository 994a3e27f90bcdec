from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.conftest import normal, ops, run
from tests.toolkit.backends.backend_models import FLOAT, INT8, make, node, pair, tensor, weights
from toolkit import Code, Journal, Model
from toolkit.backends.codes import EngineCode
from toolkit.backends.lowering.parser_forms import (
    convolve_pooled,
    float_weights,
    state_kernel_shapes,
    state_loop_conditions,
)


def conv(zero=True, per_channel=True, **attrs):
    q, qi = pair("x", scale=FLOAT)
    w, wi = weights("w", (8, 4, 3, 5), scale=FLOAT)
    if not per_channel:
        wi = [wi[0], tensor("w_s", 0.01), tensor("w_z", 0, INT8)]
        del w[0].attribute[:]
    if not zero:
        del w[0].input[2]
        wi = wi[:2]
    return make(
        [*q, *w, node("Conv", ["x_dq", "w_dq"], ["y"], "conv", **attrs)],
        {"x": (FLOAT, ["n", 4, 8, 8])}, {"y": (FLOAT, ["n", 8, 6, 4])}, [*qi, *wi], opset=17, ir=8,
    )  # fmt: skip


def test_kernel_shape_comes_from_the_weights_before_the_pair():
    model, journal = conv(), Journal()
    x = normal(2, 4, 8, 8)
    before = run(model, {"x": x})[0]
    assert state_kernel_shapes(model, journal) == 1
    assert model.node("conv").attrs["kernel_shape"] == [3, 5]
    onnx.checker.check_model(model.to_proto())
    assert np.array_equal(run(model, {"x": x})[0], before)
    assert state_kernel_shapes(model, journal) == 0


def test_a_kernel_shape_that_is_there_stays_and_an_unknown_one_is_said():
    model, journal = conv(kernel_shape=[3, 5]), Journal()
    assert state_kernel_shapes(model, journal) == 0 and not journal.events
    unknown = make(
        [node("Conv", ["x", "w"], ["y"], "conv")],
        {"x": (FLOAT, [1, 4, 8, 8]), "w": (FLOAT, ["o", "i", "h", "w"])}, {"y": (FLOAT, ["n", "o", "p", "q"])}, opset=17, ir=8,
    )  # fmt: skip
    assert state_kernel_shapes(unknown, journal) == 0
    assert [(e.node, e.why) for e in journal.events] == [("conv", Code.KERNEL_SHAPE_UNKNOWN())]


@pytest.mark.parametrize("nested", [False, True])
def test_a_loop_without_a_condition_gets_one_that_is_true(nested):
    from tests.control_flow import conv_in_loop, subgraph

    proto = conv_in_loop(condition=False)
    (loop,) = [one for one in proto.graph.node if one.op_type == "Loop"]
    if nested:
        body = subgraph([loop], {"y": ["n", 4, 8]}, {})
        other = subgraph([node("Identity", ["first"], ["same"], "other")], {"same": ["n", 4, 8]}, {})
        inner = node("If", ["true"], ["y"], "if", then_branch=body, else_branch=other)
        loop.CopyFrom(inner)
    fed, model, journal = {"x": normal(2, 4, 8)}, Model.from_proto(proto), Journal()
    before = run(model, fed)[0]
    assert state_loop_conditions(model, journal) == 1 and journal.events[-1].why == EngineCode.LOOP_CONDITIONS(loops=1)
    onnx.checker.check_model(model.to_proto())
    assert np.array_equal(run(model, fed)[0], before)
    assert state_loop_conditions(model, journal) == 0


def test_transposed_convolutions_count_their_kernel_from_the_third_dimension():
    model = make(
        [node("ConvTranspose", ["x", "w"], ["y"], "up", strides=[2, 2])],
        {"x": (FLOAT, [1, 4, 8, 8])}, {"y": (FLOAT, [1, 6, 16, 17])}, [tensor("w", np.ones((4, 6, 2, 3)))], opset=17, ir=8,
    )  # fmt: skip
    assert state_kernel_shapes(model, Journal()) == 1 and model.node("up").attrs["kernel_shape"] == [2, 3]


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
def test_stored_weights_become_float_with_the_very_same_integers(zero, per_channel):
    model, journal = conv(zero, per_channel), Journal()
    stored = next(v for n, v in ((i.name, i) for i in model.to_proto().graph.initializer) if n == "w")
    x = normal(2, 4, 8, 8)
    before = run(model, {"x": x})[0]
    assert float_weights(model, journal) == 1
    assert ops(model)["QuantizeLinear"] == 2
    proto = model.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    assert all(i.data_type != TensorProto.INT8 or np.prod(i.dims) <= 8 for i in proto.graph.initializer)
    assert np.allclose(run(model, {"x": x})[0], before, atol=1e-5)
    made = next(i for i in proto.graph.initializer if i.name == "w_float")
    scale = np.float32(0.01)
    again = np.clip(np.rint(onnx.numpy_helper.to_array(made) / scale), -128, 127).astype(np.int8)
    assert np.array_equal(again, onnx.numpy_helper.to_array(stored))
    assert float_weights(model, journal) == 0


def test_weights_with_a_scale_for_every_block_stay_as_they_are():
    model = make(
        [node("DequantizeLinear", ["w", "s"], ["w_dq"], "dq", axis=0, block_size=2), node("MatMul", ["x", "w_dq"], ["y"], "mm")],
        {"x": (FLOAT, ["n", 4])}, {"y": (FLOAT, ["n", 3])},
        [tensor("w", np.ones((4, 3)), INT8), tensor("s", np.full((2, 3), 0.1))],
    )  # fmt: skip
    journal = Journal()
    assert float_weights(model, journal) == 0 and ops(model) == {"DequantizeLinear": 1, "MatMul": 1}
    assert [(e.node, e.rule) for e in journal.events] == [("dq", "blocks")]


def head(turn="Flatten", transposed=1, bias="b", scales="rows", in_front=False, other=False, **attrs):
    """Gemm on what Flatten, Reshape or Squeeze makes of pooled channels, with a pair on either side of that."""
    shape = (5, 4) if transposed else (4, 5)
    flat = {"Flatten": {"axis": 1}, "Reshape": {}, "Squeeze": {}}[turn]
    q, qi = pair("p" if in_front else "f", scale=FLOAT)
    w, wi = weights("w", shape, axis=(0 if transposed else 1) if scales == "rows" else int(transposed), scale=FLOAT)
    if scales == "one":
        wi = [wi[0], tensor("w_s", 0.01), tensor("w_z", 0, INT8)]
        del w[0].attribute[:]
    extra = {
        "Reshape": [tensor("to", [-1, 4], TensorProto.INT64)],
        "Squeeze": [tensor("to", [2, 3], TensorProto.INT64)],
    }
    nodes = [
        node("GlobalAveragePool", ["x"], ["p"], "pool"),
        node(turn, ["p_dq" if in_front else "p", *(["to"] if turn != "Flatten" else [])], ["f"], "flat", **flat),
        *(q if in_front else []), *([] if in_front else q), *w,
        node("Gemm", ["f" if in_front else "f_dq", "w_dq", *([bias] if bias else [])], ["y"], "gemm", transB=transposed, **attrs),
        *([node("Relu", ["f"], ["z"], "relu")] if other else []),
    ]  # fmt: skip
    if in_front:
        nodes = [nodes[0], *q, nodes[1], *w, *nodes[2 + len(q) + len(w) :]]
    outputs = {"y": (FLOAT, ["n", 5]), **({"z": (FLOAT, ["n", 4])} if other else {})}
    biases = {"b": [tensor("b", normal(5))], "row": [tensor("row", normal(1, 5))], "scalar": [tensor("scalar", 0.3)],
              "column": [tensor("column", normal(5, 1))]}  # fmt: skip
    made = [*qi, *wi, *extra.get(turn, []), *biases.get(bias, [])]
    model = make(nodes, {"x": (FLOAT, ["n", 4, 3, 3])}, outputs, made, opset=17, ir=8)
    float_weights(model, Journal())
    return model


@pytest.mark.parametrize(
    "changes",
    [{}, {"turn": "Reshape"}, {"turn": "Squeeze"}, {"transposed": 0}, {"bias": "row"}, {"bias": None}, {"scales": "one"},
     {"in_front": True}, {"in_front": True, "transposed": 0, "scales": "one"}],
)  # fmt: skip
def test_a_quantized_gemm_on_pooled_channels_becomes_a_convolution(changes):
    model, journal, x = head(**changes), Journal(), normal(3, 4, 3, 3)
    before, names = run(model, {"x": x})[0], sorted(model.node_names())
    assert convolve_pooled(model, journal) == 1
    proto = model.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    conv, flat = model.node("gemm"), model.node("flat")
    assert conv.op == "Conv" and conv.attrs == {"kernel_shape": [1, 1]} and flat.op == "Flatten"
    assert sorted(model.node_names()) == names and flat.inputs[0] is conv.outputs[0] and flat.outputs[0].name == "y"
    assert all(tensor.inputs[0].op == "DequantizeLinear" for tensor in conv.inputs[:2])
    assert np.allclose(run(model, {"x": x})[0], before, atol=1e-5)
    assert [(e.node, e.what, e.why) for e in journal.events] == [("gemm", Code.CONVOLVED(), Code.WRITES_OUTPUT())]
    assert convolve_pooled(model, journal) == 0


@pytest.mark.parametrize(
    "changes", [{"alpha": 0.5}, {"bias": "scalar"}, {"bias": "column"}, {"scales": "columns"}, {"other": True}]
)
def test_other_gemms_stay_as_they_are(changes):
    """Of five rows, a column of five values is one per row, and no bias of the five channels."""
    model = head(**changes)
    assert convolve_pooled(model, Journal()) == 0 and model.node("gemm").op == "Gemm"
