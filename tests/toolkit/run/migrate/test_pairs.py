"""`qtool migrate` of models with pairs of every type and spelling: what is kept, and what the recipe asks for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, placeholder_context
from tests.toolkit.placement.test_spellings import mlp, respelled
from tests.toolkit.run.migrate.test_migrate import fates, migrated, quantized, tensors, whys
from toolkit import Model, Precision
from toolkit.backends.lowering.strong import lower
from toolkit.calibration.interchange import write_ranges
from toolkit.cli.main import invoke
from toolkit.contract.ranges import Range, Ranges
from toolkit.placement.quantized import pair_count
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.checks.gpu_types import types_of_pairs
from toolkit.run.migrate.orders.order import Order
from toolkit.run.migrate.orders.settle import settle
from toolkit.run.migrate.orders.terms import Term
from toolkit.run.migrate.tensors import scales_of


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def passes_of(recipe):
    return [(one["use"], one.get("dtype")) for one in recipe.passes if one["use"] == "insert_qdq"]


@pytest.mark.parametrize("spelled", [False, True])
def test_fp8_pairs_are_fp8s_in_the_recipe(here, spelled):
    plain = Model.from_proto(mlp())
    InsertQDQ(dtype="fp8")(plain, placeholder_context())
    onnx.save(respelled(plain.to_proto(), "FP8") if spelled else plain.to_proto(), "net.onnx")
    found, recipe, model = migrated("net.onnx")
    assert passes_of(recipe) == [("insert_qdq", "fp8")]
    assert quantized(found, "fp8") == {"one", "two"}
    assert set(tensors(found).values()) == {str(MigrateCode.PAIR_KEPT)}
    assert types_of_pairs(model) == {Precision.FP8}


@pytest.mark.parametrize("precision", ["nvfp4", "mxfp8"])
def test_blocks_in_tensorrts_own_form_are_kept(here, precision):
    plain, context = Model.from_proto(mlp()), placeholder_context()
    InsertQDQ(dtype=precision)(plain, context)
    lower(plain, context.plan).model.save("net.onnx")
    found, recipe, _ = migrated("net.onnx")
    assert passes_of(recipe) == [("insert_qdq", precision)]
    assert quantized(found, precision) == {"one", "two"}
    assert tensors(found) == dict.fromkeys(("x", "r"), str(MigrateCode.PAIR_KEPT))


def test_what_a_command_says_of_other_types_than_the_pairs_is_in_vain(here):
    plain = Model.from_proto(mlp())
    InsertQDQ(dtype="fp8")(plain, placeholder_context())
    plain.save("net.onnx")
    found, recipe, _ = migrated("trtexec", "--onnx=net.onnx", "--int8", "--fp8", "--fp16")
    assert {said: fate for said, fate in fates(found).items() if said in ("--int8", "--fp8")} == {
        "--int8": "overruled", "--fp8": "written"
    }  # fmt: skip
    assert passes_of(recipe) == [("insert_qdq", "fp8")]


def test_types_beside_one_another_have_a_pass_each(here):
    plain, context = Model.from_proto(mlp()), placeholder_context()
    InsertQDQ(include=["one"])(plain, context)
    InsertQDQ(include=["two"], dtype="fp8")(plain, context)
    plain.save("net.onnx")
    found, recipe, _ = migrated("net.onnx")
    assert passes_of(recipe) == [("insert_qdq", "fp8"), ("insert_qdq", None)]
    assert (quantized(found), quantized(found, "fp8")) == ({"one"}, {"two"})


def test_two_types_in_one_layer_are_made_anew(here):
    """As onnxruntime writes INT4 weights beside INT8 activations: TensorRT multiplies no unlike types."""
    narrow = helper.make_tensor("wq", TensorProto.INT4, [64, 32], np.random.default_rng(1).integers(-7, 8, 2048))
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["xd"]),
             node("DequantizeLinear", ["wq", "t"], ["wd"]), node("MatMul", ["xd", "wd"], ["y"])]  # fmt: skip
    grid = {"s": np.float32(0.03), "z": np.int8(0), "t": np.float32(0.02)}
    proto = build(nodes, {"x": ["n", 64]}, {"y": None}, {name: np.asarray(one) for name, one in grid.items()}, opset=21)
    proto.graph.initializer.append(narrow)
    onnx.save(proto, "net.onnx")
    found, _, model = migrated("net.onnx")
    assert [one["values"]["layers"] for one in found["findings"] if one["code"] == MigrateCode.PAIRS_MIXED] == [["y"]]
    assert quantized(found) == {"y"}
    assert types_of_pairs(model) == {Precision.INT8}


def test_products_of_activations_with_pairs_of_their_own_are_quantized(here, attention):
    model, context = attention, placeholder_context()
    weighted = {one.name for one in model.nodes if any(model.constant(tensor) is not None for tensor in one.inputs)}
    InsertQDQ(activation_matmul=True)(model, context)
    wanted = {name for name, one in context.plan.items() if one.precision is Precision.INT8}
    model.save("net.onnx")
    found, _, _ = migrated("net.onnx")
    assert quantized(found) == wanted
    assert wanted - weighted


def test_a_pair_after_a_models_own_cast_is_seen(here):
    plain = Model.from_proto(mlp())
    InsertQDQ()(plain, placeholder_context())
    proto = plain.to_proto()
    proto.graph.node.insert(0, node("Cast", ["x16"], ["x"], to=1))
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x16", TensorProto.FLOAT16, ["n", 64]))
    onnx.save(proto, "net.onnx")
    found, _, _ = migrated("net.onnx")
    assert set(tensors(found).values()) == {str(MigrateCode.PAIR_KEPT)}


def fake_quantized(low=None, high=127, kind=np.uint8, zero=40, cast=False):
    """A Conv between pairs as PyTorch exports them: fewer bits by a Clip, and casts of values to the type they have."""
    grid = {"s": np.array(0.05, np.float32), "z": np.array(zero, kind), "sw": np.full(4, 0.02, np.float32),
            "zw": np.zeros(4, np.int8), "high": np.array(high, kind)}  # fmt: skip
    if low is not None:
        grid["low"] = np.array(low, kind)
    between = {
        True: node("Cast", ["q"], ["c"], to=2),
        False: node("Clip", ["q", "low" if low is not None else "", "high"], ["c"]),
    }
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), between[cast], node("DequantizeLinear", ["c", "s", "z"], ["d"]),
             node("QuantizeLinear", ["w", "sw", "zw"], ["wq"], axis=0), node("DequantizeLinear", ["wq", "sw", "zw"], ["wd"], axis=0),
             node("Conv", ["d", "wd"], ["y"], name="conv")]  # fmt: skip
    return build(nodes, {"x": ["n", 4, 8, 8]}, {"y": ["n", 4, 6, 6]}, {"w": normal(4, 4, 3, 3, scale=0.3), **grid})


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 87), ({"low": 0}, 87), ({"zero": 0}, 127), ({"high": 63, "zero": 20}, 43), ({"cast": True}, 215),
        ({"low": -127, "kind": np.int8, "zero": 0}, 127), ({"low": -63, "high": 63, "kind": np.int8, "zero": 0}, 63),
        ({"low": -64, "high": 63, "kind": np.int8, "zero": 10}, 74),
    ],
)  # fmt: skip
def test_a_quantizer_of_fewer_bits_has_the_range_of_those(here, changes, steps):
    onnx.save(fake_quantized(**changes), "net.onnx")
    found, _, model = migrated("net.onnx")
    assert quantized(found) == {"conv"}
    assert {one.op for one in model.nodes} == {"Cast", "QuantizeLinear", "DequantizeLinear", "Conv"}
    assert dict(scales_of(model))["x"] * 127 == pytest.approx(steps * 0.05, rel=2e-3)


@pytest.mark.parametrize("limits", [(40, 255), (40, 160), (0, 120), (3, 127)])
def test_a_clip_that_is_an_activation_stays_one(here, limits):
    onnx.save(fake_quantized(*limits), "net.onnx")
    _, _, model = migrated("net.onnx")
    (clip,) = (one for one in model.nodes if one.op == "Clip")
    ends = [float(model.constant(tensor)) for tensor in clip.inputs[1:]]
    assert ends == pytest.approx([(limit - 40) * 0.05 for limit in limits], abs=2e-3)


def test_pairs_as_pytorch_quantization_exports_them(here):
    """Zero points by Constant, Cast and Identity, weights by their axis before a Transpose."""
    zero = node("Constant", [], ["i"], value=onnx.numpy_helper.from_array(np.array(0, np.int32)))
    nodes = [zero, node("Cast", ["i"], ["z"], to=3), node("Constant", [], ["s"], value_float=0.03), node("Identity", ["zeros"], ["zw"]),
             node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
             node("QuantizeLinear", ["w", "sw", "zw"], ["wq"], axis=0), node("DequantizeLinear", ["wq", "sw", "zw"], ["wd"], axis=0),
             node("Transpose", ["wd"], ["t"], perm=[1, 0]), node("MatMul", ["d", "t"], ["y"], name="linear")]  # fmt: skip
    weights = {"w": normal(24, 16), "sw": np.full(24, 0.03, np.float32), "zeros": np.zeros(24, np.int8)}
    onnx.save(build(nodes, {"x": ["n", 5, 16]}, {"y": ["n", 5, 24]}, weights, opset=13), "net.onnx")
    found, _, model = migrated("net.onnx")
    assert quantized(found) == {"linear"} and tensors(found) == {"x": str(MigrateCode.PAIR_KEPT)}
    assert pair_count(model) == 2


def test_pairs_in_tensorrts_spelling_are_counted(here, capsys):
    plain = Model.from_proto(mlp())
    InsertQDQ(dtype="fp8")(plain, placeholder_context())
    onnx.save(respelled(plain.to_proto(), "FP8"), "net.onnx")
    assert invoke(["inspect", "net.onnx", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 4


def test_packed_weights_of_onnxruntimes_own_are_refused(here, capsys):
    nodes = [node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=32, N=16, bits=4, block_size=32)]
    proto = build(
        nodes, {"x": ["n", 32]}, {"y": None}, {"w": np.zeros((16, 1, 16), np.uint8), "s": np.ones(16, np.float32)}
    )
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(proto, "net.onnx")
    assert invoke(["migrate", "net.onnx"]) == 2
    assert "MatMulNBits 1" in capsys.readouterr().err


def test_numbers_without_dimensions_become_float():
    """onnxruntime quantizes the divisor of attention's scores too, which TensorRT's parser cannot take."""
    for stored in (True, False):
        nodes = [node("DequantizeLinear", ["n", "s", "z"], ["d"]), node("Div", ["x", "d"], ["y"])]
        weights = {"n": np.array(100, np.int8), "s": np.array(0.05, np.float32), "z": np.array(0, np.int8)}
        if not stored:
            nodes.insert(0, node("QuantizeLinear", ["f", "s", "z"], ["n"]))
            weights = {"f": np.array(5.01, np.float32), **{k: v for k, v in weights.items() if k != "n"}}
        model = Model.from_proto(build(nodes, {"x": [4]}, {"y": [4]}, weights))
        lowered = lower(model, placeholder_context().plan, rest=Precision.FP32).model
        assert [one.op for one in lowered.nodes] == ["Div"]
        assert lowered.constant(lowered.nodes[0].inputs[1]) == pytest.approx(5.0)


def test_pairs_of_16_bits_are_made_anew_for_that(here):
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
             node("QuantizeLinear", ["w", "t", "v"], ["wq"]), node("DequantizeLinear", ["wq", "t", "v"], ["wd"]),
             node("MatMul", ["d", "wd"], ["y"], name="fc")]  # fmt: skip
    weights = {
        "s": np.float32(4 / 32767),
        "z": np.int16(0),
        "t": np.float32(0.02),
        "v": np.int8(0),
        "w": normal(64, 8, scale=0.5),
    }
    onnx.save(build(nodes, {"x": ["n", 64]}, {"y": ["n", 8]}, weights, opset=21), "net.onnx")
    found, _, model = migrated("net.onnx")
    (one,) = (turn for turn in found["tensors"] if turn["tensor"] == "x")
    assert one["why"]["code"] == str(MigrateCode.PAIR_MADE_ANEW) and one["why"]["values"]["bits"] == 16
    assert "16-bit integers" in one["why"]["text"] and "zero point" not in one["why"]["text"]
    assert dict(scales_of(model))["x"] == pytest.approx(4 / 127, rel=2e-3)


def test_pairs_that_do_not_stay_give_the_ranges_and_a_cache_is_said_to_be_overruled(here):
    weights = {"s": np.array(0.02, np.float32), "z": np.array(100, np.uint8), "w": normal(8, 4)}
    pairs = [
        made for source, stored, result in [("x", "xq", "xd"), ("w", "wq", "wd")]
        for made in (node("QuantizeLinear", [source, "s", "z"], [stored], name=f"q_{source}"),
                     node("DequantizeLinear", [stored, "s", "z"], [result], name=f"dq_{source}"))
    ]  # fmt: skip
    nodes = [*pairs, node("MatMul", ["xd", "wd"], ["y"], name="fc")]
    onnx.save(build(nodes, {"x": ["n", 8]}, {"y": ["n", 4]}, weights), "net.onnx")
    write_ranges(Ranges({"x": Range(127 * 0.5, "minmax")}), Path("net.cache"), "tensorrt", version=8600)
    found, _, model = migrated("net.onnx", "--cache", "net.cache", "--rest", "fp32")
    assert fates(found)["--cache net.cache"] == "overruled"
    assert whys(found)["--cache net.cache"] == str(MigrateCode.PAIRS_OVERRULE)
    # the pair reaches from -100 * 0.02 to 155 * 0.02
    assert dict(scales_of(model))["x"] == pytest.approx(155 * 0.02 / 127, rel=2e-3)


def test_samples_are_not_said_to_lose_to_a_cache_that_is_itself_overruled(here):
    def order(term, value, said):
        return Order(term, value, said)

    weights = {"s": np.array(0.02, np.float32), "z": np.array(100, np.uint8), "w": normal(8, 4)}
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["xq"]), node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
             node("MatMul", ["xd", "w"], ["y"], name="fc")]  # fmt: skip
    plain = Model.from_proto(
        build([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 8]}, {"y": ["n", 4]}, {"w": weights["w"]})
    )
    pairs = Model.from_proto(build(nodes, {"x": ["n", 8]}, {"y": ["n", 4]}, weights))
    for model, kind, decides in [(plain, Term.INT8, True), (pairs, Term.INT8, False), (plain, Term.FP8, False)]:
        orders = [order(kind, str(kind.value), "--quantize"), order(Term.CACHE, "net.cache", "--cache"),
                  order(Term.INPUTS, "data.npz", "--inputs")]  # fmt: skip
        cache, samples = settle(orders, model, paired=False).turns[1:3]
        assert (cache.fate == "overruled") is not decides
        assert (samples.why is not None and samples.why.code is MigrateCode.CACHE_DECIDES) is decides
