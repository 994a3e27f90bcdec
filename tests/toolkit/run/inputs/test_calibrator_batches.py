"""TensorRT's own calibrators take whole batches: samples that do not fill one are left out, and that is said."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from toolkit import DataError, Recipe, run
from toolkit.cli.main import invoke
from toolkit.data.codes import DataCode
from toolkit.report.findings import sentence
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job

RECIPE = """
[model]
path = "model.onnx"
[[profile]]
name = "all"
shapes.x = {{ min = [1, 6], opt = [{opt}, 6], max = [32, 6] }}
[calibration]
data = "data.npz"
[engine]
backend = "none"
quantization = "implicit"
calibrator = "{calibrator}"
[evaluation]
data = "data.npz"
task = "regression"
"""


def given(place, samples, opt, calibrator="entropy2"):
    onnx.save(
        build([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 6]}, {"y": ["n", 4]}, {"w": normal(6, 4)}),
        place / "model.onnx",
    )
    np.savez(place / "data.npz", x=normal(samples, 6, seed=1))
    (place / "recipe.toml").write_text(RECIPE.format(opt=opt, calibrator=calibrator))
    return Inputs(Job(Recipe.load(place / "recipe.toml"), RunFolder(place / "out")))


@pytest.mark.parametrize(("samples", "opt", "left"), [(27, 8, 3), (9, 8, 1), (24, 8, 0), (5, 1, 0)])
def test_samples_that_fill_no_batch_are_counted(tmp_path, samples, opt, left):
    inputs = given(tmp_path, samples, opt)
    assert sum(len(batch["x"]) for batch in inputs.calibrator_batches()) == samples - left
    said = [DataCode.CALIBRATOR_LEFT_OUT(calibrator="entropy2", left_out=left, samples=samples, batch=opt)]
    assert inputs.calibrator_left_out() == (said if left else [])


def test_nothing_is_left_out_where_the_ranges_are_qtools_own(tmp_path):
    inputs = given(tmp_path, 27, 8, "ranges")
    assert inputs.calibrator_left_out() == [] and not list(inputs.calibrator_batches())


def test_samples_that_fill_not_one_batch_are_an_error(tmp_path):
    inputs = given(tmp_path, 5, 8)
    with pytest.raises(DataError, match=r"whole batches of 8, .* and 5 calibration samples of one shape fill none"):
        list(inputs.calibrator_batches())


def test_a_check_and_a_run_say_what_is_left_out(tmp_path, capsys):
    given(tmp_path, 27, 8)
    told = sentence(DataCode.CALIBRATOR_LEFT_OUT(calibrator="entropy2", left_out=3, samples=27, batch=8))
    assert "3 of 27 calibration samples do not fill one and are left out" in told
    assert invoke(["check", str(tmp_path / "recipe.toml")]) == 0
    assert told in " ".join(capsys.readouterr().out.split())
    assert told in run(tmp_path / "recipe.toml", tmp_path / "out").report.summary.warnings
