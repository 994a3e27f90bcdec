"""Outputs that a model leaves unnamed: of what holds subgraphs onnxruntime dies, and of others ONNX knows which may."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.conftest import build, node
from toolkit import Model
from toolkit.base.errors import ModelError
from toolkit.graph.files.node_check import check_nodes
from toolkit.graph.sessions.session import session


def value(name, kind=TensorProto.FLOAT, sides=None):
    return helper.make_tensor_value_info(name, kind, sides)


def holding(op, outputs, name):
    if op == "Loop":
        ends = [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("s")]
        body = [node("Identity", ["c"], ["d"]), node("Relu", ["s"], ["t"]), node("Neg", ["s"], ["u"])]
        graph = helper.make_graph(body, "body", ends, [value("d", TensorProto.BOOL, []), value("t"), value("u")])
        return helper.make_node(op, ["trips", "", "x"], outputs, name, body=graph)
    if op == "Scan":
        body = [node("Relu", ["e"], ["t"]), node("Neg", ["e"], ["u"])]
        graph = helper.make_graph(
            body, "body", [value("s", sides=[4]), value("e", sides=[4])], [value("t", sides=[4]), value("u", sides=[4])]
        )
        return helper.make_node(op, ["zero", "x"], outputs, name, body=graph, num_scan_inputs=1)
    sides = {}
    for side in ("then", "else"):
        made = [node("Relu", ["x"], [f"{side} t"]), node("Neg", ["x"], [f"{side} u"])]
        sides[f"{side}_branch"] = helper.make_graph(made, side, [], [value(f"{side} t"), value(f"{side} u")])
    return helper.make_node(op, ["yes"], outputs, name, **sides)


@pytest.mark.parametrize("name", ["held", ""])
@pytest.mark.parametrize("outputs", [["", "o"], ["o", ""]])
@pytest.mark.parametrize("op", ["If", "Loop", "Scan"])
def test_an_unnamed_output_of_a_node_with_subgraphs_does_not_end_the_process(op, outputs, name):
    weights = {"trips": np.int64(1), "zero": np.zeros(4, np.float32), "yes": np.array(True)}
    proto = build([holding(op, outputs, name), node("Neg", ["o"], ["y"])], {"x": [3, 4]}, {"y": None}, weights)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    relu, neg = np.maximum(x, 0), -x
    wanted = {"If": (relu, neg), "Loop": (relu, neg[None]), "Scan": (relu[-1], neg)}[op][outputs.index("o")]
    for source in (proto, Model.from_proto(proto)):
        np.testing.assert_array_equal(session(source).run({"x": x})["y"], -wanted)


def test_an_output_that_onnx_wants_is_asked_for_by_name():
    dropout = helper.make_node("Dropout", ["x", "", "yes"], ["", "mask"], "drop")
    proto = build([dropout, node("Cast", ["mask"], ["y"], to=1)], {"x": [2]}, {"y": None}, {"yes": np.array(False)})
    with pytest.raises(ModelError, match="node 'drop' \\(Dropout\\) does not name its output 'output'"):
        check_nodes(proto, "m.onnx")
