"""Samples with a dimension of 0, such as a decoder's first step, whose past is empty."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal, said
from tests.toolkit.conftest import complain
from toolkit import Model
from toolkit.base.errors import DataError
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.cli.main import invoke
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.contract.ranges import Ranges
from toolkit.data.dataset import CalibrationData
from toolkit.report.schema.report import Report

RECIPE = """\
[model]
path = "model.onnx"
[[profile]]
name = "all"
shapes.x = {{ min = [1, 1, 4], opt = [4, 1, 4], max = [8, 3, 4] }}
shapes.past = {{ min = [1, {least}, 4], opt = [4, 2, 4], max = [8, 6, 4] }}
[calibration]
data = "data.npz"
[[pass]]
use = "{quantizer}"
[engine]
backend = "none"
[evaluation]
task = "regression"
budget = {{ min_sqnr_db = 20 }}
"""


@pytest.fixture
def place(tmp_path):
    """y = (past W, x U) joined over time, then V: the past's layer sees nothing at the first step."""
    proto = build(
        [
            node("MatMul", ["past", "w"], ["p"]),
            node("MatMul", ["x", "u"], ["q"]),
            node("Concat", ["p", "q"], ["k"], axis=1),
            node("Relu", ["k"], ["r"]),
            node("MatMul", ["r", "v"], ["y"]),
        ],
        {"x": ["n", "t", 4], "past": ["n", "s", 4]}, {"y": ["n", "st", 8]},
        {"w": normal(4, 8), "u": normal(4, 8, seed=1), "v": normal(8, 8, seed=2)},
    )  # fmt: skip
    onnx.save(proto, str(tmp_path / "model.onnx"))
    return tmp_path


def write(place, lengths):
    arrays = {}
    for number, length in enumerate(lengths):
        arrays[f"x/{number:05d}"] = normal(1, 3 if length == 0 else 1, 4, seed=number)
        arrays[f"past/{number:05d}"] = normal(1, length, 4, seed=100 + number)
    np.savez(place / "data.npz", **arrays)


def run(place, quantizer="insert_qdq"):
    (place / "recipe.toml").write_text(RECIPE.format(least=0, quantizer=quantizer))
    assert invoke(["check", str(place / "recipe.toml")]) == 0
    assert invoke(["run", str(place / "recipe.toml"), "--out", str(place / "out")]) == 0
    out = place / "out"
    journal = Journal.from_jsonl((out / "journal.jsonl").read_text())
    return Ranges.load(out / "ranges.json"), Report.load(out / "report.json"), journal


@pytest.mark.parametrize("quantizer", ["insert_qdq", "search_precision"])
def test_the_first_step_is_calibrated_with_the_others(place, quantizer):
    write(place, [0, 1, 2, 3, 0, 2, 5, 1, 0, 4, 2, 3])
    ranges, report, _ = run(place, quantizer)
    assert ranges.tensors["past"].samples == ranges.tensors["x"].samples
    assert report.accuracy.outputs["y"].sqnr_db > 20
    assert {str(layer.asked_precision) for layer in report.layers if layer.op == "MatMul"} == {"int8"}


@pytest.mark.parametrize("quantizer", ["insert_qdq", "search_precision"])
def test_a_tensor_that_is_always_empty_has_no_range_and_its_layer_stays_float(place, quantizer):
    write(place, [0] * 10)
    ranges, report, journal = run(place, quantizer)
    assert "past" not in ranges.tensors and "x" in ranges.tensors
    asked = {layer.node: str(layer.asked_precision) for layer in report.layers}
    assert asked["p"] != "int8" and asked["q"] == asked["y"] == "int8"
    refused = {event.node: event.why for event in journal.of("declined") if event.why.code is Code.UNRANGED}
    assert refused.keys() == {"p", "k"} and refused["p"].values["why"].code is Code.NO_VALUES
    assert not [one for one in said(journal, Code.UNVARIED_SAMPLES) if "past" in one["inputs"]]


def test_it_is_refused_where_the_profile_does_not_allow_it(place, capsys):
    write(place, [1, 0] * 6)
    (place / "recipe.toml").write_text(RECIPE.format(least=1, quantizer="insert_qdq"))
    for command in (["check"], ["run", "--out", str(place / "out")]):
        assert "[1, 0, 4] fits no profile" in complain(
            place, capsys, command[0], str(place / "recipe.toml"), *command[1:]
        )


def test_new_reads_the_profile_off_the_samples(place):
    write(place, [0, 1, 2, 3] * 4)
    made = place / "made.toml"
    assert invoke(["new", str(place / "model.onnx"), "--data", str(place / "data.npz"), "--out", str(made)]) == 0
    assert "[1, 0, 4]" in made.read_text()
    made.write_text(made.read_text().replace('"auto"', '"none"'))
    assert invoke(["run", str(made), "--out", str(place / "out")]) in (0, 1)


def test_empty_samples_share_batches_and_a_sample_without_rows_is_none(place):
    write(place, [0, 0, 0, 2])
    extents = {"x": Extent((1, 1, 4), (4, 1, 4), (8, 3, 4)), "past": Extent((1, 0, 4), (4, 2, 4), (8, 6, 4))}
    model = Model.load(place / "model.onnx")
    data = CalibrationData.open(str(place / "data.npz"), model, Profiles((ShapeProfile("all", extents),)))
    assert [(b.count, b.inputs["past"].shape) for b in data.batches(8)] == [(3, (3, 0, 4)), (1, (1, 2, 4))]
    nothing = [{"x": np.zeros((1, 0, 4), np.float32), "past": np.zeros((1, 0, 4), np.float32)}]
    with pytest.raises(DataError, match="holds no values"):
        list(CalibrationData.open(nothing, model).samples())
    with pytest.raises(DataError, match="holds no values"):
        list(CalibrationData.open([{k: v[:0] for k, v in nothing[0].items()}], model).samples())


