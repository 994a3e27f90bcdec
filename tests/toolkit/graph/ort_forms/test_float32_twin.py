"""bfloat16 models run in onnxruntime as their float32 twins: every place where the type can stand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import node, normal
from toolkit import Model
from toolkit.graph.ort_forms.float32_twin import computes_in_bfloat16, widen
from toolkit.graph.proto.light import LightModel
from toolkit.graph.sessions.session import session

BF16 = TensorProto.BFLOAT16


def narrow(values, name):
    """A bfloat16 tensor of these values, rounded."""
    return numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(BF16)), name)


def rounded(values):
    """The values after a rounding to bfloat16, float32."""
    return values.astype(helper.tensor_dtype_to_np_dtype(BF16)).astype(np.float32)


def mixed(kind, width=8):
    """x -> MatMul -> Conv in ``kind`` between Casts, a constant, an If and a LayerNormalization; y float32."""
    weight = normal(width, width, seed=1)
    constant = (
        narrow(normal(width, seed=2), "c")
        if kind == BF16
        else numpy_helper.from_array(rounded(normal(width, seed=2)), "c")
    )
    then = helper.make_graph(
        [node("Constant", [], ["half"], value=constant), node("Mul", ["m", "half"], ["then_out"])], "then", [],
        [helper.make_tensor_value_info("then_out", kind, ["n", width])],
    )  # fmt: skip
    other = helper.make_graph(
        [node("Neg", ["m"], ["other_out"])],
        "other",
        [],
        [helper.make_tensor_value_info("other_out", kind, ["n", width])],
    )
    nodes = [
        node("Cast", ["x"], ["xs"], to=kind),
        node("MatMul", ["xs", "w"], ["m"]),
        node("If", ["yes"], ["i"], then_branch=then, else_branch=other),
        node("LayerNormalization", ["i", "scale"], ["l"], stash_type=1),
        node("Erf", ["l"], ["e"]),
        node("Cast", ["e"], ["y"], to=TensorProto.FLOAT),
    ]
    stored = [narrow(weight, "w"), narrow(normal(width, seed=3), "scale")]
    if kind != BF16:
        stored = [numpy_helper.from_array(numpy_helper.to_array(t).astype(np.float32), t.name) for t in stored]
    graph = helper.make_graph(
        nodes, "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", width])],
        [*stored, numpy_helper.from_array(np.array(True), "yes")],
        value_info=[helper.make_tensor_value_info("m", kind, ["n", width])],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("width", [8, 80], ids=["small weights", "weights given as arrays"])
@pytest.mark.parametrize("form", ["model", "message", "bytes", "file"])
def test_it_computes_what_the_float32_model_computes(form, width, tmp_path):
    proto = mixed(BF16, width)
    path = tmp_path / "model.onnx"
    onnx.save(proto, str(path))
    source = {"model": Model.from_proto(proto), "message": proto, "bytes": proto.SerializeToString(), "file": path}[
        form
    ]
    inputs = {"x": normal(3, width)}
    wanted = session(mixed(TensorProto.FLOAT, width)).run(inputs)["y"]
    np.testing.assert_allclose(session(source).run(inputs)["y"], wanted, rtol=1e-5, atol=1e-5)
    assert computes_in_bfloat16(proto)


def test_inner_tensors_inputs_and_outputs_are_float32():
    """A model that is bfloat16 throughout takes bfloat16 or float32 and gives float32."""
    graph = helper.make_graph(
        [node("Conv", ["x", "w"], ["c"]), node("Softmax", ["c"], ["y"])], "test",
        [helper.make_tensor_value_info("x", BF16, ["n", 2, 4, 4])], [helper.make_tensor_value_info("y", BF16, None)],
        [narrow(normal(3, 2, 1, 1), "w")],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = rounded(normal(2, 2, 4, 4))
    found = session(proto, outputs=["x", "c", "y"])
    narrow_input = found.run({"x": x.astype(helper.tensor_dtype_to_np_dtype(BF16))})
    assert {name: value.dtype for name, value in found.run({"x": x}).items()} == dict.fromkeys(
        ("c", "y", "x"), np.float32
    )
    np.testing.assert_array_equal(narrow_input["y"], found.run({"x": x})["y"])
    assert proto.graph.input[0].type.tensor_type.elem_type == BF16


def test_rounding_between_two_casts_is_the_models_own():
    proto = helper.make_model(
        helper.make_graph(
            [node("Cast", ["x"], ["h"], to=BF16), node("Cast", ["h"], ["y"], to=TensorProto.FLOAT)], "test",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        ),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    x = normal(50)
    assert not widen(LightModel.of(proto))
    np.testing.assert_array_equal(session(proto).run({"x": x})["y"], rounded(x))


@pytest.mark.parametrize("how", ["cast", "computed", "moved"])
def test_a_weight_that_the_graph_makes_in_bfloat16_is_rounded_as_a_stored_one(how):
    """Weights of 1 + 2**-10, which bfloat16 takes for 1, and products of rounded ones, which it rounds once more."""
    wide = normal(8, 8, seed=4) + np.float32(2.0**-10)
    nodes = [node("Cast", ["x"], ["xs"], to=BF16), node("MatMul", ["xs", "w"], ["m"]), node("Cast", ["m"], ["y"], to=1)]
    stored, expected = [numpy_helper.from_array(wide, "wide")], rounded(wide)
    if how == "computed":
        stored = [narrow(wide, "a"), narrow(wide, "b")]
        nodes.insert(0, node("Mul", ["a", "b"], ["w"]))
        expected = rounded(rounded(wide) * rounded(wide))
    elif how == "moved":
        nodes[:0] = [node("Cast", ["wide"], ["v"], to=BF16), node("Transpose", ["v"], ["w"])]
        expected = expected.T
    else:
        nodes.insert(0, node("Cast", ["wide"], ["w"], to=BF16))
    graph = helper.make_graph(
        nodes, "test", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])], stored,
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    made = session(Model.from_proto(proto)).run({"x": np.eye(8, dtype=np.float32)})["y"]
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("where", ["inside", "outside"])
@pytest.mark.parametrize("op", ["If", "Loop"])
def test_a_constant_that_a_body_makes_in_bfloat16_is_rounded_too(op, where):
    """Of a constant of its own, or of one that the graph around it makes."""
    wide = normal(8, seed=4) + np.float32(2.0**-10)
    expected = rounded(rounded(wide) * rounded(wide))
    cast = node("Cast", ["wide"], ["w"], to=BF16)
    made = [*([cast] if where == "inside" else []), node("Mul", ["w", "w"], ["ww"])]
    value = helper.make_tensor_value_info
    if op == "If":
        body = helper.make_graph([*made, node("Mul", ["xs", "ww"], ["out"])], "b", [], [value("out", BF16, ["n", 8])])
        other = helper.make_graph([node("Neg", ["xs"], ["no"])], "o", [], [value("no", BF16, ["n", 8])])
        control = node("If", ["yes"], ["m"], then_branch=body, else_branch=other)
        stored = [numpy_helper.from_array(np.array(True), "yes")]
    else:
        body = helper.make_graph(
            [*made, node("Identity", ["go"], ["still"]), node("Mul", ["state", "ww"], ["out"])], "b",
            [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("state", BF16, ["n", 8])],
            [value("still", TensorProto.BOOL, []), value("out", BF16, ["n", 8])],
        )  # fmt: skip
        control = node("Loop", ["times", "", "xs"], ["m"], body=body)
        stored = [numpy_helper.from_array(np.array(1), "times")]
    nodes = [node("Cast", ["x"], ["xs"], to=BF16), *([cast] if where == "outside" else []), control]
    graph = helper.make_graph(
        [*nodes, node("Cast", ["m"], ["y"], to=1)], "test", [value("x", 1, ["n", 8])], [value("y", 1, ["n", 8])],
        [*stored, numpy_helper.from_array(wide, "wide")],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = rounded(normal(3, 8))
    np.testing.assert_array_equal(session(proto).run({"x": x})["y"], x * expected)
