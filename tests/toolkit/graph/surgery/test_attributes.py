"""Attributes that onnx-graphsurgeon would lose: lists without entries, and sparse values."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from tests.conftest import build, node, normal
from toolkit import Model
from toolkit.base.errors import ModelError
from toolkit.graph.files.node_check import check_nodes
from toolkit.graph.files.proto_check import check_proto
from toolkit.graph.sessions.session import session

X = normal(2, 3, seed=1)


def with_empty(made: onnx.NodeProto, name: str, kind: int = AttributeProto.INTS) -> onnx.NodeProto:
    made.attribute.add(name=name, type=kind)
    return made


def of(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """A model that ONNX's checker has not seen."""
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3])] for name in "xy"]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", *ends), opset_imports=opsets, ir_version=9)


def sparse(*indices: object) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.array([1.5, 2.5], np.float32), "v")
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.array(indices, np.int64), "i"), [2, 3])


def in_branch(constant: onnx.NodeProto, reader: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The two nodes in both branches of an If."""
    out = [helper.make_tensor_value_info(reader.output[0], TensorProto.FLOAT, None)]
    graph = helper.make_graph([constant, reader], "branch", [], out)
    return [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Greater", ["s", "zero"], ["k"]),
        node("If", ["k"], ["y"], then_branch=graph, else_branch=graph),
    ]


ADD = node("Add", ["x", "c"], ["r"])
SPARSE = node("Constant", [], ["c"], sparse_value=sparse(0, 4))
AXES = with_empty(node("Constant", [], ["c"]), "value_ints")
NODES = {
    "a reduction over no axes": [with_empty(node("ReduceMean", ["x"], ["y"], keepdims=1), "axes")],
    "a constant without values in a branch": in_branch(AXES, node("ReduceSum", ["x", "c"], ["r"], noop_with_empty_axes=1)),
    "a constant without values": [AXES, node("ReduceSum", ["x", "c"], ["y"], noop_with_empty_axes=1)],
    "a sparse constant": [SPARSE, node("Add", ["x", "c"], ["y"])],
    "a sparse constant of two indices": [
        node("Constant", [], ["c"], sparse_value=sparse([0, 1], [1, 2])), node("Add", ["x", "c"], ["y"]),
    ],
    "a sparse constant in a branch": in_branch(SPARSE, ADD),
}  # fmt: skip


@pytest.mark.parametrize("case", NODES)
def test_attributes_are_kept(case: str) -> None:
    proto = build(NODES[case], {"x": [2, 3]}, {"y": ["a", "b"]}, {"zero": np.array(0, np.float32)}, opset=17)
    model = Model.from_proto(proto)
    onnx.checker.check_model(model.to_proto())
    expected = ort.InferenceSession(proto.SerializeToString()).run(None, {"x": X})[0]
    np.testing.assert_array_equal(session(model).run({"x": X})["y"], expected)


def test_empty_lists_of_plugins_keep_their_types() -> None:
    plugin = helper.make_node("Mine", ["x"], ["y"], domain="mine")
    for name, kind in (("a", AttributeProto.FLOATS), ("b", AttributeProto.INTS), ("c", AttributeProto.STRINGS)):
        with_empty(plugin, name, kind)
    model = Model.from_proto(of([plugin]))
    for written in (model.to_proto(), model.copy().to_proto()):
        assert [(a.name, a.type) for a in written.graph.node[0].attribute] == [("a", 6), ("b", 7), ("c", 8)]
    assert model.nodes[0].attrs["b"] == []


def test_bytes_of_plugins_are_kept() -> None:
    made = helper.make_node(
        "Mine", ["x"], ["y"], domain="mine", data=b"\xff\x00\xfe", parts=[b"\xff", b"a"], name_="text"
    )
    for written in (Model.from_proto(of([made])).to_proto(), Model.from_proto(of([made])).copy().to_proto()):
        assert {a.name: a.s or list(a.strings) for a in written.graph.node[0].attribute} == {
            "data": b"\xff\x00\xfe", "parts": [b"\xff", b"a"], "name_": b"text",
        }  # fmt: skip


@pytest.mark.parametrize("name", ["tensors", "sparse_tensor"])
def test_what_cannot_be_kept_is_refused(name: str) -> None:
    plugin = helper.make_node("Mine", ["x"], ["y"], "mine", domain="mine")
    attribute = plugin.attribute.add(name="table", type=9 if name == "tensors" else 11)
    if name == "tensors":
        attribute.tensors.append(numpy_helper.from_array(X, "t"))
    else:
        attribute.sparse_tensor.CopyFrom(sparse(0, 4))
    with pytest.raises(ModelError, match="attribute 'table' of node 'mine'"):
        check_proto(of([plugin]), "m.onnx")


def test_nan_in_a_sparse_constant_or_in_a_function_is_refused(tmp_path) -> None:
    spoilt = sparse(0, 4)
    spoilt.values.raw_data = np.array([1, np.nan], np.float32).tobytes()
    body = [node("Constant", [], ["c"], value_floats=[float("nan")]), node("Mul", ["a", "c"], ["b"])]
    called = of([helper.make_node("Own", ["x"], ["y"], domain="mine")])
    called.functions.append(helper.make_function("mine", "Own", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    spoilt_one = node("Constant", [], ["c"], sparse_value=spoilt)
    for proto in (called, of([spoilt_one, node("Add", ["x", "c"], ["y"])])):
        (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
        with pytest.raises(ModelError, match="holds 1 NaN"):
            Model.load(tmp_path / "m.onnx")


SCALED = helper.make_node("QuantizeLinear", ["x", "s"], ["q"])


@pytest.mark.parametrize(
    ("nodes", "weights", "words"),
    [
        ([helper.make_node("Add", ["x", "s"], ["y"])], {"s": np.float32(np.nan)}, "tensor 's' of the Add node that produces 'y' holds 1 NaN"),
        ([SCALED, helper.make_node("DequantizeLinear", ["q", "s"], ["y"])], {"s": np.float32(0)},
         "the QuantizeLinear node that produces 'q' has the scale 0"),
    ],
)  # fmt: skip
def test_nodes_without_a_name_are_named_by_what_they_make(nodes, weights, words, tmp_path) -> None:
    (tmp_path / "m.onnx").write_bytes(build(nodes, {"x": [2, 4]}, {"y": None}, weights).SerializeToString())
    with pytest.raises(ModelError, match=words):
        Model.load(tmp_path / "m.onnx")


def test_a_sparse_constant_needs_no_name() -> None:
    proto = of([helper.make_node("Constant", [], ["c"], sparse_value=sparse(0, 4)), node("Add", ["x", "c"], ["y"])])
    check_proto(proto, "m.onnx")


@pytest.mark.parametrize(
    ("values", "words"), [([np.inf], "1 infinite value"), ([np.inf, -np.inf], "2 infinite values")]
)
def test_infinite_weights_are_counted(values, words, tmp_path) -> None:
    weight = normal(4, 4)
    weight[0, : len(values)] = values
    proto = build([node("MatMul", ["x", "w"], ["y"])], {"x": [2, 4]}, {"y": None}, {"w": weight})
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=f"holds {words}[.]"):
        Model.load(tmp_path / "m.onnx")


def test_a_model_without_outputs_is_called_that() -> None:
    proto = build([node("Relu", ["x"], ["y"])], {"x": [2, 4]}, {"y": None})
    del proto.graph.output[:]
    with pytest.raises(ModelError, match="the model has no outputs"):
        Model.from_proto(proto)


def spoiled(spoil) -> onnx.ModelProto:
    """A model of a weight, a node that reads it and a function, as ``spoil`` leaves it."""
    body = [helper.make_node("Relu", ["a"], ["b"])]
    function = helper.make_function("mine", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    proto = of([node("Add", ["x", "w"], ["h"]), helper.make_node("F", ["h"], ["y"], "call", domain="mine")])
    proto.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [3], [1, 2, 3]))
    proto.functions.append(function)
    check_proto(proto, "m.onnx")
    spoil(proto)
    return proto


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda m: setattr(m.graph.initializer[0], "raw_data", bytes(12)),
         "m.onnx: tensor 'w' stores its values in raw_data and in float_data"),
        (lambda m: m.graph.initializer[0].int64_data.append(1),
         "m.onnx: tensor 'w' stores its values in float_data and in int64_data"),
        (lambda m: m.graph.node[0].output.__setitem__(0, "w"), "produces 'w', which is also an input or a weight"),
        (lambda m: m.graph.node[0].output.__setitem__(0, "x"), "produces 'x', which is also an input or a weight"),
        (lambda m: m.functions[0].output.append("c"), "function 'F' gives 'c', which none of its nodes produces"),
        (lambda m: m.functions[0].output.append("a"), "function 'F' gives 'a', which is one of its inputs"),
    ],
)  # fmt: skip
def test_what_a_model_says_twice_or_not_at_all_is_an_error_with_the_name(spoil, said):
    """onnxruntime says it without the node, or a pass was blamed that did not touch it."""
    proto = spoiled(spoil)
    with pytest.raises(ModelError, match=said) as caught:
        check_proto(proto, "m.onnx")
    assert caught.value.remedy


def test_the_type_of_an_attribute_is_named_and_not_numbered():
    proto = of([node("Flatten", ["x"], ["y"], axis=1.0)])
    with pytest.raises(ModelError, match="an attribute 'axis' of the type FLOAT, and ONNX has INT"):
        check_proto(proto, "m.onnx")


def test_an_operator_that_another_of_onnx_s_domains_does_not_have_is_a_plugin():
    """ONNX's checker refused it after the first pass, which was called broken."""
    proto = of([node("Conv", ["x", "w"], ["y"], domain="ai.onnx.ml")])
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    proto.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [3], [1, 2, 3]))
    Model.from_proto(proto).check()


