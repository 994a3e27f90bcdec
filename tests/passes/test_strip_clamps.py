"""Activations that pairs stood in for come back, and the model without pairs is held against the one with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import passes.strip_qdq
from passes.insert_qdq import InsertQDQ
from passes.strip_qdq import StripQDQ
from tests.conftest import build, node, normal, ops, run
from toolkit import CalibrationData, Calibrator, Code, Context, LostClamps, Model, PassError
from toolkit.contract.journal import Journal

DATA = Path(__file__).parent / "data"
SAMPLES = normal(24, 3, 6, 6, seed=7)


def level(wanted, found):
    noise = np.sum((wanted.astype(np.float64) - found) ** 2)
    return 10 * np.log10(np.sum(wanted.astype(np.float64) ** 2) / noise) if noise else 200.0


def sampled(model, samples, tmp_path):
    """A context with calibration samples."""
    np.savez(tmp_path / "samples.npz", **samples)
    return Context(provider=Calibrator(CalibrationData.open(str(tmp_path / "samples.npz"), model)))


def values(journal: Journal, code: Code):
    return [dict(event.why.values) for event in journal if event.why.code is code]


@pytest.mark.parametrize("with_samples", [False, True])
@pytest.mark.parametrize("name", ["qdq_s8", "qdq_u8"])
def test_a_public_model_of_asymmetric_pairs_is_its_float_model_again(name, with_samples, tmp_path):
    x = {"x": np.load(DATA / "asymmetric_test.npz")["x"]}
    (wanted,) = run(Model.load(DATA / "asymmetric_float.onnx"), x)
    model = Model.load(DATA / f"asymmetric_{name}.onnx")
    context = Context()
    if with_samples:
        context = sampled(model, {"x": np.load(DATA / "asymmetric_calibration.npz")["x"]}, tmp_path)
    StripQDQ(keep_ranges=True)(model, context)
    assert level(wanted, run(model, x)[0]) > 42
    assert ops(model) == {"Conv": 3, "Clip": 1, "Relu": 2, "ReduceMean": 1, "Gemm": 1, "Identity": 1}
    # the clamp has the tensor's name, and the range is that of what it gives
    clip = next(n for n in model.nodes if n.op == "Clip")
    assert clip.outputs[0].name == "/Clip_output_0" and clip.inputs[0].name == "/Clip_output_0_unclamped"
    assert [float(model.constant(t)) for t in clip.inputs[1:]] == [0.0, 6.0]
    ranges = context.known_ranges.tensors
    assert ranges["/Clip_output_0"].amax == pytest.approx(6.0)
    assert ranges["x"].amax == pytest.approx(131 * 0.036180686, rel=1e-6)
    assert ranges["/Relu_output_0"].amax == pytest.approx(255 * 0.10853928, rel=1e-6)
    measured = values(context.journal, Code.STRIP_MEASURED)
    assert len(measured) == with_samples
    assert [one["why"] for one in values(context.journal, Code.STRIP_NOT_MEASURED)] == ["no-samples"] * (
        not with_samples
    )
    if with_samples:
        assert measured[0]["sqnr_db"] > 40 and measured[0]["rounding_db"] == pytest.approx(
            measured[0]["sqnr_db"], abs=1
        )


TYPES = {"int8": np.int8, "uint8": np.uint8, "int16": np.int16, "uint16": np.uint16}


def clamped(limits, kind, domain="", opset=21, name="h", float_type=np.float32):
    """(the float model, and the same with a pair in place of its clamp): Conv, clamp, Conv."""
    weights = {"w1": normal(8, 3, 3, 3, seed=1, scale=0.6), "w2": normal(4, 8, 1, 1, seed=2)}
    low, high = limits
    given = {key: np.asarray(end, np.float32) for key, end in (("low", low), ("high", high)) if end is not None}
    clip = node("Clip", ["c", *("low" if low is not None else "", "high" if high is not None else "")], [name])
    ends = {"x": ["n", 3, 6, 6]}, {"y": ["n", 4, 4, 4]}
    plain = build(
        [node("Conv", ["x", "w1"], ["c"]), clip, node("Conv", [name, "w2"], ["y"])],
        *ends,
        {**weights, **given},
        opset=17,
    )
    values = run(
        Model.from_proto(
            build([*plain.graph.node[:2]], ends[0], {name: None}, {"w1": weights["w1"], **given}, opset=17)
        ),
        {"x": SAMPLES},
    )[0]
    info = np.iinfo(TYPES[kind])
    bottom, top = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = (top - bottom) / (info.max - info.min)
    zero = int(np.rint(info.min - bottom / scale))
    inner = [node("QuantizeLinear", [name, "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"])]
    for one in inner:
        one.domain = domain
    proto = build(
        [node("Conv", ["x", "w1"], [name], "first"), *inner, node("Conv", ["d", "w2"], ["y"])],
        ends[0], {"y": None},
        {**weights, "s": np.asarray(scale, np.float32), "z": np.asarray(zero, TYPES[kind])}, opset=opset, ir_version=10,
    )  # fmt: skip
    if domain:
        proto.opset_import.add(domain=domain, version=1)
    return plain, proto, (scale, zero, info)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "limits", [(0, 6), (0, 1.1), (-1, 1), (-1.234, 1.234), (-0.7, 1.31), (None, 0.9), (-0.37, None), (None, 0)]
)
def test_a_clamp_of_any_limits_comes_back(limits, kind, tmp_path):
    """The 16-bit types are com.microsoft's below opset 21, as onnxruntime's quantizer writes them."""
    own = {"domain": "com.microsoft", "opset": 17} if kind == "int16" else {}
    plain, proto, (scale, zero, info) = clamped(limits, kind, **own)
    model = Model.from_proto(proto)
    context = sampled(model, {"x": SAMPLES}, tmp_path)
    StripQDQ(keep_ranges=True)(model, context)
    (restored,) = values(context.journal, Code.CLAMP_RESTORED)
    ends = [(edge - zero) * scale for edge in (info.min, info.max)]
    for end, mine, said in zip(limits, ends, (restored["low"], restored["high"])):
        if end is not None:
            assert said == pytest.approx(mine, rel=1e-4, abs=1e-6)
    unseen = {"x": normal(16, 3, 6, 6, seed=70)}
    step = scale * 127 if "16" not in kind else 0.0
    assert level(run(plain, unseen)[0], run(model, unseen)[0]) > (30 if step else 40)
    assert context.known_ranges.amax("h") == pytest.approx(max(abs(end) for end in ends), rel=1e-4)
    assert model.node("first").outputs[0].name != "h" and model.opset >= 17


def test_a_relu_is_a_relu_again_and_a_linear_output_stays_linear(tmp_path):
    for limits, wanted in (((0, None), {"Conv": 2, "Relu": 1}), ((None, None), {"Conv": 2})):
        plain, proto, _ = clamped(limits, "uint8")
        for with_samples in (True, False):
            model = Model.from_proto(proto)
            context = sampled(model, {"x": SAMPLES}, tmp_path) if with_samples else Context()
            StripQDQ()(model, context)
            assert ops(model) == wanted
            assert level(run(plain, {"x": SAMPLES})[0], run(model, {"x": SAMPLES})[0]) > 100
            unsure = values(context.journal, Code.CLAMPS_UNSURE)
            assert bool(unsure) == (not with_samples)


def test_without_samples_a_tensors_name_or_the_width_of_its_range_tells():
    for limits, name in (((-0.7, 1.3), "h"), ((None, 0.9), "/block/Clip_output_0"), ((-0.37, None), "hardtanh_1")):
        plain, proto, _ = clamped(limits, "int8", name=name)
        model, context = Model.from_proto(proto), Context()
        StripQDQ()(model, context)
        assert ops(model) == {"Conv": 2, "Clip": 1}
        assert level(run(plain, {"x": SAMPLES})[0], run(model, {"x": SAMPLES})[0]) > 30
        assert not values(context.journal, Code.CLAMPS_UNSURE)


def test_an_activation_after_the_pair_is_not_put_back_twice(tmp_path):
    plain, proto, _ = clamped((0, 1.5), "uint8")
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.float32(v), k) for k, v in (("low", 0), ("high", 1.5))
    )
    proto.graph.node[3].input[0] = "kept"
    proto.graph.node.insert(3, node("Clip", ["d", "low", "high"], ["kept"]))
    model = Model.from_proto(proto)
    StripQDQ()(model, sampled(model, {"x": SAMPLES}, tmp_path))
    assert ops(model) == {"Conv": 2, "Clip": 1}
    assert level(run(plain, {"x": SAMPLES})[0], run(model, {"x": SAMPLES})[0]) > 100


def test_old_operator_sets_have_the_limits_as_attributes():
    plain, proto, _ = clamped((0, 6), "uint8", opset=10)
    model = Model.from_proto(proto)
    StripQDQ()(model)
    (clip,) = [n for n in model.nodes if n.op == "Clip"]
    assert clip.attrs == {"min": 0.0, "max": 6.0} and model.opset == 10
    assert level(run(plain, {"x": SAMPLES})[0], run(model, {"x": SAMPLES})[0]) > 100


@pytest.mark.parametrize("ends", [(0, 255), (40, 255)])
def test_limits_a_channel_are_restored_where_no_shape_is_declared(ends, tmp_path):
    high = np.linspace(1, 5, 4, dtype=np.float32)
    scale = high / (ends[1] - ends[0])
    nodes = [node("QuantizeLinear", ["h", "s", "z"], ["q"], axis=1),
             node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=1)]  # fmt: skip
    around = [node("Conv", ["x", "w1"], ["h"]), node("Neg", ["d"], ["y"])]
    weights = {"w1": normal(4, 3, 1, 1, seed=1) * 2, "s": scale, "z": np.full(4, ends[0], np.uint8)}
    proto = build([around[0], *nodes, around[1]], {"x": ["n", 3, 6, 6]}, {"y": ["n", 4, 6, 6]}, weights)
    limits = [(bound * scale).reshape(1, 4, 1, 1).astype(np.float32) for bound in (-ends[0], ends[1] - ends[0])]
    plain = Model.from_proto(build(
        [around[0], node("Max", ["h", "low"], ["m"]), node("Min", ["m", "high"], ["d"]), around[1]],
        {"x": ["n", 3, 6, 6]}, {"y": ["n", 4, 6, 6]}, {"w1": weights["w1"], "low": limits[0], "high": limits[1]},
    ))  # fmt: skip
    model = Model.from_proto(proto)
    StripQDQ()(model, sampled(model, {"x": SAMPLES}, tmp_path))
    assert ops(model) == {"Conv": 1, "Max": 1, "Min": 1, "Neg": 1}
    assert level(run(plain, {"x": SAMPLES})[0], run(model, {"x": SAMPLES})[0]) > 100


@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry run"])
def test_limits_a_channel_take_the_rank_that_samples_show_where_shapes_do_not_tell_it(dry, tmp_path):
    weights = {"w": normal(4, 3, 1, 1), "s": np.linspace(1, 5, 4, dtype=np.float32) / 255, "z": np.zeros(4, np.uint8)}
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Reshape", ["c", "sides"], ["relu6"]),
             node("QuantizeLinear", ["relu6", "s", "z"], ["q"], axis=1),
             node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=1), node("Neg", ["d"], ["y"])]  # fmt: skip
    shapes = {"x": ["n", 3, 6, 6], "sides": ["rank"]}
    proto = build(nodes, shapes, {"y": None}, weights, types={"sides": TensorProto.INT64})
    samples = {"x": SAMPLES, "sides": np.tile(np.array([-1, 4, 36]), (len(SAMPLES), 1))}
    model = Model.from_proto(proto)
    assert model.facts().rank("relu6") is None
    with pytest.raises(PassError, match=r"rank of that tensor is not known.*Give calibration samples"):
        StripQDQ()(model.copy(), Context())
    context = sampled(model, samples, tmp_path)
    context.dry_run = dry
    StripQDQ()(model, context)
    assert ops(model) == {"Conv": 1, "Reshape": 1, "Max": 1, "Min": 1, "Neg": 1}
    limit = next(one for one in model.nodes if one.op == "Min").inputs[1].values
    assert limit.shape == (1, 4, 1) and np.allclose(limit.ravel(), np.linspace(1, 5, 4))


def test_shapes_are_inferred_once_for_all_limits_a_channel(monkeypatch):
    nodes, last = [], "x"
    for i in range(3):
        nodes += [node("Conv", [last, "w"], [f"relu6_{i}"]),
                  node("QuantizeLinear", [f"relu6_{i}", "s", "z"], [f"q{i}"], axis=1),
                  node("DequantizeLinear", [f"q{i}", "s", "z"], [f"d{i}"], axis=1)]  # fmt: skip
        last = f"d{i}"
    weights = {"w": normal(4, 4, 1, 1), "s": np.full(4, 0.02, np.float32), "z": np.full(4, 40, np.uint8)}
    proto = build([*nodes, node("Neg", [last], ["y"])], {"x": ["n", 4, 6, 6]}, {"y": ["n", 4, 6, 6]}, weights)
    model, inferred, facts = Model.from_proto(proto), [], Model.facts
    monkeypatch.setattr(Model, "facts", lambda *given: inferred.append(1) or facts(*given))
    StripQDQ()(model, Context())
    assert ops(model) == {"Conv": 3, "Max": 3, "Min": 3, "Neg": 1}
    assert len(inferred) <= 1


@pytest.mark.parametrize("channels", [(), (4,)])
def test_limits_have_the_type_of_a_tensor_of_which_none_is_declared(channels):
    axis = {"axis": 1} if channels else {}
    weights = {"w": normal(4, 3, 1, 1).astype(np.float16), "s": np.full(channels, 0.02, np.float16),
               "z": np.full(channels, 40, np.uint8)}  # fmt: skip
    nodes = [node("Conv", ["x", "w"], ["relu6"]), node("QuantizeLinear", ["relu6", "s", "z"], ["q"], **axis),
             node("DequantizeLinear", ["q", "s", "z"], ["d"], **axis), node("Neg", ["d"], ["y"])]  # fmt: skip
    half = dict.fromkeys("xy", TensorProto.FLOAT16)
    proto = build(nodes, {"x": ["n", 3, 6, 6]}, {"y": ["n", 4, 6, 6]}, weights, opset=19, ir_version=9, types=half)
    model = Model.from_proto(proto)
    StripQDQ()(model, Context())
    assert ops(model) == {"Conv": 1, "Neg": 1, **({"Max": 1, "Min": 1} if channels else {"Clip": 1})}
    assert model.types_fault() is None


def test_one_zero_point_a_channel_is_one_limit_a_channel():
    scale = np.asarray([0.01, 0.02, 0.03, 0.04], np.float32)
    proto = build(
        [
            node("Conv", ["x", "w1"], ["h"]), node("QuantizeLinear", ["h", "s", "z"], ["q"], axis=1),
            node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=1), node("Neg", ["d"], ["y"]),
        ],
        {"x": [2, 3, 6, 6]}, {"y": [2, 4, 6, 6]},
        {"w1": normal(4, 3, 1, 1, seed=1), "s": scale, "z": np.full(4, -128, np.int8)},
    )  # fmt: skip
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("h", TensorProto.FLOAT, [2, 4, 6, 6]))
    model = Model.from_proto(proto)
    (before,) = run(model, {"x": SAMPLES[:2]})
    context = Context()
    # as wide as samples show it to be
    lost = passes.strip_qdq.lost_clamps

    def seen(subject, pairs, *_):
        return lost(subject, pairs, {"q": (True, True)})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes.strip_qdq, "lost_clamps", seen)
        StripQDQ(keep_ranges=True)(model, context)
    assert ops(model) == {"Conv": 1, "Max": 1, "Min": 1, "Neg": 1}
    assert np.abs(run(model, {"x": SAMPLES[:2]})[0] - before).max() <= 0.0201
    assert context.known_ranges.amax("h") == pytest.approx(255 * 0.04)


def test_a_tensor_that_is_read_as_float_too_keeps_its_name():
    plain, proto, _ = clamped((0, 6), "uint8")
    proto.graph.node.append(node("Neg", ["h"], ["raw"]))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("raw", TensorProto.FLOAT, None))
    model, context = Model.from_proto(proto), Context()
    wanted = run(model, {"x": SAMPLES})[1]
    StripQDQ(keep_ranges=True)(model, context)
    found = run(model, {"x": SAMPLES})
    assert np.array_equal(found[1], wanted) and level(run(plain, {"x": SAMPLES})[0], found[0]) > 100
    (clip,) = [n for n in model.nodes if n.op == "Clip"]
    assert clip.inputs[0].name == "h" and set(context.known_ranges.tensors) == {clip.outputs[0].name}


def test_what_insert_makes_of_the_kept_ranges():
    _, proto, (scale, zero, info) = clamped((-0.7, 1.31), "uint8", name="Clip_output")
    model, context = Model.from_proto(proto), Context()
    StripQDQ(keep_ranges=True)(model, context)
    InsertQDQ(include=["y"])(model, Context(known_ranges=context.known_ranges))
    pair = model.node("y").inputs[0].inputs[0]
    top = max((info.max - zero) * scale, (zero - info.min) * scale)
    assert float(model.constant(pair.inputs[1])) == pytest.approx(top / 127, rel=1e-3)


# ---------------------------------------------------------------- held against the model with its pairs


def test_a_model_that_stripping_changes_is_an_error(tmp_path, monkeypatch):
    """Were a clamp missed, the samples would show it."""
    _, proto, _ = clamped((0, 1.1), "int8")
    monkeypatch.setattr(passes.strip_qdq, "lost_clamps", lambda *_: LostClamps({}, [], set()))
    model = Model.from_proto(proto)
    with pytest.raises(PassError) as caught:
        StripQDQ()(model, sampled(model, {"x": SAMPLES}, tmp_path))
    assert "output 'y'" in caught.value.what and caught.value.remedy


def test_what_is_cut_off_a_little_beside_a_clamp_is_the_pairs_own(tmp_path):
    """Values that go far beyond one end of a range, and as far as a calibration lets them beyond the other."""
    proto = build(
        [node("MatMul", ["x", "w"], ["h"]), node("QuantizeLinear", ["h", "s", "z"], ["q"]),
         node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        {"x": ["n", 8]}, {"y": ["n", 8]},
        {"w": np.eye(8, dtype=np.float32), "s": np.float32(2.2 / 127), "z": np.int8(0)},
    )  # fmt: skip
    model = Model.from_proto(proto)
    x = normal(16, 8) + 1.2
    x[::4, 0] = -2.6
    context = sampled(model, {"x": x}, tmp_path)
    StripQDQ()(model, context)
    (restored,) = values(context.journal, Code.CLAMP_RESTORED)
    assert restored["low"] == "-inf" and restored["high"] == pytest.approx(2.2)
    (measured,) = values(context.journal, Code.STRIP_MEASURED)
    assert measured["sqnr_db"] == pytest.approx(measured["rounding_db"], abs=1)


@pytest.mark.parametrize(("low", "high"), [(-8, 7), (-2, 1)])
def test_few_bits_and_bad_scales_are_no_error(low, high, tmp_path):
    """A handful of steps for all values: what is left is noise, and it is the pairs' own."""
    scale = np.float32(2.5 / high)
    proto = build(
        [
            node("Conv", ["x", "w1"], ["h"]), node("QuantizeLinear", ["h", "s", "z"], ["q"]),
            node("Clip", ["q", "low", "high"], ["narrow"]), node("DequantizeLinear", ["narrow", "s", "z"], ["d"]),
            node("Conv", ["d", "w2"], ["y"]),
        ],
        {"x": ["n", 3, 6, 6]}, {"y": ["n", 2, 6, 6]},
        {"w1": normal(4, 3, 1, 1, seed=1, scale=0.3), "w2": normal(2, 4, 1, 1, seed=2), "s": scale, "z": np.int8(0),
         "low": np.int8(low), "high": np.int8(high)},
    )  # fmt: skip
    model = Model.from_proto(proto)
    context = sampled(model, {"x": SAMPLES}, tmp_path)
    StripQDQ()(model, context)
    # a model that is far from the one that was given is told of in the report
    (measured,) = values(context.journal, Code.STRIP_FAR)
    assert measured["sqnr_db"] < 20 and measured["rounding_db"] < 25


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4])
def test_four_bit_weights_of_opset_21(kind, blocked, tmp_path):
    zero = 0 if kind == TensorProto.INT4 else 8
    stored = (np.random.default_rng(0).integers(-7, 8, (16, 8)) + zero).astype(
        onnx.helper.tensor_dtype_to_np_dtype(kind)
    )
    scale = np.abs(normal(4, 8, seed=1)) + 0.1 if blocked else np.abs(normal(8, seed=1)) + 0.1
    zeros = np.full(scale.shape, zero).astype(stored.dtype)
    attrs = {"axis": 0, "block_size": 4} if blocked else {"axis": 1}
    proto = build(
        [node("DequantizeLinear", ["w", "s", "z"], ["d"], **attrs), node("MatMul", ["x", "d"], ["y"], "mm")],
        {"x": ["n", 16]}, {"y": ["n", 8]}, {"w": stored, "s": scale.astype(np.float32), "z": zeros}, opset=21, ir_version=10,
    )  # fmt: skip
    model = Model.from_proto(proto)
    x = {"x": normal(6, 16)}
    (before,) = run(model, x)
    context = sampled(model, x, tmp_path)
    StripQDQ()(model, context)
    spread = np.repeat(scale, 4, axis=0) if blocked else scale
    assert ops(model) == {"MatMul": 1}
    assert np.allclose(
        model.constant(model.node("mm").inputs[1]), (stored.astype(np.float32) - zero) * spread, rtol=1e-6
    )
    assert np.allclose(run(model, x)[0], before, rtol=1e-5, atol=1e-5)
    assert values(context.journal, Code.STRIP_MEASURED)[0]["sqnr_db"] in ("inf", pytest.approx(130, abs=30))


