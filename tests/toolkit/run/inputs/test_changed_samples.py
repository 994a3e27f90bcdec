"""Samples that are skipped, padded or cropped to fit a profile are told of, whichever data they are of."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal
from toolkit import Recipe, run
from toolkit.run.checks.dry_run import dry_run

SIZES = {"skip": [8, 4, 16, 12, 8, 40], "crop": [8, 16, 32, 8, 40, 16], "pad": [8, 4, 16, 2, 8, 16]}
"""Of images for a profile of 8 to 16: two of each list do not fit."""
TOLD = {
    "skip": "{} skipped: no profile fits",
    "crop": "{} cropped to fit a profile",
    "pad": "{} padded with zeros to fit a profile",
}


def samples(sizes):
    return [{"x": normal(1, 3, size, size, seed=number)} for number, size in enumerate(sizes)]


def recipe(place, outside, calibration, evaluation, **more):
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1] * 4), node("GlobalAveragePool", ["c"], ["p"]),
        node("Flatten", ["p"], ["y"]),
    ]  # fmt: skip
    onnx.save(build(nodes, {"x": ["n", 3, "h", "w"]}, {"y": ["n", 4]}, {"w": normal(4, 3, 3, 3)}), place / "m.onnx")
    shapes = {"x": {"min": [1, 3, 8, 8], "opt": [4, 3, 16, 16], "max": [8, 3, 16, 16]}}
    return Recipe.build(
        "sizes", model={"path": place / "m.onnx"}, profile=[{"name": "one", "shapes": shapes}],
        calibration={"data": calibration, "outside": outside}, passes=[InsertQDQ()], engine={"backend": "none"},
        **({"evaluation": {"data": evaluation, **more}} if evaluation is not None else {}),
    )  # fmt: skip


@pytest.mark.parametrize("outside", SIZES)
@pytest.mark.parametrize("of", ["calibration", "evaluation", "both"])
def test_samples_that_were_made_to_fit_are_told_of(of, outside, tmp_path):
    odd, plain = samples(SIZES[outside]), samples([8, 16, 12, 16])
    calibration, evaluation = {"calibration": (odd, plain), "evaluation": (plain, odd), "both": (odd, odd)}[of]
    made = recipe(tmp_path, outside, calibration, evaluation)
    told = TOLD[outside].format("2 samples")
    checked, ran = dry_run(made), run(made, out=tmp_path / "run").report.summary.warnings
    for warnings in (checked.warnings, ran):
        assert sum(str(one).startswith(told) for one in warnings) == 1, warnings


@pytest.mark.parametrize("outside", SIZES)
def test_held_out_samples_that_were_made_to_fit_are_told_apart(outside, tmp_path):
    # two of six are held out: the first and the last of the odd ones are in either part, whichever they are
    made = recipe(tmp_path, outside, samples(SIZES[outside] * 4), None)
    ran = [str(one) for one in run(made, out=tmp_path / "run").report.summary.warnings]
    told = [one for one in ran if TOLD[outside].format("").strip() in one]
    assert len(told) == 2 and sum("held out" in one for one in told) == 1
    assert sum(int(one.split()[0]) for one in told) == 8


def test_samples_that_fit_are_read_no_oftener_to_tell_that(tmp_path):
    class Counted(list):
        read = 0

        def __iter__(self):
            Counted.read += 1
            return super().__iter__()

    def passes(outside):
        Counted.read = 0
        made = recipe(tmp_path, outside, Counted(samples([8, 16, 12, 16])), Counted(samples([8, 16])))
        assert not any("profile fits" in str(one) for one in run(made, out=tmp_path / outside).report.summary.warnings)
        return Counted.read

    assert passes("error") <= passes("skip")


def test_rows_that_are_left_over_are_told_of(tmp_path):
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    onnx.save(build(nodes, {"x": [4, 8]}, {"y": [4, 3]}, {"w": normal(8, 3)}), tmp_path / "m.onnx")
    np.savez(tmp_path / "c.npz", x=normal(18, 8))
    made = Recipe.build(
        "rows", model={"path": tmp_path / "m.onnx"}, calibration={"data": tmp_path / "c.npz"}, passes=[InsertQDQ()],
        engine={"backend": "none"}, evaluation={"data": tmp_path / "c.npz"},
    )  # fmt: skip
    for warnings in (dry_run(made).warnings, run(made, out=tmp_path / "run").report.summary.warnings):
        assert any(str(one).startswith("2 rows left out: too few to fill a batch") for one in warnings)
