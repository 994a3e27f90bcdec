"""Layers with weights, constants after pairs, and keeping a node float so that it is."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, placeholder_context
from toolkit import Model, Precision, constant_through_pair, keep_float, layers
from toolkit.report.findings import sentence
from toolkit.run.new.new_recipe import paired_unusably


def mixed():
    """A Conv with a bias, a ConvTranspose, a Gemm by transB, a MatMul, and a product of two activations."""
    weights = {
        "wc": normal(4, 3, 3, 3, seed=1), "bc": normal(4, seed=2), "wt": normal(4, 5, 2, 2, seed=3),
        "wg": normal(7, 5, seed=4), "wm": normal(7, 6, seed=5), "flat": np.asarray([0, -1], np.int64),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "wc", "bc"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        node("ConvTranspose", ["c", "wt"], ["t"], name="up"),
        node("GlobalAveragePool", ["t"], ["p"]),
        node("Reshape", ["p", "flat"], ["r"]),
        node("Gemm", ["r", "wg"], ["g"], name="gemm", transB=1),
        node("MatMul", ["g", "wm"], ["m"], name="product"),
        node("Transpose", ["m"], ["mt"]),
        node("MatMul", ["m", "mt"], ["y"], name="both"),
    ]
    return Model.from_proto(build(nodes, {"x": [2, 3, 6, 6]}, {"y": [2, 2]}, weights)), weights


@pytest.mark.parametrize("quantized", [False, True])
def test_every_layer_with_its_weight_and_its_axis(quantized):
    model, weights = mixed()
    if quantized:
        InsertQDQ()(model, placeholder_context())
    found = {layer.name: layer for layer in layers(model)}
    assert {name: layer.axis for name, layer in found.items()} == {"conv": 0, "up": 1, "gemm": 0, "product": 1}
    for name, weight in (("conv", "wc"), ("up", "wt"), ("gemm", "wg"), ("product", "wm")):
        np.testing.assert_array_equal(found[name].weight, weights[weight])
        assert found[name].quantized is quantized and found[name].index == 1
    np.testing.assert_array_equal(found["conv"].bias, weights["bc"])
    assert found["gemm"].bias is None


def test_a_weight_that_is_stored_quantized_comes_back_as_floats():
    stored = np.asarray([[-3, 4], [5, -6]], np.int8)
    scale, zero = np.asarray([0.5, 0.25], np.float32), np.asarray([1, -1], np.int8)
    proto = build(
        [node("DequantizeLinear", ["w", "s", "z"], ["wd"], axis=0), node("MatMul", ["x", "wd"], ["y"], name="product")],
        {"x": [1, 2]}, {"y": [1, 2]}, {"w": stored, "s": scale, "z": zero},
    )  # fmt: skip
    model = Model.from_proto(proto)
    (layer,) = layers(model)
    np.testing.assert_array_equal(layer.weight, [[-2.0, 1.5], [1.5, -1.25]])
    assert layer.quantized and constant_through_pair(model, model.node("product").inputs[0]) is None


def test_a_node_that_is_kept_float_loses_its_pairs():
    model, _ = mixed()
    context = placeholder_context()
    InsertQDQ()(model, context)
    freed = keep_float(context, model.node("gemm"), "fp16", "a test")
    model.tidy()
    model.check()
    assert freed == ["r", "wg"] and context.plan.get("gemm").precision is Precision.FP16
    assert not any(maker.op == "DequantizeLinear" for t in model.node("gemm").inputs for maker in t.inputs)
    assert any(maker.op == "DequantizeLinear" for t in model.node("conv").inputs for maker in t.inputs)


def test_layers_inside_branches_count_where_they_are_asked_for():
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["a"], name="inner")], "then", [],
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 2])],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["b"], name="pass")], "else", [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, 2])],
    )  # fmt: skip
    proto = build(
        [helper.make_node("If", ["flag"], ["y"], name="choice", then_branch=then, else_branch=other)],
        {"x": [1, 2]}, {"y": [1, 2]}, {"w": normal(2, 2), "flag": np.asarray(True)},
    )  # fmt: skip
    model = Model.from_proto(proto)
    assert [layer.name for layer in layers(model)] == []
    assert [layer.name for layer in layers(model, subgraphs=True)] == ["inner"]


@pytest.mark.parametrize("given", [True, False], ids=["zero point", "none"])
@pytest.mark.parametrize("wide", [TensorProto.INT16, TensorProto.INT32])
def test_the_type_that_a_cast_gives_to_a_dequantizer_is_what_tensorrt_does_not_take(wide, given):
    """The layer was quantized, though its DequantizeLinear reads a type that TensorRT does not dequantize."""
    zero = {"Z": np.asarray(0, helper.tensor_dtype_to_np_dtype(wide))} if given else {}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("Cast", ["q"], ["c"], to=wide),
        node("DequantizeLinear", ["c", "s", *zero], ["d"]), node("MatMul", ["d", "w"], ["y"], name="mm"),
    ]  # fmt: skip
    constants = {"s": np.float32(0.05), "z": np.int8(0), "w": normal(4, 3)} | zero
    model = Model.from_proto(build(nodes, {"x": [2, 4]}, {"y": [2, 3]}, constants, opset=21, ir_version=10))
    context = placeholder_context()
    InsertQDQ()(model, context)
    (why,) = [event.why for event in context.journal.of("declined", node="mm")]
    assert why.values["has"] == TensorProto.DataType.Name(wide).lower() and "run strip_qdq before" in sentence(why)
    assert paired_unusably(model)


def foreign(kind, zero, computed=""):
    """Why a MatMul after a pair of this type is left alone, if it is."""
    grid = {"s": np.float32(0.05), "z0": np.asarray(zero, kind)}
    made = [node("Identity", ["z0"], ["z"])] if computed == "identity" else []
    if computed == "activation":
        made = [node("Cast", ["x0"], ["z"], to=int(helper.np_dtype_to_tensor_dtype(np.dtype(kind))))]
    z = "z" if made else "z0"
    nodes = [
        *made, node("QuantizeLinear", ["x", "s", z], ["q"]), node("DequantizeLinear", ["q", "s", z], ["d"]),
        node("MatMul", ["d", "w"], ["y"], name="mm"),
    ]  # fmt: skip
    inputs = {"x": [2, 4], **({"x0": []} if computed == "activation" else {})}
    model = Model.from_proto(build(nodes, inputs, {"y": [2, 3]}, {**grid, "w": normal(4, 3)}, opset=21, ir_version=10))
    context = placeholder_context()
    InsertQDQ()(model, context)
    return [event.why.values for event in context.journal.of("declined", node="mm")]


@pytest.mark.parametrize(
    ("kind", "zero", "computed", "fault"),
    [
        (np.int8, 0, "", None), (np.int8, 3, "", "zero-point"), (np.uint8, 0, "", "uint8"), (np.int16, 0, "", "unsupported"),
        (np.uint16, 7, "", "unsupported"), (np.int8, 0, "identity", "unfolded-zero-point"),
        (np.int8, 0, "activation", "computed-zero-point"),
    ],
)  # fmt: skip
def test_pairs_that_tensorrt_does_not_take_are_left_for_their_fault(kind, zero, computed, fault):
    assert [values["fault"] for values in foreign(kind, zero, computed)] == ([fault] if fault else [])
