"""NaN that stands for a missing value is taken where the model returns numbers for it, and else refused."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit import CalibrationData, Model, Recipe, run
from toolkit.base.errors import DataError
from toolkit.data import finite
from toolkit.graph.sessions import session as sessions


def filled(replaces=True):
    """A layer over 8 measurements, of which the missing ones count as 0 where the model ``replaces`` them."""
    nodes = [
        node("IsNaN", ["x"], ["missing"]), node("Where", ["missing", "zero", "x"], ["known"]),
        node("MatMul", ["known" if replaces else "x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["y"]),
    ]  # fmt: skip
    weights = {"zero": np.float32(0), "w": normal(8, 16, seed=1), "v": normal(16, 4, seed=2)}
    return build(nodes, {"x": ["n", 8]}, {"y": ["n", 4]}, weights)


def measurements(count, missing=np.nan):
    x = normal(count, 8, seed=3)
    x[::3, 2] = missing
    return x


def data_of(proto, x):
    return CalibrationData.open([{"x": row[None]} for row in x], Model.from_proto(proto))


def test_missing_values_that_the_model_replaces_are_taken():
    x = measurements(9)
    samples = list(data_of(filled(), x).samples())
    assert np.array_equal(np.concatenate([one.inputs["x"] for one in samples]), x, equal_nan=True)


@pytest.mark.parametrize(("replaces", "missing"), [(False, np.nan), (True, np.inf), (True, -np.inf)])
def test_what_leaves_the_model_as_nan_and_infinities_are_refused(replaces, missing):
    with pytest.raises(DataError) as error:
        list(data_of(filled(replaces), measurements(9, missing)).samples())
    assert "the value at [0, 2]" in error.value.what and "sample 0, input 'x'" in str(error.value.where)


def test_each_place_of_missing_values_is_tried_for_the_model_may_replace_those_of_some_columns_only():
    nodes = [
        node("Split", ["x", "parts"], ["a", "b"], axis=1), node("IsNaN", ["a"], ["missing"]),
        node("Where", ["missing", "zero", "a"], ["known"]), node("Concat", ["known", "b"], ["c"], axis=1),
        node("MatMul", ["c", "w"], ["y"]),
    ]  # fmt: skip
    weights = {"zero": np.float32(0), "parts": np.array([3, 5]), "w": normal(8, 4, seed=1)}
    proto = build(nodes, {"x": ["n", 8]}, {"y": ["n", 4]}, weights)
    x = normal(30, 8, seed=3)
    x[:20:2, 1] = x[1:20:2, 2] = np.nan
    assert len(list(data_of(proto, x).samples())) == 30
    x[25, 4] = np.nan
    with pytest.raises(DataError) as error:
        list(data_of(proto, x).samples())
    assert "the value at [0, 4] is nan" in error.value.what and "sample 25, input 'x'" in str(error.value.where)


def test_the_model_is_run_for_new_places_of_missing_values_only(monkeypatch):
    runs = []
    monkeypatch.setattr(finite, "own_session", lambda model: runs.append(1) or sessions.own_session(model))
    x = normal(40, 8, seed=3)
    x[::2, 2] = x[1::2, 5] = np.nan
    x[20:, 7] = np.nan
    assert len(list(data_of(filled(), x).samples())) == 40
    assert len(runs) == 3


def test_a_class_that_hides_what_it_is_from_does_not_show_that_nan_is_replaced():
    proto = build(
        [node("MatMul", ["x", "w"], ["h"]), node("ArgMax", ["h"], ["y"], axis=1)], {"x": ["n", 8]}, {"y": ["n", 1]},
        {"w": normal(8, 4)}, types={"y": 7},
    )  # fmt: skip
    with pytest.raises(DataError):
        list(data_of(proto, measurements(9)).samples())


def test_a_score_that_is_compared_with_a_threshold_does_not_show_that_nan_is_replaced():
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Greater", ["h", "t"], ["above"]),
        node("Cast", ["above"], ["y"], to=1),
    ]
    proto = build(nodes, {"x": ["n", 8]}, {"y": ["n", 4]}, {"w": normal(8, 4), "t": np.float32(0.5)})
    with pytest.raises(DataError):
        list(data_of(proto, measurements(9)).samples())


def test_a_tree_that_is_written_out_takes_missing_values():
    nodes = [
        node("Gather", ["x", "which"], ["one"], axis=1), node("Less", ["one", "t"], ["low"]),
        node("Where", ["low", "a", "b"], ["y"]),
    ]  # fmt: skip
    weights = {"which": np.int64([2]), "t": np.float32(0), "a": np.float32(1), "b": np.float32(2)}
    proto = build(nodes, {"x": ["n", 8]}, {"y": ["n", 1]}, weights)
    assert len(list(data_of(proto, measurements(9)).samples())) == 9


def test_a_run_calibrates_and_judges_samples_with_missing_values(tmp_path):
    (tmp_path / "model.onnx").write_bytes(filled().SerializeToString())
    np.savez(tmp_path / "data.npz", x=measurements(60))
    made = Recipe.build(
        "missing", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "data.npz")},
        passes=["insert_qdq"], engine={"backend": "none", "rest": "fp32"}, evaluation={"data": str(tmp_path / "data.npz")},
    )  # fmt: skip
    report = run(made, tmp_path / "out").report
    known = np.nan_to_num(measurements(60))
    assert report.accuracy.outputs["y"].sqnr_db > 30
    ranges = (tmp_path / "out" / "ranges.json").read_text()
    assert str(round(float(np.abs(known).max()), 3))[:4] in ranges