@pytest.mark.parametrize(
    ("twice", "remedy"), [("y", "with another name for output 'y'"), ("h", "export the model again")]
)
def test_a_name_that_two_nodes_make_is_refused_and_an_outputs_is_to_be_given_anew(twice, remedy):
    """An exporter may use the name that an output is given for a value inside: exporting alike again mends nothing."""
    made = of([helper.make_node("Relu", ["x"], [twice]), helper.make_node("Neg", ["x"], [twice])])
    with pytest.raises(ModelError, match=f"two values of nodes of graph 'g' are named '{twice}'") as caught:
        check_proto(made, "m.onnx")
    assert remedy in caught.value.remedy and ("another name" in caught.value.remedy) == (twice == "y")


def test_a_node_without_a_name_is_called_by_what_it_makes():
    gemm = helper.make_node("Gemm", ["x", "x"], ["y"])
    made = of([gemm])
    made.opset_import[0].version = 9
    with pytest.raises(ModelError, match="the Gemm node that produces 'y' has 2 inputs, and in opset 9 ONNX has 3"):
        check_nodes(made, "m.onnx")
    gemm.name = "head"
    with pytest.raises(ModelError, match=r"node 'head' \(Gemm\) has 2 inputs"):
        check_nodes(helper.make_model(of([gemm]).graph, opset_imports=[helper.make_opsetid("", 9)]), "m.onnx")
