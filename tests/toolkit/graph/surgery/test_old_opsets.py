"""Models of opsets that are not read, made newer as the refusal says."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, version_converter

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, placeholder_context, run
from toolkit import Model
from toolkit.base.errors import ModelError, PassError


def old_proto(opset):
    """As exporters of 2018 wrote: IR version 3, whose weights are inputs too, and Dropout, Upsample and Reshape."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]), node("Relu", ["n"], ["r"]),
        node("Dropout", ["r"], ["d"], ratio=0.5), node("MaxPool", ["d"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Upsample", ["p"], ["u"], mode="nearest", scales=[1.0, 1.0, 2.0, 2.0]), node("Sum", ["u", "r"], ["a"]),
        node("Reshape", ["a", "shape"], ["f"]), node("Gemm", ["f", "g", "o"], ["y"]),
    ]  # fmt: skip
    weights = {"w": normal(4, 3, 3, 3), "s": 1 + 0.1 * normal(4), "b": normal(4), "m": normal(4), "v": np.ones(4, np.float32),
               "shape": np.array([2, 256]), "g": normal(256, 5), "o": normal(5)}  # fmt: skip
    proto = build(nodes, {"x": [2, 3, 8, 8]}, {"y": None}, weights, opset=opset, ir_version=3)
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return proto


@pytest.mark.parametrize("opset", [7, 8])
@pytest.mark.parametrize("target", [9, 13, 17])
def test_what_a_refusal_of_an_old_opset_advises_helps(opset, target):
    proto, x = old_proto(opset), normal(2, 3, 8, 8)
    with pytest.raises(ModelError, match=f"opset {opset}; qtool reads 9 to") as caught:
        Model.from_proto(proto)
    assert "onnx.version_converter and set its ir_version to 8" in caught.value.remedy
    wanted = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    made = version_converter.convert_version(proto, target)
    made.ir_version = 8
    model = Model.from_proto(made)
    assert [tensor.name for tensor in model.graph.inputs] == ["x"]
    np.testing.assert_allclose(run(model, {"x": x})[0], wanted, rtol=1e-4, atol=1e-4)
    context = placeholder_context()
    InsertQDQ()(model, context)
    assert any(one.op == "QuantizeLinear" for one in model.nodes)


def means_the_same(nodes, shapes, weights, opset, kind=TensorProto.FLOAT):
    """Hold a graph against itself at newer opsets: at its top, and in both branches of an If."""
    x = normal(*shapes).astype(helper.tensor_dtype_to_np_dtype(kind))
    shape = helper.make_tensor_value_info("y", kind, None)
    inner = helper.make_graph(nodes, "branch", [], [shape])
    other = helper.make_graph([*nodes[:-1], node("Abs", nodes[-1].input, ["y"])], "other", [], [shape])
    branched = [node("If", ["yes"], ["out"], then_branch=inner, else_branch=other)]
    for graph, output, extra in ((nodes, "y", {}), (branched, "out", {"yes": np.array(True)})):
        types = {"x": kind, output: kind}
        proto = build(graph, {"x": list(shapes)}, {output: None}, {**weights, **extra}, opset=opset, types=types)
        session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        (wanted,) = session.run(None, {"x": x})
        for target in (13, 19):
            model = Model.from_proto(proto)
            model.raise_opset(target)
            model.check()
            np.testing.assert_allclose(run(model, {"x": x})[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(1, 1, 2, 2), (1, 1, 1.5, 3), (1, 1, 0.5, 0.7)])
@pytest.mark.parametrize(("op", "opset"), [("Upsample", 9), ("Resize", 10)])
def test_pictures_are_resized_as_before_wherever_the_resize_stands(op, opset, scales, mode):
    if op == "Upsample" and min(scales) < 1:
        pytest.skip("an Upsample does not shrink")
    nodes = [node("Relu", ["x"], ["r"]), node(op, ["r", "s"], ["u"], mode=mode), node("Tanh", ["u"], ["y"])]
    means_the_same(nodes, (1, 2, 6, 6), {"s": np.float32(scales)}, opset)


def test_resizes_of_two_branches_keep_their_own_scales():
    """Each branch has a constant of the same name, as the converter's own constants have."""
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    total = node("ReduceSum", ["r"], ["y"], keepdims=0)
    branches = {}
    for name, scales in (("then_branch", [1, 1, 0.5, 0.5]), ("else_branch", [1, 1, 2, 2])):
        held = helper.make_node("Constant", [], ["s"], value=helper.make_tensor("s", 1, [4], scales))
        branches[name] = helper.make_graph([held, node("Resize", ["x", "s"], ["r"]), total], name, [], [value])
    proto = build(
        [node("If", ["yes"], ["out"], **branches)], {"x": [1, 1, 6, 6], "yes": []}, {"out": []}, {}, opset=10,
        types={"yes": TensorProto.BOOL},
    )  # fmt: skip
    model = Model.from_proto(proto)
    model.raise_opset(13)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for yes in (True, False):
        feed = {"x": normal(1, 1, 6, 6), "yes": np.array(yes)}
        np.testing.assert_allclose(run(model, feed)[0], session.run(None, feed)[0], rtol=1e-5)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE])
