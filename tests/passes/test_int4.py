"""INT4 weights in blocks: where pairs go, what they hold, how they are rounded, searched and built."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from passes.insert_qdq import InsertQDQ
from passes.search_precision import SearchPrecision
from passes.smooth import Smooth
from passes.strip_qdq import StripQDQ
from tests.conftest import build, node, normal, ops, run, said
from toolkit import Code, Context, Journal, Model, Precision
from toolkit.backends.attribution.nodes import attribute
from toolkit.backends.backend import EngineSettings
from toolkit.backends.codes import EngineCode
from toolkit.backends.lowering.strong import lower
from toolkit.backends.lowering.weak import lower_weak
from toolkit.backends.rtx import RtxBackend
from toolkit.backends.tensorrt import TensorRTBackend
from toolkit.base.errors import BackendError, RecipeError
from toolkit.base.profiles import Profiles
from toolkit.calibration.provider import Calibrator
from toolkit.calibration.weights import weight_amax
from toolkit.data.dataset import CalibrationData
from toolkit.placement.qdq import storable_scale
from toolkit.simulation.channels import sqnr_against
from toolkit.simulation.simulation import Settings, Simulation
from toolkit.simulation.switches import fake_quantized

INT4 = {"dtype": "int4", "block": 16}


def layers(width=32, gain=None) -> Model:
    """A convolution, a normalization, a MatMul, a Gemm in each orientation, scores of two activations, a narrow layer."""
    gain = np.ones(width, np.float32) if gain is None else gain
    nodes = [
        node("LayerNormalization", ["x", "g", "s"], ["h"]), node("MatMul", ["h", "w"], ["m"]), node("Relu", ["m"], ["r"]),
        node("Gemm", ["r", "v", "b"], ["p"]), node("Gemm", ["p", "u"], ["q"], transB=1), node("Gemm", ["q", "n"], ["y"]),
    ]  # fmt: skip
    weights = {"g": gain, "s": normal(width, seed=9, scale=0.1), "w": normal(width, 48, seed=1, scale=0.2),
               "v": normal(48, 32, seed=2, scale=0.2), "b": normal(32, seed=3), "u": normal(20, 32, seed=4, scale=0.2),
               "n": normal(20, 8, seed=5, scale=0.2)}  # fmt: skip
    return Model.from_proto(build(nodes, {"x": ["n", width]}, {"y": ["n", 8]}, weights))


def context_for(model, folder=None):
    # of few directions, so that most errors of the weights have no effect
    mixed = normal(48, 4, seed=6) @ normal(4, 32, seed=7)
    data = CalibrationData.open([{"x": row[None]} for row in mixed], model)
    return Context(provider=Calibrator(data, method="minmax"), folder=folder), data


def declined(context):
    return {e.node: e.why for e in context.journal.of("declined")}


def test_only_weights_that_blocks_divide_get_pairs_and_no_data_is_asked_for():
    model, x = layers(), {"x": normal(5, 32, seed=8)}
    weights = {name: model.constant(model.graph.tensors()[name]).copy() for name in "wvu"}
    context = Context()
    InsertQDQ(**INT4)(model, context)
    model.check()
    assert model.opset == 21 and ops(model)["QuantizeLinear"] == 3
    assert {name for name, ask in context.plan.items() if ask.precision is Precision.INT4} == {"m", "p", "q"}
    assert declined(context)["y"] == Code.BLOCK_DOES_NOT_DIVIDE(size=20, block=16, fits=[])
    expected = layers()
    for layer, name, axis in (("m", "w", 0), ("p", "v", 0), ("q", "u", 1)):
        quantize = model.node(layer).inputs[1].inputs[0].inputs[0].inputs[0]
        assert quantize.attrs == {"axis": axis, "block_size": 16}
        scale = storable_scale(weight_amax(weights[name], axis, precision=Precision.INT4, block=16), Precision.INT4)
        np.testing.assert_array_equal(model.constant(quantize.inputs[1]), scale)
        values = fake_quantized(weights[name], scale, axis, Precision.INT4, 16)
        expected.node(layer).inputs[1].values = values
    np.testing.assert_allclose(run(model, x)[0], run(expected, x)[0], rtol=1e-5, atol=1e-6)
    # each block has its own range
    assert scale.shape == (20, 2) and np.all(np.abs(values - weights["u"]) <= np.repeat(scale, 16, axis=1) * 0.5001)


@pytest.mark.parametrize("rest", [Precision.FP32, Precision.FP16])
def test_lowered_weights_are_stored_in_four_bits(rest):
    model, x = layers(), {"x": normal(5, 32, seed=8)}
    context = Context()
    InsertQDQ(**INT4)(model, context)
    made = lower(model, context.plan, rest=rest).model
    assert ops(made).get("QuantizeLinear", 0) == 0 and ops(made)["DequantizeLinear"] == 3
    stored = {t.name: t for t in made.to_proto().graph.initializer if t.data_type == TensorProto.INT4}
    assert sorted(len(t.raw_data) for t in stored.values() if "zero_point" not in t.name) == [320, 768, 768]
    np.testing.assert_allclose(run(made, x)[0], run(model, x)[0], rtol=2e-2, atol=2e-2)


def test_what_is_no_matrix_of_weights_stays_float():
    nodes = [node("Conv", ["x", "w"], ["c"]), node("MatMul", ["c", "c"], ["s"]), node("MatMul", ["s", "t"], ["y"])]
    model = Model.from_proto(
        build(nodes, {"x": [1, 16, 16, 16]}, {"y": None}, {"w": normal(16, 16, 1, 1), "t": normal(1, 16, 16, 16)})
    )
    context = Context()
    InsertQDQ(**INT4)(model, context)
    assert declined(context) == {
        "c": Code.NO_BLOCKS_IN(op="Conv", precision="int4"),
        "s": Code.NO_WEIGHT_MATRIX(precision="int4", rank=None), "y": Code.NO_WEIGHT_MATRIX(precision="int4", rank=4),
    }  # fmt: skip
    assert "QuantizeLinear" not in ops(model)


def test_a_block_that_would_fit_is_named():
    context = Context()
    InsertQDQ(dtype="int4")(layers(), context)
    assert declined(context)["m"] == Code.BLOCK_DOES_NOT_DIVIDE(size=32, block=128, fits=[32, 16])


@pytest.mark.parametrize(("settings", "gain"), [(INT4, 3), ({"dtype": "fp8"}, 1)])
def test_weights_rounded_for_the_output_leave_it_nearer(settings, gain):
    model, levels = layers(), {}
    for weights in ("mse", "output"):
        context, data = context_for(model)
        twin = model.copy()
        InsertQDQ(**settings, weights=weights, include=["m"])(twin, context)
        # the weights' noise alone
        twin.node("m").inputs[0] = twin.graph.tensors()["h"]
        twin.tidy()
        levels[weights] = sqnr_against(model, twin, data)
    assert levels["output"] > levels["mse"] + gain
    (noise,) = [e.why.values for e in context.journal.of("changed") if e.why.code is Code.ROUNDING_NOISE]
    assert noise["after_db"] > noise["before_db"] + gain


def test_large_channels_get_finer_steps():
    gain = np.ones(32, np.float32)
    gain[[3, 12, 20]] = 30
    model, levels = layers(gain=gain), {}
    x = {"x": normal(6, 32, seed=11)}
    for smooth in (False, True):
        data = CalibrationData.open([{"x": row[None]} for row in normal(48, 32, seed=6)], model)
        context = Context(provider=Calibrator(data, method="minmax"))
        # the layer with the large channels alone: how the noise of several adds up is chance in a model so small
        for name in "pq":
            context.plan.ask(name, Precision.FP32, "not looked at")
        twin = model.copy()
        if smooth:
            Smooth(**INT4, insert=False)(twin, context)
            np.testing.assert_allclose(run(twin, x)[0], run(model, x)[0], rtol=1e-3, atol=1e-3)
            assert ops(twin) == ops(model)
            (effect,) = said(context.journal, Code.EFFECT)
            assert effect["quantized"] == "int4" and effect["applied"]
        InsertQDQ(**INT4)(twin, context)
        levels[smooth] = sqnr_against(model, twin, data)
    assert levels[True] > levels[False] + 6
    assert effect["after_db"] - effect["before_db"] == pytest.approx(levels[True] - levels[False], abs=0.3)


@pytest.mark.parametrize("weights", ["mse", "output"])
def test_the_simulation_is_what_insert_qdq_gives(weights):
    model = layers()
    context, data = context_for(model)
    step = InsertQDQ(**INT4, weights=weights)
    settings = Settings(precision=Precision.INT4, weights=weights)
    sim = Simulation(model, context.ranges(model, []), data, settings=settings, placer=step.place,
                     rounder=step.rounder(model, context))  # fmt: skip
    assert sim.names == ["m", "p", "q"]
    for kept in ([], ["p"], ["m", "q"]):
        twin = model.copy()
        InsertQDQ(**INT4, weights=weights, exclude=kept)(twin, context)
        assert sim.without(kept).sqnr_db == pytest.approx(sqnr_against(model, twin, data), abs=0.01)


def test_a_layer_that_int4_damages_is_tried_in_int8(tmp_path):
    model = layers()
    weight = model.node("p").inputs[1]
    weight.values = weight.values * np.where(np.arange(48) % 16 == 0, 30, 1)[:, None].astype(np.float32)
    for also in (None, "int8"):
        twin = model.copy()
        context, data = context_for(twin, tmp_path)
        SearchPrecision(**INT4, min_sqnr_db=18, also=also, try_ranges=False)(twin, context)
        found = {name: str(context.plan.get(name).precision) for name in ("m", "p", "q")}
        assert sqnr_against(model, twin, data) > 18
        assert found["p"] == (also or "fp16") and "int4" in found.values()


def test_blocks_of_another_type_are_refused():
    with pytest.raises(RecipeError, match="block = 32 has no effect"):
        InsertQDQ(block=32)


def test_a_parser_that_is_too_old_is_refused_with_the_type_that_is_too_new():
    model, context = layers(), Context()
    InsertQDQ(**INT4)(model, context)
    backend = TensorRTBackend({"version": "8.6.0", "strong": False, "weak": True, "implicit": True})
    with pytest.raises(BackendError, match=r"supports 17 at most.*INT4 pairs need opset 21"):
        lower_weak(model, context.plan, EngineSettings(typing="weak"), backend, Journal())


def test_stripping_gives_the_model_back():
    model, x = layers(), {"x": normal(5, 32, seed=8)}
    before = run(model, x)[0]
    InsertQDQ(**INT4)(model, Context())
    StripQDQ()(model, Context())
    assert "QuantizeLinear" not in ops(model) and "DequantizeLinear" not in ops(model)
    np.testing.assert_array_equal(run(model, x)[0], before)


@pytest.mark.rtx
def test_tensorrt_rtx_packs_the_weights(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install qtool[rtx]")
    proto = build([node("MatMul", ["x", "w"], ["y"])], {"x": [4, 1024]}, {"y": [4, 1024]}, {"w": normal(1024, 1024)})
    model, context = Model.from_proto(proto), Context()
    InsertQDQ(dtype="int4")(model, context)
    made = lower(model, context.plan, rest=Precision.FP16)
    made.model.save(tmp_path / "model.onnx")
    build_ = RtxBackend().build(
        tmp_path / "model.onnx", Profiles(), EngineSettings(compute_capabilities=("8.0", "8.9", "12.0"))
    )
    # in float16 they take 2 MiB
    assert 1024 * 1024 // 2 < len(build_.engine) < 1024 * 1024 * 3 // 2
    found = attribute(made.model, build_, made.plan)["y"]
    assert (found.precision, found.status) == (Precision.INT4, "honoured")
    assert found.reason == EngineCode.WEIGHTS_STORED(precision="int4")
