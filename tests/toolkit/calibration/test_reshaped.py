"""A range that is given for a tensor is one for the same values in another shape; one without any use is named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from tests.conftest import build, node, normal
from toolkit import Model, Recipe, run
from toolkit.calibration.reshaped import contradictions, with_reshaped
from toolkit.run.checks.dry_run import dry_run


def network():
    """A signal that is made a picture before the convolution reads it, in two ways, and a Gemm behind a Slice."""
    nodes = [
        node("Unsqueeze", ["x", "one"], ["u"]), node("Transpose", ["u"], ["t"], perm=[0, 1, 3, 2]),
        node("Conv", ["t", "w"], ["c"], "conv"), node("Relu", ["c"], ["r"]), node("Flatten", ["r"], ["f"]),
        node("Slice", ["f", "begin", "end", "one"], ["s"]), node("Gemm", ["s", "v"], ["y"], "gemm"),
    ]  # fmt: skip
    weights = {
        "one": np.int64([1]), "begin": np.int64([0]), "end": np.int64([24]), "w": normal(4, 1, 3, 3, seed=1, scale=0.3),
        "v": normal(24, 5, seed=2, scale=0.3),
    }  # fmt: skip
    return build(nodes, {"x": ["n", 6, 8]}, {"y": ["n", 5]}, weights, opset=13)


def test_what_is_known_goes_back_to_the_first_form_and_on_to_its_branches():
    nodes = [
        node("Reshape", ["x", "shape"], ["a"]), node("Cast", ["a"], ["h"], to=TensorProto.FLOAT16),
        node("Identity", ["x"], ["b"]), node("Slice", ["b", "begin", "end"], ["part"]), node("Relu", ["b"], ["r"]),
        node("Cast", ["b"], ["i"], to=TensorProto.INT32), node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
    ]  # fmt: skip
    shape = {"shape": np.int64([8, -1]), "begin": np.int64([0]), "end": np.int64([1])}
    outputs = {"y": [8, "n"], "part": [1, 8], "r": ["n", 8], "i": ["n", 8]}
    kinds = {"i": TensorProto.INT32}
    model = Model.from_proto(build(nodes, {"x": ["n", 8]}, outputs, shape, types=kinds))
    every = {"x", "a", "h", "b", "y"}
    for name in every:
        assert with_reshaped(model, {name: 3}) == dict.fromkeys(every, 3)
    # each keeps its own
    assert with_reshaped(model, {"h": 3, "b": 4}) == {"x": 4, "a": 3, "h": 3, "b": 4, "y": 3}
    assert with_reshaped(model, {"r": 1}) == {"r": 1} and with_reshaped(model, {}) == {}


def test_what_is_known_of_the_same_values_may_contradict_itself():
    nodes = [
        node("Reshape", ["x", "shape"], ["a"]), node("Identity", ["x"], ["b"]), node("Relu", ["b"], ["r"]),
        node("Identity", ["r"], ["y"]),
    ]  # fmt: skip
    model = Model.from_proto(
        build(nodes, {"x": ["n", 8]}, {"y": ["n", 8], "a": ["n", 8]}, {"shape": np.int64([-1, 8])})
    )
    assert contradictions(model, {"a": 1, "r": 7, "b": 2}) == ["a", "b"]
    assert contradictions(model, {"x": 1, "b": 2}) == ["x", "b"]
    assert contradictions(model, {"x": 1, "a": 1, "b": 1, "r": 2, "y": 2}) == []
    assert contradictions(model, {"x": 1}) == contradictions(model, {}) == []


@pytest.mark.parametrize(("manual", "said"), [({"x": 1.5, "u": 2.5}, True), ({"x": 1.5, "u": 1.5}, False)])
def test_ranges_set_by_hand_that_contradict_each_other_are_named(tmp_path, manual, said):
    made = recipe(tmp_path, manual=manual)
    for warnings in (dry_run(made).warnings, run(made, tmp_path / "out").report.summary.warnings):
        told = [line for line in warnings if "sets 1.5 and 2.5 for 'x' and 'u'" in line]
        assert len(told) == said


def recipe(folder, passes=("insert_qdq",), **calibration):
    onnx.save(network(), str(folder / "model.onnx"))
    np.savez(folder / "data.npz", x=normal(32, 6, 8, seed=3))
    return Recipe.build(
        "hand", model={"path": folder / "model.onnx"}, passes=list(passes), engine={"backend": "none"},
        calibration={"data": str(folder / "data.npz"), **calibration},
    )  # fmt: skip


def amax_of(folder, tensor):
    """The largest magnitude that the pair on a tensor of model.onnx keeps."""
    graph = onnx.load(folder / "model.onnx").graph
    (pair,) = [one for one in graph.node if one.op_type == "QuantizeLinear" and one.input[0] == tensor]
    scale = next(one for one in graph.initializer if one.name == pair.input[1])
    return 127 * float(numpy_helper.to_array(scale))


@pytest.mark.parametrize(
    "passes", [["insert_qdq"], [{"use": "search_precision", "min_sqnr_db": 1, "weights": "output"}]]
)
@pytest.mark.parametrize("tensor", ["x", "u", "t"])
def test_a_range_set_by_hand_counts_for_the_tensor_that_gets_the_pair(tmp_path, tensor, passes):
    report = run(recipe(tmp_path, passes, manual={tensor: 1.5}), tmp_path / "out").report
    # a search that looks for better ranges leaves it alone too
    assert amax_of(tmp_path / "out", "t") == pytest.approx(1.5, rel=1e-3)
    assert not any("manual" in line for line in report.summary.warnings)


def test_a_table_counts_likewise_where_it_overrides_calibration(tmp_path):
    (tmp_path / "table.json").write_text('{"x": 1.5}')
    run(recipe(tmp_path, ranges=str(tmp_path / "table.json")), tmp_path / "one")
    assert amax_of(tmp_path / "one", "t") == pytest.approx(1.5, rel=1e-3)
    filling = recipe(tmp_path, ranges=str(tmp_path / "table.json"), ranges_use="fill")
    run(filling, tmp_path / "two")
    assert amax_of(tmp_path / "two", "t") > 2


@pytest.mark.parametrize(("tensor", "used"), [("c", False), ("y", False), ("f", False), ("s", True), ("x", True)])
def test_a_range_set_by_hand_that_no_pair_can_use_is_named(tmp_path, tensor, used):
    made = recipe(tmp_path, manual={tensor: 1.5})
    for warnings in (dry_run(made).warnings, run(made, tmp_path / "out").report.summary.warnings):
        said = [line for line in warnings if "manual" in line]
        assert len(said) == (0 if used else 1) and all(f"sets for '{tensor}' has no effect" in line for line in said)
