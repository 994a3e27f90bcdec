"""Errors of nodes: on samples spread over all, what is only reordered taken from where it comes, as many as cost little."""

from __future__ import annotations

import weakref

import numpy as np
import onnx
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, placeholder_context
from tests.toolkit.search.planted import chain, feeds
from toolkit import Model
from toolkit.backends.lowering.strong import lower
from toolkit.contract.plan import PrecisionPlan
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation import evaluate as evaluating
from toolkit.evaluation.evaluate import evaluate
from toolkit.evaluation.node_errors import measure as node_errors
from toolkit.evaluation.numerics.difference import Difference
from toolkit.graph.sessions.session import session


def paired(model):
    made = model.copy()
    InsertQDQ()(made, placeholder_context(3.0))
    return made


def test_what_is_reordered_has_the_error_of_where_it_comes_from_and_is_not_run(monkeypatch):
    weights = {"w": normal(8, 8), "v": normal(8, 8, seed=1), "flat": np.int64([-1, 2, 4])}
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Reshape", ["m", "flat"], ["r"]),
             node("Transpose", ["r"], ["t"], perm=[0, 2, 1]), node("Relu", ["t"], ["a"]), node("Flatten", ["a"], ["f"]),
             node("MatMul", ["f", "v"], ["y"])]  # fmt: skip
    model = Model.from_proto(build(nodes, {"x": ["n", 8]}, {"y": ["n", 8]}, weights))
    other, data, asked = paired(model), CalibrationData.open(feeds(6, 8), model), []

    def watching(source, outputs=None, **settings):
        asked.append(outputs)
        return session(source, outputs, **settings)

    monkeypatch.setattr(node_errors, "session", watching)
    found, count = node_errors.node_errors(model, node_errors.MeasuredForm(other), data, None, lambda *_: None)
    assert count == 6 and list(found) == ["m", "r", "t", "a", "f", "y"]
    # f's reader has a pair before it, the node itself reads what the other model's reads
    assert all(set(outputs) == {"m", "a", "y"} for outputs in asked)
    own = session(model, outputs=["r", "t", "f"]), session(other, outputs=["r", "t", "f"])
    for name in ("r", "t", "f"):
        direct = Difference()
        for part in data.batches(6):
            direct.add(own[0].run(part.inputs)[name], own[1].run(part.inputs)[name])
        assert found[name].sqnr_db == pytest.approx(direct.sqnr_db, abs=1e-4)
        assert found[name].max_abs == direct.max_abs


def test_a_reordered_tensor_after_a_pair_is_looked_at_itself():
    weights = {"w": normal(8, 8), "v": normal(8, 8, seed=1)}
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Transpose", ["m"], ["t"], perm=[1, 0]),
             node("MatMul", ["t", "m"], ["q"]), node("MatMul", ["q", "v"], ["y"])]  # fmt: skip
    model = Model.from_proto(build(nodes, {"x": ["n", 8]}, {"y": [8, 8]}, weights))
    other = paired(model)
    moved = other.node("t").inputs[0].name != "m"
    found, _ = node_errors.node_errors(
        model, node_errors.MeasuredForm(other), CalibrationData.open(feeds(3, 8), model), None, lambda *_: None
    )
    assert set(found) == {"m", "t", "q", "y"} and (found["t"] != found["m"]) == moved


@pytest.mark.parametrize(("least", "given", "used"), [(0.0, None, 1), (1e9, None, 64), (0.0, 7, 7), (1e9, 200, 80)])
def test_layers_are_measured_on_as_many_samples_as_cost_little(monkeypatch, least, given, used):
    monkeypatch.setattr(node_errors, "_LEAST_MACS", least)
    monkeypatch.setattr(node_errors, "_SHARE", 0.01)
    model = chain(2)
    data = CalibrationData.open(feeds(80), model)
    found = evaluate(model, paired(model), data, layer_samples=given)
    assert (found.samples, found.layer_samples) == (80, used)


