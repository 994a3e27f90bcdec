"""Rows that values choose from a whole batch are no samples, however many there were of each."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit import Model, Recipe, run
from toolkit.evaluation.observation.chosen_rows import chosen_rows
from toolkit.evaluation.observation.observe import observe
from toolkit.graph.sessions.session import session

PLACES = 8


def peaks(rows="found", whole=False):
    """Scores of the places of a signal that are above 1: [found, 3]; with ``whole`` they are put back where they were."""
    nodes = [
        node("Greater", ["x", "one"], ["high"]), node("NonZero", ["high"], ["where"]),
        node("Transpose", ["where"], ["places"], perm=[1, 0]), node("GatherND", ["x", "places"], ["values"]),
        node("Unsqueeze", ["values", "axis"], ["column"]), node("MatMul", ["column", "w"], ["scores"]),
    ]  # fmt: skip
    weights = {"one": np.float32(1), "axis": np.int64([1]), "w": np.float32([[1, -1, 2]])}
    if whole:
        nodes += [node("ScatterND", ["x", "places", "values"], ["y"])]
        return Model.from_proto(build(nodes, {"x": ["batch", PLACES]}, {"y": ["batch", PLACES]}, weights))
    return Model.from_proto(build(nodes, {"x": ["batch", PLACES]}, {"scores": [rows, 3]}, weights))


def signals(counts):
    """Signals with so many places above 1."""
    x = -np.abs(normal(len(counts), PLACES, seed=1))
    for row, count in enumerate(counts):
        x[row, :count] = 2 + 0.1 * row
    return x.astype(np.float32)


def axis(model, counts):
    batches = [({"x": row[None]}, session(model).run({"x": row[None]}), 1) for row in signals(counts)]
    return observe(model, batches).outputs[0].batch_axis


@pytest.mark.parametrize(("rows", "found"), [("found", None), ("scores_dim_0", None), ("batch", 0)])
def test_one_row_each_is_no_axis_of_samples_where_values_choose_it(rows, found):
    assert axis(peaks(rows), [1] * 6) == found


def test_what_is_put_back_in_its_place_has_the_samples_axis():
    assert axis(peaks(whole=True), [1] * 6) == 0


@pytest.mark.parametrize(
    ("op", "axes", "attributes", "rows"),
    [
        ("ReduceMax", [0], {}, False), ("ReduceMax", [-2], {}, False), ("ReduceMax", [-1], {}, True),
        ("ReduceSum", None, {}, False), ("ReduceSum", [], {}, False),
        ("ReduceSum", None, {"noop_with_empty_axes": 1}, True), ("ReduceSum", [], {"noop_with_empty_axes": 1}, True),
        ("ArgMax", None, {"axis": -2}, False), ("ArgMax", None, {"axis": -1}, True), ("ArgMax", None, {}, False),
        ("TopK", [1], {"axis": -2}, False), ("TopK", [1], {}, True),
    ],
)  # fmt: skip
def test_what_is_reduced_over_all_that_was_chosen_has_no_rows_of_it(op, axes, attributes, rows):
    weights = {"one": np.float32(1)} | ({"axes": np.int64(axes)} if axes is not None else {})
    nodes = [
        node("Greater", ["x", "one"], ["high"]), node("NonZero", ["high"], ["where"]),
        node("Transpose", ["where"], ["places"], perm=[1, 0]), node("Cast", ["places"], ["found"], to=1),
        node(op, ["found", *(["axes"] if axes is not None else [])], ["y", "i"] if op == "TopK" else ["y"], **attributes),
    ]  # fmt: skip
    model = Model.from_proto(build(nodes, {"x": ["batch", PLACES]}, {"y": None}, weights, opset=18))
    assert ("y" in chosen_rows(model)) is rows


def test_rows_of_a_batch_are_not_counted_as_samples(tmp_path):
    (tmp_path / "model.onnx").write_bytes(peaks().to_bytes())
    counts = [1] * 20 + [3, 0, 2, 4]
    np.savez(tmp_path / "data.npz", x=signals(counts))
    made = Recipe.build(
        "rows", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "data.npz")},
        passes=["fold_constants"], engine={"backend": "none", "rest": "fp32"},
        evaluation={"data": str(tmp_path / "data.npz"), "batch": 8},
    )  # fmt: skip
    parts = run(made, tmp_path / "out").report.accuracy.parts
    assert {part.answers for part in parts} == {len(counts)}
