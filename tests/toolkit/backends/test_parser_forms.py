from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.conftest import normal, ops, run
from tests.toolkit.backends.backend_models import FLOAT, INT8, make, node, pair, tensor, weights
from toolkit import Code, Journal
from toolkit.backends.parser_forms import float_weights, state_kernel_shapes


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


def test_kernel_shape_comes_from_the_weights_behind_the_pair():
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