def test_of_very_many_nodes_one_session_gives_the_outputs_and_what_layers_make(monkeypatch):
    model, opened = chain(2), []
    lowered = lower(paired(model), PrecisionPlan()).model
    data = CalibrationData.open(feeds(6), model)

    def watching(source, outputs=None, **settings):
        opened.append(outputs)
        return session(source, outputs, **settings)

    monkeypatch.setattr(node_errors, "session", watching)
    found = []
    for most, size in ((20_000, 768_000_000), (0, 768_000_000), (0, 400)):
        monkeypatch.setattr(node_errors, "MOST_NODES", most)
        monkeypatch.setattr(node_errors, "_TAP_BYTES", size)
        opened.clear()
        result = evaluate(model, lowered, data)
        found.append((len(opened), result.nodes, result.outputs))
    # that of the float model's layers is one of them; large tensors are looked at one by one
    assert [count for count, *_ in found] == [3, 2, 5] and found[0][1:] == found[1][1:] == found[2][1:]


def test_of_many_samples_the_session_that_runs_faster_gives_the_same_bits(monkeypatch):
    wide = [node("Conv", ["x", "v0"], ["c0"]), node("Conv", ["c0", "v1"], ["c1"], pads=[1] * 4),
            node("Conv", ["c1", "v2"], ["y"])]  # fmt: skip
    weights = {"v0": normal(16, 3, 1, 1), "v1": normal(16, 16, 3, 3, seed=1), "v2": normal(16, 16, 1, 1, seed=2)}
    shapes = ["n", 3, 8, 8], ["n", 16, 8, 8]
    model, opened = Model.from_proto(build(wide, {"x": shapes[0]}, {"y": shapes[1]}, weights)), []
    lowered = lower(paired(model), PrecisionPlan()).model

    def watching(source, outputs=None, often=False, **settings):
        opened.append((outputs, often))
        return session(source, outputs, often=often, **settings)

    monkeypatch.setattr(node_errors, "session", watching)
    images, found = [{"x": normal(1, 3, 8, 8, seed=i)} for i in range(70)], []
    for often in (70, 71):
        monkeypatch.setattr(evaluating, "_OFTEN", often)
        found.append(evaluate(model, lowered, CalibrationData.open(images, model)))
        # the session of layers' errors, which few samples take, is the plain one
        whole, *others = [kind for outputs, kind in opened if outputs is not None]
        assert whole is (often == 70) and others and not any(others)
        opened.clear()
    assert found[0] == found[1] and found[0].samples == 70


def test_what_is_computed_of_weights_alone_is_no_layer():
    nodes = [node("Transpose", ["w"], ["t"], perm=[1, 0]), node("Neg", ["t"], ["n"]), node("MatMul", ["x", "n"], ["m"]),
             node("Add", ["m", "n"], ["y"])]  # fmt: skip
    model = Model.from_proto(build(nodes, {"x": [8, 8]}, {"y": [8, 8]}, {"w": normal(8, 8)}))
    assert [name for name, *_ in node_errors.comparable(model, model.copy())] == ["m", "y"]


def test_what_a_loop_makes_of_an_outer_tensor_is_no_constant_though_its_inputs_are():
    """A loop of a fixed number of steps from zeros: nothing after it was measured."""
    model = Model.from_proto(
        onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17]>
        steps (float[4,4] x) => (float[4,4] y)
        <int64 count = {{3}}, bool go = {{1}}, float[4,4] zeros = {{{", ".join("0" * 16)}}}> {{
          last = Loop (count, go, zeros) <body = step (int64 i, bool on, float[4,4] h) => (bool on2, float[4,4] h2) {{
            on2 = Identity(on)
            h2 = Add(h, x)
          }}>
          r = Relu(last)
          y = Sigmoid(r)
        }}""")
    )
    assert [tensor for _, tensor, _ in node_errors.comparable(model, model.copy())] == ["last", "r", "y"]


def test_the_session_of_the_outputs_is_gone_before_layers_are_measured(monkeypatch):
    """It holds the weights, which the sessions for the layers hold as well."""
    model, runnable, opened, left = chain(2), evaluating._runnable, [], []

    def watching(*given):
        form, other, notes = runnable(*given)
        opened.append(weakref.ref(other))
        return form, other, notes

    monkeypatch.setattr(evaluating, "_runnable", watching)
    monkeypatch.setattr(evaluating, "node_errors", lambda *given: left.append(opened[0]()) or ({}, 0))
    evaluate(model, lower(paired(model), PrecisionPlan()).model, CalibrationData.open(feeds(24), model))
    assert left == [None]
