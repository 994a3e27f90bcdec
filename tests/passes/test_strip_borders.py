"""Halves of pairs at a model's inputs and outputs, as in full-integer models from TFLite."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from passes.insert_qdq import InsertQDQ
from passes.strip_qdq import StripQDQ
from tests.conftest import build, node, normal, ops, run
from toolkit import CalibrationData, Calibrator, Code, Context, Model, half_pairs
from toolkit.cli.main import invoke
from toolkit.evaluation.observation.rounded import quantized

TYPES = {np.uint8: TensorProto.UINT8, np.int8: TensorProto.INT8}


def full_integer(kind=np.uint8, zero=117, scale=0.05, float_kind=np.float32, transposed=False, opset=21):
    """Quantized x -> [Transpose ->] DQ -> Conv -> Q -> quantized y."""
    stored = "t" if transposed else "x"
    head = [node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])] if transposed else []
    scales = np.asarray(scale, float_kind)
    grid = {"s": scales, "z": np.full(scales.shape, zero, kind), "so": np.asarray(0.0625, float_kind), "zo": kind(zero)}
    return build(
        [*head, node("DequantizeLinear", [stored, "s", "z"], ["d"]), node("Conv", ["d", "w"], ["c"], "conv"),
         node("QuantizeLinear", ["c", "so", "zo"], ["y"])],
        {"x": ["n", 4, 4, 3] if transposed else ["n", 3, 4, 4]}, {"y": ["n", 2, 4, 4]},
        {"w": normal(2, 3, 1, 1, scale=4).astype(float_kind), **grid}, opset=opset, types={"x": TYPES[kind], "y": TYPES[kind]},
    )  # fmt: skip


def all_values(kind, transposed=False):
    """Every value of the type in every channel."""
    info = np.iinfo(kind)
    plain = np.arange(info.min, info.max + 1).reshape(16, 1, 4, 4).repeat(3, 1).astype(kind)
    return {"x": np.ascontiguousarray(plain.transpose(0, 2, 3, 1)) if transposed else plain}


BORDERS = {
    "uint8": {}, "uint8-zero-0": {"zero": 0}, "int8": {"kind": np.int8, "zero": -9},
    "opset-13": {"opset": 13}, "moved": {"transposed": True}, "per-channel": {"scale": [0.05, 0.01, 0.2]},
    "per-channel-moved": {"scale": [0.05, 0.01, 0.2], "transposed": True}, "float16": {"float_kind": np.float16},
}  # fmt: skip


@pytest.mark.parametrize("given", BORDERS.values(), ids=BORDERS)
def test_a_border_that_tensorrt_refuses_is_written_in_float_operators(given):
    proto, kind = full_integer(**given), given.get("kind", np.uint8)
    model, context = Model.from_proto(proto), Context()
    x = all_values(kind, given.get("transposed", False))
    (wanted,) = run(Model.from_proto(proto), x)
    StripQDQ()(model, context)
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(ops(model)) and not list(half_pairs(model))
    assert not context.journal.of("declined")
    (found,) = run(model, x)
    # onnxruntime computes a float16 Conv in float32, and then drops the rounding between two Casts
    slack = int(given.get("float_kind") is np.float16)
    assert found.dtype == kind and np.abs(found.astype(int) - wanted).max() <= slack
    info = np.iinfo(kind)
    assert {info.min, info.max} <= set(wanted.reshape(-1).tolist())
    # the input is cast first: TensorRT moves no values of that type
    assert [reader.op for reader in model.graph.inputs[0].outputs] == ["Cast"]


def test_an_output_is_rounded_half_to_even():
    proto = build([node("QuantizeLinear", ["x", "s", "z"], ["y"])], {"x": [6]}, {"y": [6]},
                  {"s": np.float32(0.5), "z": np.uint8(10)}, types={"y": TensorProto.UINT8})  # fmt: skip
    model = Model.from_proto(proto)
    StripQDQ()(model)
    (found,) = run(model, {"x": np.asarray([0.25, 0.75, -0.25, -0.75, -99, 999], np.float32)})
    assert found.tolist() == [10, 12, 10, 8, 0, 255]


def test_an_input_of_a_branch_and_a_symmetric_border_stay():
    model = Model.from_proto(full_integer(np.int8, 0))
    StripQDQ()(model)
    assert ops(model) == {"DequantizeLinear": 1, "Conv": 1, "QuantizeLinear": 1}
    body = helper.make_graph(
        [node("DequantizeLinear", ["b", "s", "z"], ["f"]), node("Identity", ["more"], ["again"])], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("more", TensorProto.BOOL, []),
         helper.make_tensor_value_info("b", TensorProto.UINT8, [4])],
        [helper.make_tensor_value_info("again", TensorProto.BOOL, []), helper.make_tensor_value_info("b", TensorProto.UINT8, [4]),
         helper.make_tensor_value_info("f", TensorProto.FLOAT, [4])],
    )  # fmt: skip
    model = Model.from_proto(build(
        [node("Loop", ["times", "", "x"], ["last", "y"], body=body)], {"x": [4]}, {"y": None},
        {"times": np.int64(2), "s": np.float32(0.5), "z": np.uint8(3)}, types={"x": TensorProto.UINT8},
    ))  # fmt: skip
    context = Context()
    StripQDQ()(model, context)
    assert [event.rule for event in context.journal.of("declined")] == ["no-pair"]


def test_an_input_s_range_is_kept_and_its_layer_quantized():
    model, context = Model.from_proto(full_integer()), Context()
    StripQDQ(keep_ranges=True)(model, context)
    read = model.node("conv").inputs[0].name
    assert context.known_ranges is not None
    assert context.known_ranges.tensors[read].amax == pytest.approx(0.05 * 138)
    InsertQDQ()(model, context)
    assert ops(model)["DequantizeLinear"] == 2 and model.node("conv").inputs[0].inputs[0].op == "DequantizeLinear"


def test_an_input_that_is_interpolated_as_integers_stays():
    proto = full_integer()
    proto.graph.node[0].input[0] = "larger"
    proto.graph.node.insert(0, node("Resize", ["x", "", "twice"], ["larger"], mode="linear"))
    proto.graph.initializer.append(numpy_helper.from_array(np.asarray([1, 1, 2, 2], np.float32), "twice"))
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    context = Context()
    StripQDQ()(Model.from_proto(proto), context)
    assert [event.rule for event in context.journal.of("declined")] == ["no-pair"]


def test_a_quantized_output_is_compared_as_the_floats_that_it_stands_for(tmp_path):
    """Rounding inside changes most of the output's integers by a step or so of 256, which is no large error."""
    inner = {"si": np.float32(0.05), "zi": np.uint8(128), "so": np.float32(0.05), "zo": np.uint8(128)}
    proto = build(
        [node("QuantizeLinear", ["x", "si", "zi"], ["q"]), node("DequantizeLinear", ["q", "si", "zi"], ["d"]),
         node("MatMul", ["d", "w"], ["h"]), node("QuantizeLinear", ["h", "so", "zo"], ["y"])],
        {"x": ["n", 16]}, {"y": ["n", 8]}, {"w": normal(16, 8, scale=0.5), **inner}, types={"y": TensorProto.UINT8},
    )  # fmt: skip
    model = Model.from_proto(proto)
    np.savez(tmp_path / "samples.npz", x=normal(16, 16))
    context = Context(provider=Calibrator(CalibrationData.open(str(tmp_path / "samples.npz"), model)))
    StripQDQ()(model, context)
    (measured,) = [event.why for event in context.journal.of("noted") if event.rule.startswith("strip-")]
    assert measured.code == Code.STRIP_MEASURED and measured.values["sqnr_db"] > 25


@pytest.mark.parametrize("stripped", [False, True])
def test_the_scale_of_a_quantized_output_is_known_in_either_form(stripped):
    model = Model.from_proto(full_integer())
    if stripped:
        StripQDQ()(model)
    assert quantized(model, model.graph.outputs[0]) == (0.0625, 117.0)


def test_a_float_model_with_integer_borders_gets_a_recipe_that_strips(tmp_path, capsys):
    (tmp_path / "model.onnx").write_bytes(full_integer().SerializeToString())
    np.savez(tmp_path / "data.npz", **all_values(np.uint8))
    out = str(tmp_path / "recipe.toml")
    assert invoke(["new", str(tmp_path / "model.onnx"), "--data", str(tmp_path / "data.npz"), "--out", out]) == 0
    capsys.readouterr()
    assert invoke(["check", out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not [one for one in found["declined"] if one["rule"] in ("foreign-pair", "no-pair")]
    assert not [one for one in found["warnings"] if "belong to no pair" in one]