@pytest.mark.parametrize("constant", [True, False])
def test_scales_that_the_graph_computes(constant, tmp_path):
    """Of constants they are known; of activations it is said that they are not."""
    made = [node("Div", ["top" if constant else "largest", "levels"], ["s"])]
    if not constant:
        made = [node("Abs", ["h"], ["size"]), node("ReduceMax", ["size"], ["largest"], keepdims=0), *made]
    proto = build(
        [
            node("Conv", ["x", "w1"], ["h"]), *made, node("QuantizeLinear", ["h", "s", "z"], ["q"]),
            node("DequantizeLinear", ["q", "s", "z"], ["d"]), node("Neg", ["d"], ["y"]),
        ],
        {"x": ["n", 3, 6, 6]}, {"y": ["n", 4, 6, 6]},
        {"w1": normal(4, 3, 1, 1, seed=1), "top": np.float32(9), "levels": np.float32(127), "z": np.int8(0)},
    )  # fmt: skip
    model = Model.from_proto(proto)
    context = sampled(model, {"x": SAMPLES}, tmp_path)
    StripQDQ(keep_ranges=True)(model, context)
    assert ops(model) == {"Conv": 1, "Neg": 1}
    assert [one["tensor"] for one in values(context.journal, Code.COMPUTED_SCALE)] == ([] if constant else ["h"])
    assert len(values(context.journal, Code.STRIP_MEASURED)) == 1
    assert (context.known_ranges.amax("h") == pytest.approx(9)) if constant else context.known_ranges is None