@pytest.mark.parametrize(
    ("op", "settings"),
    [("Clip", {"min": -0.5, "max": 0.75}), ("Clip", {"max": 0.5}), ("Clip", {}), ("Pad", {"pads": [0, 1, 0, 0, 1, 1], "value": 0.5})],
)  # fmt: skip
def test_limits_and_padding_have_the_type_of_the_data(op, settings, kind):
    """They were attributes, which are float32 whatever they limit or pad."""
    if op == "Clip" and kind == TensorProto.DOUBLE:
        pytest.skip("onnxruntime has no Clip of float64 before opset 11")
    nodes = [node("Neg", ["x"], ["n"]), node(op, ["n"], ["p"], **settings), node("Neg", ["p"], ["y"])]
    means_the_same(nodes, (2, 3, 4), {}, 10, kind)


@pytest.mark.parametrize("axis", [None, 0, 2, -1])
@pytest.mark.parametrize("op", ["Hardmax", "Softmax", "LogSoftmax"])
def test_what_looked_at_all_axes_from_its_own_on_still_does(op, axis):
    settings = {} if axis is None else {"axis": axis}
    nodes = [node("Neg", ["x"], ["n"]), node(op, ["n"], ["h"], **settings), node("Neg", ["h"], ["y"])]
    means_the_same(nodes, (2, 3, 4, 5), {}, 11)


def test_the_nodes_beside_a_hardmax_have_names_of_their_own():
    """Whatever nodes, inputs and weights are called already."""
    proto = build(
        [node("Neg", ["x"], ["n"], "h_shape"), node("Hardmax", ["n"], ["h"], "hard"),
         node("Mul", ["h", "h_rows"], ["y"], "h_marked")],
        {"x": [2, 3, 4]}, {"y": [2, 3, 4]}, {"h_rows": np.ones(4, np.float32)}, opset=11,
    )  # fmt: skip
    model = Model.from_proto(proto)
    model.raise_opset(13)
    model.check()
    names = [one.name for one in model.nodes]
    assert len(set(names)) == len(names) and {"h_shape", "hard", "h_marked"} <= set(names)
    assert model.node("h_shape").op == "Neg" and model.node("h_marked").op == "Mul"


def test_a_dropout_whose_inputs_say_more_keeps_them_when_the_opset_is_raised():
    drop = node("Dropout", ["x", "ratio", "training"], ["y"], seed=1)
    given = {"ratio": np.float32(0.5), "training": np.array(True)}
    model = Model.from_proto(build([drop], {"x": [1000]}, {"y": [1000]}, given, opset=12))
    model.raise_opset(13)
    (raised,) = model.nodes
    assert [tensor.name for tensor in raised.inputs] == ["x", "ratio", "training"]


