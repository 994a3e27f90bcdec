"""NVFP4 and MXFP8: where pairs go, what they compute, how they are lowered, searched, measured and built."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto

from passes.insert_qdq import InsertQDQ
from passes.search_precision import SearchPrecision
from passes.strip_qdq import StripQDQ
from tests.conftest import build, node, normal, ops, placeholder_context, run, said
from tests.passes.test_int4 import context_for, declined, layers
from toolkit import Code, Context, Model, Precision
from toolkit.backends.attribution.nodes import attribute
from toolkit.backends.backend import EngineSettings
from toolkit.backends.lowering.strong import lower
from toolkit.backends.rtx import RtxBackend
from toolkit.base.block_scales import scales_of_blocks
from toolkit.base.errors import RecipeError
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.placement.blocks import summed_axis
from toolkit.run.checks.gpu_types import types_of_pairs
from toolkit.simulation.channels import sqnr_against
from toolkit.simulation.layer_noise import LayerNoise
from toolkit.simulation.simulation import Settings, Simulation
from toolkit.simulation.switches import fake_quantized

TYPES = (Precision.NVFP4, Precision.MXFP8)
STORED = {Precision.NVFP4: ml_dtypes.float4_e2m1fn, Precision.MXFP8: ml_dtypes.float8_e4m3fn}


def wide(width=64) -> Model:
    """A MatMul and a Gemm in each orientation with biases and activations between, then one that no block divides."""
    nodes = [
        node("MatMul", ["x", "w"], ["m"]), node("Relu", ["m"], ["r"]), node("Gemm", ["r", "v", "b"], ["p"]),
        node("Gemm", ["p", "u"], ["q"], transB=1), node("Gemm", ["q", "n"], ["y"]),
    ]  # fmt: skip
    weights = {"w": normal(width, 96, seed=1, scale=0.2), "v": normal(96, 64, seed=2, scale=0.2),
               "b": normal(64, seed=3), "u": normal(20, 64, seed=4, scale=0.2), "n": normal(20, 8, seed=5, scale=0.2)}  # fmt: skip
    return Model.from_proto(build(nodes, {"x": ["n", width]}, {"y": ["n", 8]}, weights))


def reference(values, precision, whole=None):
    """Values, blocks along the last axis, in the type and back, by ml_dtypes' casts alone."""
    blocks = values.astype(np.float32).reshape(*values.shape[:-1], -1, precision.block)
    amax = np.abs(blocks).max(axis=-1, keepdims=True)
    if precision is Precision.NVFP4:
        whole = np.float32(whole)
        stored = np.clip(amax / np.float32(6) / whole, 2.0**-9, 448).astype(ml_dtypes.float8_e4m3fn)
        scale = stored.astype(np.float32) * whole
    else:
        # the E8M0 number that is the next above
        exact = np.where(amax > 0, amax, 1) / np.float32(448)
        scale = exact.astype(ml_dtypes.float8_e8m0fnu).astype(np.float32)
        scale = np.where(scale < exact, 2 * scale, np.where(scale / 2 >= exact, scale / 2, scale))
    kept = np.clip(blocks / scale, -precision.max, precision.max).astype(STORED[precision]).astype(np.float32)
    return (kept * scale).reshape(values.shape)


def quantized(precision, model=None):
    model = model or wide()
    context, _ = context_for_samples(model)
    twin = model.copy()
    InsertQDQ(dtype=str(precision))(twin, context)
    return model, twin, context


def context_for_samples(model):
    from toolkit.calibration.provider import Calibrator
    from toolkit.data.dataset import CalibrationData

    x = model.graph.inputs[0]
    rows = normal(24, x.shape[-1], seed=6).astype(x.dtype)
    data = CalibrationData.open([{"x": row[None]} for row in rows], model)
    return Context(provider=Calibrator(data)), data


