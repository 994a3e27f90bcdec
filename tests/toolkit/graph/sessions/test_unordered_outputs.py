"""Outputs in the order in which onnxruntime computes them: the same values, bit by bit, each as often."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from toolkit.graph.sessions import ort_session, unordered_outputs
from toolkit.graph.sessions import session as sessions
from toolkit.graph.sessions.session import session
from toolkit.graph.sessions.unordered_outputs import AnyOrder

WANTED = ["x", "a", "b", "c", "d", "y"]


@pytest.fixture(scope="module")
def proto():
    """Convolutions to 32, 20 and 32 channels, the last with a sum of its input; ``d`` is read by a Softmax."""
    random = np.random.default_rng(0)
    shapes = {"w0": (32, 3, 3, 3), "w1": (20, 32, 3, 3), "w2": (32, 20, 3, 3), "w3": (32, 32, 1, 1)}
    weights = {name: random.standard_normal(shape, np.float32) / 8 for name, shape in shapes.items()}
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["wide"], **pads),
        helper.make_node("Relu", ["wide"], ["a"]),
        helper.make_node("Conv", ["a", "w1"], ["narrow"], **pads),
        helper.make_node("Sigmoid", ["narrow"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["again"], **pads),
        helper.make_node("Add", ["again", "a"], ["c"]),
        helper.make_node("Conv", ["c", "w3"], ["d"]),
        helper.make_node("Softmax", ["d"], ["y"], axis=1),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["n", 3, 9, 9]), ("y", ["n", 32, 9, 9]))
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("beside", [False, True])
def test_each_value_comes_as_often_as_in_order(proto, tmp_path, beside):
    x = np.random.default_rng(1).standard_normal((2, 3, 9, 9), np.float32)
    source = proto
    if beside:
        source = tmp_path / "model.onnx"
        onnx.save(
            onnx.ModelProto.FromString(proto.SerializeToString()),
            source,
            save_as_external_data=True,
            location="weights",
            size_threshold=0,
        )
    ordered = session(source, WANTED, threads=1).run({"x": x})
    opened = session(source, WANTED, threads=1, any_order=True)
    if not isinstance(opened._inner, AnyOrder):
        pytest.skip("onnxruntime does not compute in blocks of channels on this processor")
    found = opened.run({"x": x})
    assert found.keys() == set(WANTED)
    for name in WANTED:
        assert found[name].shape == ordered[name].shape and found[name].dtype == np.float32
        assert np.sort(found[name], axis=None).tobytes() == np.sort(ordered[name], axis=None).tobytes()
    # 20 channels fill no blocks, and what a node reads it reads in order
    changed = {name for name in WANTED if not np.array_equal(found[name], ordered[name])}
    assert changed == {"a", "c"}


def test_where_there_is_nothing_to_gain_the_session_is_the_usual_one(proto, monkeypatch):
    x = np.ones((1, 3, 9, 9), np.float32)
    wanted = session(proto, WANTED, threads=1).run({"x": x})
    for limit, names in ((unordered_outputs._MOST_BYTES, ["b", "y"]), (1000, WANTED)):
        monkeypatch.setattr(unordered_outputs, "_MOST_BYTES", limit)
        opened = session(proto, names, threads=1, any_order=True)
        assert not isinstance(opened._inner, AnyOrder)
        assert all(np.array_equal(value, wanted[name]) for name, value in opened.run({"x": x}).items())


def test_what_onnxruntime_does_not_read_again_is_run_in_order():
    """It names what it makes within a branch of an If as what it makes outside, and refuses that model."""
    random, pads = np.random.default_rng(0), {"pads": [1, 1, 1, 1]}
    kernels = {"w0": (32, 16, 3, 3), "w1": (32, 32, 3, 3), "w2": (32, 32, 3, 3)}
    first, inner, last = (
        numpy_helper.from_array(random.standard_normal(shape, np.float32), name) for name, shape in kernels.items()
    )
    shapes = {"x": ["n", 16, 8, 8], "t": ["n", 32, 8, 8], "e": ["n", 32, 8, 8], "y": ["n", 32, 8, 8]}
    info = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    then = helper.make_graph([helper.make_node("Conv", ["a", "w1"], ["t"], **pads)], "then", [], [info["t"]], [inner])
    other = helper.make_graph([helper.make_node("Relu", ["a"], ["e"])], "other", [], [info["e"]])
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], **pads),
        helper.make_node("If", ["yes"], ["b"], then_branch=then, else_branch=other),
        helper.make_node("Conv", ["b", "w2"], ["y"], **pads),
    ]
    inputs = [info["x"], helper.make_tensor_value_info("yes", TensorProto.BOOL, [])]
    graph = helper.make_graph(nodes, "g", inputs, [info["y"]], [first, last])
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = {"x": random.standard_normal((2, 16, 8, 8), np.float32), "yes": np.array(True)}
    ordered = session(found, ["a", "y"], threads=1).run(x)
    made = session(found, ["a", "y"], threads=1, any_order=True).run(x)
    assert all(np.sort(made[n], axis=None).tobytes() == np.sort(ordered[n], axis=None).tobytes() for n in ("a", "y"))


def test_where_nothing_is_in_blocked_layout_the_model_is_loaded_once(proto, monkeypatch):
    monkeypatch.setitem(ort_session.SQUARE_REWRITES, ort_session.BLOCKED_LAYOUT, 0)
    loaded, plain = [], sessions.load_session

    def load(*given, **more):
        loaded.append(given[0])
        return plain(*given, **more)

    monkeypatch.setattr(sessions, "load_session", load)
    x = np.random.default_rng(1).standard_normal((2, 3, 9, 9), np.float32)
    found = session(proto, WANTED, threads=1, any_order=True).run({"x": x})
    assert len(loaded) == 1
    ordered = session(proto, WANTED, threads=1).run({"x": x})
    assert all(np.array_equal(found[name], ordered[name]) for name in WANTED)
