"""An operator of another domain that is called like one of ONNX's is taken for it nowhere."""

from __future__ import annotations

import ast
from contextlib import nullcontext

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.conftest import ROOT, build, node, normal
from tests.control_flow import conv_in_loop
from toolkit import Code, Model, Precision, PrecisionPlan, choose, fold
from toolkit.backends.lowering.node_types import decide
from toolkit.backends.unsupported import unsupported_operators
from toolkit.base.errors import QtoolError
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.graph.files.value_check import check_values
from toolkit.graph.layers.work import node_macs
from toolkit.graph.proto.light import LightModel
from toolkit.graph.proto.nodes import operators_of
from toolkit.graph.proto.strangers import ONNXRUNTIMES, called
from toolkit.graph.sessions.endless_loops import loop_limits
from toolkit.graph.sessions.runnable import not_run
from toolkit.graph.surgery.strangers import op_type
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
        ("com.me", "FusedConv", "com.me::FusedConv"), ("com.microsoft", "FusedConv", "FusedConv"),
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


def test_rules_know_no_operator_of_onnxruntime_but_those_that_are_told_apart():
    """A name that a rule for operators has and that is onnxruntime's alone is no other domain's."""
    state = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")
    if not hasattr(state, "get_all_operator_schema"):
        pytest.skip("this onnxruntime does not list its operators")
    own = {one.name for one in state.get_all_operator_schema() if one.domain.startswith("com.microsoft")}
    own -= {one.name for one in onnx.defs.get_all_schemas_with_history()}
    texts = (n.value for file in (ROOT / "toolkit").rglob("*.py") for n in ast.walk(ast.parse(file.read_text()))
             if isinstance(n, ast.Constant) and isinstance(n.value, str))  # fmt: skip
    assert own & {word for text in texts if len(text) < 400 for word in text.split()} <= ONNXRUNTIMES


def in_domain(domain, first, inputs, outputs, weights, *others, **types):
    proto = build([first, *others], inputs, outputs, weights, **types)
    proto.graph.node[0].domain = domain
    proto.opset_import.append(helper.make_opsetid("com.me", 1))
    return proto


@pytest.mark.parametrize("domain", ["", "com.me"])
def test_no_rule_for_a_message_holds_for_a_stranger(domain):
    """Its Constant became a weight, its negative scale was refused, and its Loop was said to have no end."""
    held = onnx.numpy_helper.from_array(normal(8, 4), "held")
    made, layer = node("Constant", [], ["w"], "made", value=held), node("MatMul", ["x", "w"], ["y"], "layer")
    proto = in_domain(domain, made, {"x": ["n", 8]}, {"y": ["n", 4]}, {}, layer)
    assert ("made" in Model.from_proto(proto).node_names()) is bool(domain)
    scaled, types = node("QuantizeLinear", ["x", "s"], ["y"], "scaled"), {"y": TensorProto.UINT8}
    proto = in_domain(domain, scaled, {"x": ["n", 8]}, {"y": ["n", 8]}, {"s": np.float32(-1)}, types=types)
    with nullcontext() if domain else pytest.raises(QtoolError):
        check_values(LightModel(proto, where="net.onnx"))
    proto = conv_in_loop()
    (loop,) = (one for one in proto.graph.node if one.op_type == "Loop")
    loop.domain, loop.input[0] = domain, ""
    assert (loop_limits(proto, operators_of(proto), 0) is None) is bool(domain)


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


def test_a_stranger_that_cannot_be_folded_is_named_once():
    proto = of("com.me", "Relu")
    proto.graph.node[0].input[:] = ["w"]
    why = fold(Model.from_proto(proto), lambda node: "", 1 << 20).failed["first"]
    assert "(com.me::Relu)" in why


def test_an_operator_is_written_alike_in_all_sentences():
    model = Model.from_proto(of("com.me", "Relu"))
    lowered = decide(model, model.facts(), PrecisionPlan(), Precision.FP16, {}, {}).reason["first"]
    assert sentence(lowered).startswith("com.me::Relu is not an ONNX operator")
    told = Code.NOT_RUN(plugins=("first",), ops=("com.me::Relu",), behind=2, feeds=("x",), outputs=("y",))
    assert sentence(told).endswith("nothing is measured at output 'y' and at 2 nodes that depend on it.")