STEPS = [0, 1, 2, 3] * 4


def without_batch(inputs, axis=0):
    """y = (past W joined to x U) V, along an axis that counts steps and no samples."""
    proto = build(
        [
            node("MatMul", ["past", "w"], ["p"]),
            node("MatMul", ["x", "u"], ["q"]),
            node("Concat", ["p", "q"], ["k"], axis=axis),
            node("Relu", ["k"], ["r"]),
            node("MatMul", ["r", "v"], ["y"]),
        ],
        inputs, {"y": [*(None for _ in inputs["x"][:-1]), 8]},
        {"w": normal(4, 8), "u": normal(4, 8, seed=1), "v": normal(8, 8, seed=2)},
    )  # fmt: skip
    return Model.from_proto(proto)


def steps(*middle):
    """Samples of one step, and of three where the past is empty; ``middle`` is their extent beside the steps."""
    return [
        {"x": normal(1 if length else 3, *middle, 4, seed=i), "past": normal(length, *middle, 4, seed=100 + i)}
        for i, length in enumerate(STEPS)
    ]


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": ["t", 4], "past": ["s", 4]},
        {"x": [None, 4], "past": [None, 4]},
        {"x": ["s3", 4], "past": ["s77", 4]},
        {"x": ["batch", 4], "past": [None, 4]},
    ],
    ids=["named", "unnamed", "made up", "batch elsewhere"],
)
def test_an_axis_that_counts_no_samples_may_be_empty(inputs):
    samples = [one | {"x": one["x"][:1]} for one in steps()]
    data = CalibrationData.open(samples, without_batch(inputs))
    # samples of as many steps are not joined either: their steps would be taken for one sequence
    assert [batch.inputs["past"].shape for batch in data.batches(8)] == [(length, 4) for length in STEPS]
    assert not data.can_batch


def test_an_empty_past_with_the_steps_first_shares_batches():
    model = without_batch({"x": ["t", "n", 4], "past": ["s", "n", 4]})
    shapes = [batch.inputs["past"].shape for batch in CalibrationData.open(steps(1), model).batches(8)]
    assert shapes == [(0, 4, 4), (1, 4, 4), (2, 4, 4), (3, 4, 4)]


def test_pasts_that_share_a_name_and_no_batch_may_be_empty():
    proto = build(
        [node("MatMul", ["k", "w"], ["a"]), node("MatMul", ["v", "w"], ["b"]), node("MatMul", ["x", "w"], ["c"]),
         node("Add", ["a", "b"], ["ab"]), node("Concat", ["ab", "c"], ["y"], axis=0)],
        {"x": ["s3", 4], "k": ["s77", 4], "v": ["s77", 4]}, {"y": [None, 8]}, {"w": normal(4, 8)},
    )  # fmt: skip
    samples = [{"x": normal(1, 4), "k": normal(length, 4), "v": normal(length, 4)} for length in STEPS]
    assert len(list(CalibrationData.open(samples, Model.from_proto(proto)).samples())) == len(STEPS)


@pytest.mark.parametrize("dim", ["batch", None])
def test_no_samples_are_still_none(dim):
    model = without_batch({"x": [dim, 4], "past": [dim, 4]})
    with pytest.raises(DataError, match=r"'x': shape \[0, 4\] holds no values"):
        list(CalibrationData.open([{"x": normal(0, 4), "past": normal(0, 4)}], model).samples())
    named = without_batch({"x": ["batch", 4], "past": [None, 4]})
    with pytest.raises(DataError, match=r"'x': shape \[0, 4\] holds no values"):
        list(CalibrationData.open([{"x": normal(0, 4), "past": normal(2, 4)}], named).samples())


def test_a_profile_has_to_allow_the_empty_axis(tmp_path):
    model, samples = without_batch({"x": ["t", 4], "past": ["s", 4]}), steps()
    model.save(tmp_path / "model.onnx")
    extents = {"x": Extent((1, 4), (1, 4), (3, 4)), "past": Extent((1, 4), (2, 4), (3, 4))}
    data = CalibrationData.open(samples, model, Profiles((ShapeProfile("all", extents),)))
    with pytest.raises(DataError, match=r"'past' \[0, 4\] fits no profile"):
        list(data.samples())
    arrays = {f"{name}/{i:05d}": value for i, one in enumerate(samples) for name, value in one.items()}
    np.savez(tmp_path / "data.npz", **arrays)
    made = tmp_path / "made.toml"
    assert invoke(["new", str(tmp_path / "model.onnx"), "--data", str(tmp_path / "data.npz"), "--out", str(made)]) == 0
    assert "shapes.past = { min = [0, 4], opt = [2, 4], max = [3, 4] }" in made.read_text()
    made.write_text(made.read_text().replace('"auto"', '"none"'))
    assert invoke(["run", str(made), "--out", str(tmp_path / "out")]) in (0, 1)
    tensors = Ranges.load(tmp_path / "out" / "ranges.json").tensors
    assert tensors["past"].samples == tensors["x"].samples > 0