@pytest.mark.parametrize("precision", TYPES)
def test_layers_that_blocks_divide_get_both_pairs(precision):
    model, twin, context = quantized(precision)
    assert twin.opset == 23 and ops(twin)["QuantizeLinear"] == ops(twin)["DequantizeLinear"] == 6
    assert {name for name, ask in context.plan.items() if ask.precision is precision} == {"m", "p", "q"}
    assert declined(context)["y"] == Code.BLOCK_DOES_NOT_DIVIDE(size=20, block=precision.block, fits=[])
    assert said(context.journal, Code.BLOCKS_SCALED_ON_GPU) == [{"precision": precision, "block": precision.block}]
    ranged = precision is Precision.NVFP4
    assert InsertQDQ(dtype=str(precision)).ranges_wanted(wide(), context) == (["x", "r", "p"] if ranged else None)
    ranges = context.ranges(model, ["x", "r", "p"], precision).tensors if ranged else {}
    # layer by layer what the types say, whole layers in float64
    feeds = {"x": normal(24, 64, seed=6)}
    value, tensors = feeds["x"], {"x": "m", "r": "p", "p": "q"}
    for name, layer in tensors.items():
        one = model.node(layer)
        weight = model.constant(one.inputs[1])
        turned = weight.T if summed_axis(one) == 0 else weight
        whole = np.abs(turned).max() / 2688
        back = reference(turned, precision, whole)
        known = fake_quantized(weight, scales_in_blocks(weight, summed_axis(one), precision), summed_axis(one), precision, precision.block)  # fmt: skip
        np.testing.assert_allclose(back.T if summed_axis(one) == 0 else back, known, rtol=2e-6)
        read = reference(value, precision, ranges[name].amax / 2688 if ranges else None)
        value = read @ back.T + (model.constant(one.inputs[2]) if len(one.inputs) > 2 else 0)
        value = np.maximum(value, 0) if name == "x" else value
    np.testing.assert_allclose(
        run(twin, feeds)[0], value @ model.constant(model.node("y").inputs[1]), rtol=2e-2, atol=2e-2
    )


def scales_in_blocks(weight, axis, precision):
    moved = np.moveaxis(weight, axis, -1)
    amax = np.abs(moved.reshape(*moved.shape[:-1], -1, precision.block)).max(axis=-1)
    return np.moveaxis(scales_of_blocks(amax, precision), -1, axis)


@pytest.mark.parametrize("rest", [Precision.FP32, Precision.FP16, Precision.BF16])
@pytest.mark.parametrize("precision", TYPES)
def test_lowering_writes_tensorrts_operators_of_the_same_values(tmp_path, precision, rest):
    _, twin, context = quantized(precision)
    made = lower(twin, context.plan, rest=rest).model
    kinds = ops(made)
    assert "QuantizeLinear" not in kinds
    if precision is Precision.NVFP4:
        assert kinds["TRT_FP4DynamicQuantize"] == 3 and kinds["DequantizeLinear"] == 12
    else:
        assert kinds["TRT_MXFP8DynamicQuantize"] == 3 and kinds["TRT_MXFP8DequantizeLinear"] == 6
    path = made.save(tmp_path / "model.onnx", ir_version=10)
    again, x = Model.load(path), {"x": normal(5, 64, seed=8)}
    assert not again.to_proto().functions and precision in types_of_pairs(again)
    exact = rest is Precision.FP32
    np.testing.assert_allclose(run(again, x)[0], run(twin, x)[0], rtol=0 if exact else 0.1, atol=0 if exact else 0.2)
    stored = {t.name: t for t in again.to_proto().graph.initializer}
    values = 64 * 96 + 96 * 64 + 64 * 20
    if precision is Precision.NVFP4:
        packed = [t for t in stored.values() if t.data_type == TensorProto.FLOAT4E2M1]
        scales = [t for t in stored.values() if t.data_type == TensorProto.FLOAT8E4M3FN]
        assert (
            sum(len(t.raw_data) for t in packed) == values // 2 and sum(np.prod(t.dims) for t in scales) == values // 16
        )
    else:
        assert sum(np.prod(t.dims) for t in stored.values() if t.data_type == TensorProto.UINT8) == values // 32
    rest_bytes = (64 + 160) * rest.bits // 8
    assert values * precision.bits // 8 + values // precision.block + rest_bytes <= again.weight_bytes() < 1.1 * values


@pytest.mark.parametrize("weights", ["mse", "output"])
@pytest.mark.parametrize("precision", TYPES)
def test_the_simulation_is_what_insert_qdq_gives(precision, weights):
    model = wide()
    context, data = context_for_samples(model)
    step = InsertQDQ(dtype=str(precision), weights=weights)
    ranges = context.ranges(model, step.wanted(model, context), precision)
    sim = Simulation(model, ranges, data, settings=Settings(precision=precision, weights=weights), placer=step.place,
                     rounder=step.rounder(model, context))  # fmt: skip
    assert sim.names == ["m", "p", "q"]
    for kept in ([], ["p"], ["m", "q"]):
        twin = model.copy()
        InsertQDQ(dtype=str(precision), weights=weights, exclude=kept)(twin, context)
        assert sim.without(kept).sqnr_db == pytest.approx(sqnr_against(model, twin, data), abs=0.01)


def test_weights_rounded_for_the_output_leave_it_nearer():
    model, levels = layers(), {}
    for weights in ("minmax", "mse", "output"):
        context, data = context_for(model)
        twin = model.copy()
        InsertQDQ(dtype="nvfp4", weights=weights, include=["m"])(twin, context)
        # the weights' noise alone
        twin.node("m").inputs[0] = twin.graph.tensors()["h"]
        twin.tidy()
        levels[weights] = sqnr_against(model, twin, data)
    assert levels["output"] > max(levels["mse"], levels["minmax"]) + 1