def test_a_stored_weight_whose_scale_is_computed_of_constants():
    stored = np.random.default_rng(0).integers(-127, 128, (4, 3, 1, 1)).astype(np.int8)
    proto = build(
        [node("Div", ["top", "levels"], ["s"]), node("DequantizeLinear", ["w", "s", "z"], ["d"]),
         node("Conv", ["x", "d"], ["y"])],
        {"x": ["n", 3, 6, 6]}, {"y": ["n", 4, 6, 6]},
        {"w": stored, "top": np.float32(9), "levels": np.float32(127), "z": np.int8(5)},
    )  # fmt: skip
    model = Model.from_proto(proto)
    StripQDQ()(model)
    assert ops(model) == {"Conv": 1}
    assert np.allclose(model.constant(model.node("y").inputs[1]), (stored.astype(np.float32) - 5) * 9 / 127)


def test_in_a_dry_run_nothing_is_measured(tmp_path):
    _, proto, _ = clamped((0, 6), "uint8")
    model = Model.from_proto(proto)
    context = sampled(model, {"x": SAMPLES}, tmp_path)
    context.dry_run = True
    StripQDQ()(model, context)
    assert [one["why"] for one in values(context.journal, Code.STRIP_NOT_MEASURED)] == ["dry-run"]


def test_a_quantizer_without_zero_point_gives_uint8(tmp_path):
    """ONNX's default: its range begins at 0."""
    proto = build(
        [
            node("Conv", ["x", "w1"], ["h"]), node("QuantizeLinear", ["h", "s"], ["q"]),
            node("DequantizeLinear", ["q", "s"], ["d"]), node("Neg", ["d"], ["y"]),
        ],
        {"x": ["n", 3, 6, 6]}, {"y": ["n", 4, 6, 6]}, {"w1": normal(4, 3, 1, 1, seed=1), "s": np.float32(0.031)},
    )  # fmt: skip
    model = Model.from_proto(proto)
    context = sampled(model, {"x": SAMPLES}, tmp_path)
    StripQDQ(keep_ranges=True)(model, context)
    assert ops(model) == {"Conv": 1, "Relu": 1, "Neg": 1}
    assert context.known_ranges.amax("h") == pytest.approx(255 * 0.031)
