"""An operator of another domain that is called like one of ONNX's is taken for it nowhere."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.conftest import build, node, normal
from toolkit import Model, Precision, PrecisionPlan, choose
from toolkit.backends.lowering.node_types import decide
from toolkit.backends.unsupported import unsupported_operators
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.graph.layers.work import node_macs
from toolkit.graph.sessions.runnable import not_run
from toolkit.graph.surgery.strangers import called, op_type
from toolkit.report.findings import sentence


def of(domain, op="MatMul"):
    weights = {"w": normal(8, 8, seed=1), "v": normal(8, 4, seed=2)}
    nodes = [
        node("MatMul", ["x", "w"], ["h"], "first"), node("Relu", ["h"], ["r"], "relu"),
        node("MatMul", ["r", "v"], ["y"], "second"),
    ]  # fmt: skip
    proto = build(nodes, {"x": ["n", 8]}, {"y": ["n", 4]}, weights)
    if domain:
        proto.graph.node[0].op_type, proto.graph.node[0].domain = op, domain
        proto.opset_import.append(helper.make_opsetid(domain, 1))
    return proto


@pytest.mark.parametrize(
    ("domain", "op", "name"),
    [
        ("com.me", "Conv", "com.me::Conv"), ("com.me", "Mine", "Mine"), (None, "Conv", "Conv"), ("", "Conv", "Conv"),
        ("ai.onnx", "Conv", "Conv"), ("com.microsoft", "QuantizeLinear", "QuantizeLinear"),
        ("ai.onnx.ml", "Conv", "ai.onnx.ml::Conv"), ("ai.onnx.ml", "Normalizer", "Normalizer"),
        ("com.me", "Normalizer", "com.me::Normalizer"), ("qtool.mxfp8", "QuantizeLinear", "QuantizeLinear"),
        ("com.msft", "Conv", "com.msft::Conv"), ("com.microsoftish", "Conv", "com.microsoftish::Conv"),
        ("qtoolbox", "Conv", "qtoolbox::Conv"), ("com.microsoft.nchwc", "Conv", "Conv"), ("com.ms.x", "Conv", "Conv"),
        ("com.me", "com.me::Mine", "com.me::Mine"), ("com.me", "com.me::Conv", "com.me::com.me::Conv"),
    ],
)  # fmt: skip
def test_what_an_operator_is_called(domain, op, name):
    assert called(domain, op) == name
    made = Model.from_proto(of("")).node("relu")
    made.op, made.domain = name, domain
    assert op_type(made) == op


@pytest.mark.parametrize("inner", [False, True])
def test_a_stranger_is_written_as_it_was_read(inner):
    proto = of("com.me")
    if inner:
        # a tensor as an attribute is written in another way than plain ones
        proto.graph.node[0].attribute.append(
            helper.make_attribute("t", onnx.numpy_helper.from_array(np.ones(2, np.float32)))
        )
    model = Model.from_proto(proto)
    model.check()
    assert [one.op for one in model.nodes] == ["com.me::MatMul", "Relu", "MatMul"]
    written = model.to_proto()
    assert (written.graph.node[0].domain, written.graph.node[0].op_type) == ("com.me", "MatMul")
    assert Model.from_proto(written).nodes[0].op == model.copy().nodes[0].op == "com.me::MatMul"
    assert not_run(model).plugins == {"first": "com.me::MatMul"}


def test_no_rule_for_an_operator_of_onnx_holds_for_a_stranger():
    """It was counted as a matrix product, quantized, and kept in float where ONNX's MatMul was asked for."""
    model = Model.from_proto(of("com.me"))
    counts = node_macs(model, model.facts(Profiles((ShapeProfile("one", {"x": Extent((1, 8), (1, 8), (1, 8))}),))))
    assert counts["first"] == 0
    assert list(choose(model, [], ["MatMul"], [], "keep_precision")) == ["second"]
    assert list(choose(model, [], ["com.me::MatMul"], [], "keep_precision")) == ["first"]
    why = decide(model, model.facts(), PrecisionPlan(), Precision.FP16, {}, {}).reason["first"]
    assert "builds ONNX's MatMul in its place" in sentence(why)
    assert Model.from_proto(of("com.me", "Normalizer")).nodes[0].op not in unsupported_operators()