def test_what_has_no_form_in_blocks_stays_float_and_says_why():
    nodes = [
        node("Conv", ["x", "w"], ["c"]), node("MatMul", ["c", "v"], ["m"]), node("Reshape", ["m", "s"], ["f"]),
        node("Gemm", ["f", "u"], ["t"], transA=1), node("MatMul", ["t", "k"], ["y"]),
    ]  # fmt: skip
    weights = {"w": normal(4, 4, 1, 1), "v": normal(32, 64), "u": normal(256, 64), "k": normal(64, 16),
               "s": np.array([256, -1], np.int64)}  # fmt: skip
    model = Model.from_proto(build(nodes, {"x": [1, 4, 16, 32]}, {"y": None}, weights))
    for precision, found in (
        ("nvfp4", {"m": Code.NO_BLOCKS_OF_RANK(tensor="c", rank=4, precision="nvfp4")}),
        ("mxfp8", {"m": Code.ONE_BLOCK(size=32, precision="mxfp8")}),
    ):
        context = placeholder_context()
        InsertQDQ(dtype=precision)(model.copy(), context)
        assert declined(context) == {
            "c": Code.NO_BLOCKS_IN(op="Conv", precision=precision), "t": Code.NO_BLOCKS_ACROSS(precision=precision), **found,
        }  # fmt: skip
        assert [name for name, ask in context.plan.items() if ask.precision.quantized] == ["y"]


@pytest.mark.parametrize("precision", TYPES)
def test_a_weight_that_two_layers_read_is_stored_once(precision):
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["r"]), node("MatMul", ["r", "w"], ["y"])]
    model = Model.from_proto(build(nodes, {"x": ["n", 64]}, {"y": ["n", 64]}, {"w": normal(64, 64)}))
    _, twin, context = quantized(precision, model)
    assert ops(twin)["DequantizeLinear"] == 3
    made = lower(twin, context.plan, rest=Precision.FP16).model
    kind = precision.onnx_type
    assert sum(t.data_type == kind and np.prod(t.dims) == 4096 for t in made.to_proto().graph.initializer) == 1


@pytest.mark.parametrize("precision", TYPES)
def test_blocks_of_zeros_and_tiny_values_are_finite(precision):
    weight = normal(64, 32)
    weight[:32] = 0
    weight[32:48] *= 1e-9
    model = Model.from_proto(
        build([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 64]}, {"y": ["n", 32]}, {"w": weight})
    )
    _, twin, context = quantized(precision, model)
    x = normal(2, 64)
    x[:, :32] = 0
    x[0] = 0
    got = run(lower(twin, context.plan, rest=Precision.FP32).model, {"x": x})[0]
    assert np.isfinite(got).all() and not got[0].any()
    np.testing.assert_allclose(got[1], (x @ weight)[1], rtol=0.5, atol=2)


