"""Rows that a TopK selects, such as a detector's queries, are compared with those of the same object."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from tests.conftest import build, node, normal
from toolkit import CalibrationData, Model
from toolkit.evaluation.evaluate import evaluate
from toolkit.evaluation.node_errors.row_match import TopKRows, matched
from toolkit.evaluation.node_errors.row_order import rows_by_value

QUERIES, WIDE, TOKENS = 6, 8, 20


def detector(noise=0.0, wrong=1.0):
    """The best six of 20 tokens by a score, then self-attention among them and a head of two layers."""
    weights = {
        "score": normal(WIDE, 1, seed=1), "k": np.array([QUERIES]), "last": np.array([-1]), "wide": np.array([1, 1, WIDE]),
        "v": normal(WIDE, WIDE, seed=2, scale=0.3), "h": wrong * normal(WIDE, 4, seed=3),
        "w": normal(WIDE, WIDE, scale=0.3) + noise * normal(WIDE, WIDE, seed=4),
    }  # fmt: skip
    nodes = [
        node("MatMul", ["x", "w"], ["tokens"]), node("MatMul", ["tokens", "score"], ["s"]),
        node("Squeeze", ["s", "last"], ["scores"]), node("TopK", ["scores", "k"], ["best", "at"], "top"),
        node("Unsqueeze", ["at", "last"], ["at1"]), node("Tile", ["at1", "wide"], ["places"]),
        node("GatherElements", ["tokens", "places"], ["rows"], axis=1),
        node("Transpose", ["rows"], ["keys"], perm=[0, 2, 1]), node("MatMul", ["rows", "keys"], ["far"]),
        node("Softmax", ["far"], ["share"], axis=-1), node("MatMul", ["share", "rows"], ["mix"]),
        node("MatMul", ["mix", "v"], ["m"]), node("Relu", ["m"], ["r"]), node("MatMul", ["r", "h"], ["y"]),
    ]  # fmt: skip
    return Model.from_proto(build(nodes, {"x": ["N", TOKENS, WIDE]}, {"y": ["N", QUERIES, 4], "at": ["N", QUERIES]}, weights, types={"at": TensorProto.INT64}))  # fmt: skip


def run_of(model, x, names):
    from toolkit.graph.sessions.session import session

    return session(model, outputs=names).run({"x": x})


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_layers_behind_selected_queries_have_the_error_of_the_same_queries(noise):
    """The noise makes the other model select some others, in another order."""
    x = normal(24, TOKENS, WIDE, seed=7)
    plain, other = detector(), detector(noise=noise, wrong=1.1)
    data = CalibrationData.open([{"x": one[None]} for one in x], plain)
    found = evaluate(plain, other, data)
    names = ["at", "m", "y", "mix"]
    a, b = (run_of(model, x, names) for model in (plain, other))
    moved = (a["at"] != b["at"]).any()
    assert moved == (noise > 0)
    for name in names[1:]:
        signal = lost = 0.0
        for sample in range(len(x)):
            theirs = {int(at): row for at, row in zip(b["at"][sample], b[name][sample])}
            for at, row in zip(a["at"][sample], a[name][sample]):
                if int(at) in theirs:
                    signal, lost = signal + (row**2).sum(), lost + ((row - theirs[int(at)]) ** 2).sum()
        if lost:
            assert found.nodes[name].sqnr_db == pytest.approx(10 * np.log10(signal / lost), abs=0.01)
        else:
            assert found.nodes[name].sqnr_db is None and found.nodes[name].max_abs == 0
    # the products of queries with queries have two axes of them
    assert "far" not in found.nodes
    by_place = 10 * np.log10((a["y"] ** 2).sum() / ((a["y"] - b["y"]) ** 2).sum())
    assert found.nodes["y"].sqnr_db > by_place + (3 if noise else -1e-3)
    assert [dict(note.values) for note in rows_by_value(plain, found.nodes)] == [{"by": ("top",), "layers": 1}]


def test_rows_are_found_along_the_axis_that_has_as_many():
    mine, theirs = np.array([[4, 1, 7], [2, 0, 5]]), np.array([[7, 4, 9], [5, 2, 0]])
    shared = np.array([[True, False, True], [True, True, True]])
    values = np.arange(24.0).reshape(2, 3, 4)
    order = np.array([[1, 0, 0], [1, 2, 0]])
    others = values + 100
    wanted = np.take_along_axis(others, order[..., None], 1)
    rows = TopKRows("at", -1)
    at = {"at": mine}, {"at": theirs}
    forms = {
        "batch first": lambda one: one,
        "rows first": lambda one: one.transpose(1, 0, 2),
        "features first": lambda one: one.transpose(0, 2, 1),
        "rows of all samples": lambda one: one.reshape(6, 4),
    }
    for name, form in forms.items():
        first, found, on = matched(form(values), form(others), rows, *at)
        back = {"rows first": (1, 0, 2), "features first": (0, 2, 1)}.get(name, (0, 1, 2))
        on = np.broadcast_to(on, first.shape).transpose(back)
        np.testing.assert_array_equal(on, np.broadcast_to(shared[..., None], on.shape))
        np.testing.assert_array_equal(first.transpose(back), values)
        np.testing.assert_array_equal(found.transpose(back)[on], wanted[on])
    heads = [np.repeat(one, 2, axis=0) for one in (values, others)]
    _, found, on = matched(*heads, rows, *at)
    np.testing.assert_array_equal(found[::2][shared], wanted[shared])
    layers = [np.stack([one] * 4) for one in (values, others)]
    _, found, on = matched(*layers, rows, *at)
    np.testing.assert_array_equal(on, shared[None, ..., None])
    np.testing.assert_array_equal(found[3][shared], wanted[shared])
    nothing = {"at": np.zeros((0, 3), np.int64)}
    assert matched(values[:0], others[:0], rows, nothing, nothing) is None
    assert matched(np.zeros((2, 3, 3)), np.zeros((2, 3, 3)), rows, *at) is None
    assert matched(np.zeros((2, 4)), np.zeros((2, 4)), rows, *at) is None
    assert matched(np.zeros((5, 3)), np.zeros((5, 3)), rows, *at) is None