def trees(opsets, own=()):
    """A linear classifier of ai.onnx.ml alone, as converters of trees write models, with nodes of ONNX's own after it."""
    classify = helper.make_node(
        "LinearRegressor", ["x"], ["score"], domain="ai.onnx.ml", coefficients=[1.0, -2.0, 3.0], intercepts=[0.5]
    )
    nodes = [classify, *own]
    graph = helper.make_graph(
        nodes,
        "trees",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["n", 1])],
    )
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_a_model_without_onnx_s_own_operators_needs_name_no_opset(tmp_path):
    proto = trees([helper.make_opsetid("ai.onnx.ml", 1)])
    path = tmp_path / "trees.onnx"
    onnx.save(proto, path)
    model = Model.load(path)
    model.check()
    assert {one.domain: one.version for one in model.to_proto().opset_import} == {"ai.onnx.ml": 1, "": 17}
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    assert run(model, {"x": x})[0].ravel().tolist() == [6.5, 12.5]


def test_operators_whose_opset_is_not_named_are_refused_with_what_is_missing():
    proto = trees([helper.make_opsetid("ai.onnx.ml", 1)], [helper.make_node("Relu", ["score"], ["y"])])
    with pytest.raises(ModelError, match="the model does not name its opset, on which 'Relu' depends") as caught:
        Model.from_proto(proto)
    assert "opset_import" in caught.value.remedy


def test_an_opset_that_there_is_not_is_refused_by_number():
    with pytest.raises(ModelError, match="opset 99 is requested, and 25 is the newest that qtool knows"):
        Model.from_proto(old_proto(11)).raise_opset(99)


@pytest.mark.parametrize("op", ["LayerNormalization", "Gelu"])
def test_an_operator_that_onnxruntime_had_before_onnx_is_read_and_kept(op):
    """onnxruntime's optimizer writes LayerNormalization into models of any opset: a pass was blamed for it."""
    scale = {"scale": 1 + 0.1 * normal(6), "b": normal(6, seed=2), "w": normal(6, 6, seed=3)}
    inputs = ["h", "scale", "b"] if op == "LayerNormalization" else ["h"]
    nodes = [node("MatMul", ["x", "w"], ["h"]), node(op, inputs, ["y"])]
    proto = build(nodes, {"x": ["n", 6]}, {"y": ["n", 6]}, scale, opset=20)
    proto.opset_import[0].version = 16
    model, x = Model.from_proto(proto), normal(4, 6)
    if op == "Gelu":
        with pytest.raises(PassError, match="No Op registered for Gelu"):
            model.check()
        return
    model.check()
    h = (x @ scale["w"]).astype(np.float64)
    apart = h - h.mean(axis=1, keepdims=True)
    wanted = apart / np.sqrt((apart**2).mean(axis=1, keepdims=True) + 1e-5) * scale["scale"] + scale["b"]
    assert np.allclose(run(model, {"x": x})[0], wanted, atol=1e-5)
    model.raise_opset(19)
    model.check(types=True)
    assert model.opset == 19 and [one.op for one in model.nodes] == ["MatMul", "LayerNormalization"]
    assert [(one.domain, one.version) for one in model.to_proto().opset_import] == [("", 19)]
    onnx.checker.check_model(model.to_proto(), full_check=True)
    assert np.allclose(run(model, {"x": x})[0], wanted, atol=1e-5)


def test_a_model_that_onnxruntime_optimized_for_one_processor_is_refused(tmp_path):
    """Its convolutions read weights in the order of that processor's blocks; they were quantized as ONNX's."""
    nodes = [node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), node("Relu", ["c"], ["y"])]
    proto = build(nodes, {"x": [1, 16, 8, 8]}, {"y": [1, 16, 8, 8]}, {"w": normal(16, 16, 3, 3)})
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "model.onnx"), 3
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    if all(one.domain != "com.microsoft.nchwc" for one in onnx.load(tmp_path / "model.onnx").graph.node):
        pytest.skip("onnxruntime has no blocked kernels for this processor")
    with pytest.raises(ModelError, match="onnxruntime optimized the model for one processor") as refused:
        Model.load(tmp_path / "model.onnx")
    assert "ORT_ENABLE_BASIC" in str(refused.value.remedy)
