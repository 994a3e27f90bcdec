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