@pytest.mark.parametrize(
    ("precision", "block", "fault"),
    [
        (Precision.MXFP8, 32, "block-scales"),
        (Precision.NVFP4, 16, "block-scales"),
        (Precision.NVFP4, 32, "unsupported"),
    ],
)
def test_blocks_of_others_whose_scales_a_type_lacks_are_left_as_they_are(precision, block, fault):
    scales = np.abs(normal(64 // block, 8, seed=3)) + np.float32(0.5)
    stored = normal(64, 8).astype(STORED[precision])
    nodes = [node("DequantizeLinear", ["w", "s"], ["d"], axis=0, block_size=block), node("MatMul", ["x", "d"], ["y"])]
    proto = build(nodes, {"x": ["n", 64]}, {"y": ["n", 8]}, {"w": stored, "s": scales}, opset=23, ir_version=11)
    model, context = Model.from_proto(proto), placeholder_context()
    InsertQDQ(dtype=str(precision))(model, context)
    assert [event.why.values["fault"] for event in context.journal.of("declined", node="y")] == [fault]
    x, made = {"x": normal(3, 64, seed=4)}, lower(model, context.plan, rest=Precision.FP32)
    np.testing.assert_array_equal(run(made.model, x)[0], run(model, x)[0])
    # of what is no type of ours nothing is asked but the float type after it
    (back,) = [node.name for node in made.model.nodes if node.op == "DequantizeLinear"]
    assert made.plan.get(back).precision is (precision if block == precision.block else Precision.FP32)


@pytest.mark.parametrize("precision", TYPES)
def test_a_concat_of_int8_takes_no_scale_of_blocks(precision):
    nodes = [
        node("MatMul", ["x", "w"], ["m"]), node("MatMul", ["x", "v"], ["n"]), node("MatMul", ["m", "k"], ["z"]),
        node("Concat", ["m", "n"], ["c"], axis=2), node("MatMul", ["c", "u"], ["y"]),
    ]  # fmt: skip
    weights = {"w": normal(64, 96), "v": normal(64, 64), "k": normal(96, 8), "u": normal(160, 8)}
    shapes = {"x": [1, 5, 64]}, {"y": None, "z": None}
    model, context = Model.from_proto(build(nodes, *shapes, weights)), placeholder_context()
    InsertQDQ(dtype=str(precision), include=["z"])(model, context)
    InsertQDQ(exclude=["z"])(model, context)
    scales = {
        one.inputs[0].name: float(model.constant(one.inputs[1]))
        for one in model.nodes
        if one.op == "QuantizeLinear" and not one.domain and one.inputs[0].name in "mnc"
    }
    assert len(scales) == 3 and len(set(scales.values())) == 1


def test_float16_models_keep_their_types():
    proto = build([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 64]}, {"y": ["n", 32]}, {"w": normal(64, 32).astype(np.float16)},
                  types={"x": TensorProto.FLOAT16, "y": TensorProto.FLOAT16})  # fmt: skip
    for precision in TYPES:
        model = Model.from_proto(proto)
        _, twin, context = quantized(precision, model)
        made = lower(twin, context.plan, rest=Precision.FP16).model
        x = {"x": normal(4, 64).astype(np.float16)}
        assert run(made, x)[0].dtype == np.float16
        np.testing.assert_allclose(run(made, x)[0], run(twin, x)[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("precision", TYPES)
def test_stripping_gives_the_model_back(precision):
    model, twin, _ = quantized(precision)
    StripQDQ()(twin, Context())
    x = {"x": normal(5, 64, seed=8)}
    assert "DequantizeLinear" not in ops(twin)
    np.testing.assert_array_equal(run(twin, x)[0], run(model, x)[0])


def test_a_layer_that_nvfp4_damages_is_tried_in_mxfp8(tmp_path):
    model = wide()
    weight = model.node("p").inputs[1]
    weight.values = weight.values * np.where(np.arange(96) % 16 == 0, 30, 1)[:, None].astype(np.float32)
    twin = model.copy()
    context, data = context_for_samples(twin)
    context.folder = tmp_path
    SearchPrecision(dtype="nvfp4", also="mxfp8", min_sqnr_db=15, try_ranges=False)(twin, context)
    found = {name: str(context.plan.get(name).precision) for name in ("m", "p", "q")}
    assert sqnr_against(model, twin, data) > 15 and {"nvfp4", "mxfp8"} == set(found.values())


def test_blocks_are_not_to_be_chosen():
    with pytest.raises(RecipeError, match="block"):
        InsertQDQ(dtype="nvfp4", block=32)


@pytest.mark.rtx
@pytest.mark.parametrize(
    ("precision", "kernel"), [(Precision.NVFP4, Precision.NVFP4), (Precision.MXFP8, Precision.FP16)]
)
def test_tensorrt_rtx_builds_for_blackwell(tmp_path, precision, kernel):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install qtool[rtx]")
    proto = build(
        [node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 1024]}, {"y": ["n", 1024]}, {"w": normal(1024, 1024)}
    )
    _, twin, context = quantized(precision, Model.from_proto(proto))
    made = lower(twin, context.plan, rest=Precision.FP16)
    made.model.save(tmp_path / "model.onnx", ir_version=10)
    shapes = Profiles((ShapeProfile("any", {"x": Extent((1, 1024), (16, 1024), (64, 1024))}),))
    built = RtxBackend().build(tmp_path / "model.onnx", shapes, EngineSettings(compute_capabilities=("12.0",)))
    # in float16 the weights take 2 MiB
    assert 1024 * 1024 * precision.bits // 8 < len(built.engine) < 1024 * 1024 * 9 // 5
    found = attribute(made.model, built, made.plan)
    # RTX 1.7.1 multiplies E2M1 by E2M1; of MXFP8 its program dequantizes both sides first
    assert found["y"].precision is kernel
    assert {one.status for name, one in found.items() if name != "y"} <= {"honoured", "fused", "removed"}


@pytest.mark.parametrize("precision", TYPES)
def test_a_helper_weighs_the_noise_of_blocks(precision):
    rows = normal(8, 64, seed=3)
    rows[:, 5] *= 20
    # ones are in the type: all noise is the input's
    noise = LayerNoise(rows[None], np.ones((1, 4, 64)), 64, precision, precision.block).of(np.ones(64))
    off = reference(rows, precision, np.abs(rows).max() / 2688) - rows
    assert noise == pytest.approx(4 * np.sum(off.astype(np.float64) ** 2) / len(rows), rel=1e-3)
