"""search_precision with measured times, alone and through a recipe; its warning where the plan does not pay."""

from __future__ import annotations

import json

import pytest

from passes.search_precision import SearchPrecision
from tests.conftest import MODELS
from tests.toolkit.search.cost.test_layer_times import layer, report
from tests.toolkit.search.planted import chain, damage, feeds
from toolkit import Code, Context, run
from toolkit.base.errors import DataError, QtoolError, RecipeError
from toolkit.calibration.provider import Calibrator
from toolkit.data.dataset import CalibrationData

RECIPE = f"""
[model]
path = "{MODELS.as_posix()}/digits_uneven.onnx"
[calibration]
data = "{MODELS.as_posix()}/digits_calibration.npz"
samples = 40
[[pass]]
use = "fold_batchnorm"
[[pass]]
use = "search_precision"
min_sqnr_db = 12.0
times = "earlier"
[engine]
backend = "none"
[evaluation]
data = "{MODELS.as_posix()}/digits_test.npz"
samples = 40
"""


TIMES = (
    Code.TIMES_FROM_REPORT, Code.TIMES_PREDICTED, Code.TIMES_MEASURED, Code.TIMES_SHARE, Code.GPU_UNKNOWN,
    Code.LATER_PASSES, Code.PLAN_NOT_TIMED, Code.PLAN_TIMED, Code.SEARCH_FOR_TIME,
)  # fmt: skip


def notes(context, *codes):
    return [event.why for event in context.journal.of("noted") if event.why.code in codes]


def test_the_pass_says_what_was_measured_and_warns_of_a_slow_plan(tmp_path):
    model = chain(6)
    damage(model, "layer3")
    names = [f"layer{i}" for i in range(6)]
    slow = report(tmp_path / "slow", *(layer(n, p, ms) for n in names for p, ms in (("int8", 2.0), ("fp16", 1.0))))
    data = CalibrationData.open(feeds(), model)
    context = Context(provider=Calibrator(data, method="minmax"), folder=tmp_path)
    SearchPrecision(min_sqnr_db=28, times=str(slow), prefer="int8")(model, context)
    first, second = notes(context, *TIMES)
    assert first.code is Code.TIMES_FROM_REPORT and first.values["layers"] == 12
    (warning,) = notes(context, Code.SEARCH_SLOWER)
    found = json.loads((tmp_path / "search.json").read_text())
    assert second == Code.TIMES_SHARE(share=found["measured_share"], gpu="A10", scale=second.values["scale"])
    assert found["warnings"] == [warning.to_json()] and found["measured_share"] > 0.5
    assert found["weak_spots"][0]["node"] == "layer3"


def test_reports_without_times_for_the_model_are_refused_before_anything_is_calibrated(tmp_path):
    model = chain(3)
    other = report(tmp_path / "other", layer("elsewhere", "int8", 1.0))
    (tmp_path / "bad.json").write_text("[")
    for path in (other, tmp_path / "bad.json"):
        context = Context(provider=Calibrator(CalibrationData.open(feeds(), model)), dry_run=True)
        with pytest.raises(RecipeError) as caught:
            SearchPrecision(min_sqnr_db=28, times=str(path))(model.copy(), context)
        assert str(path) in str(caught.value)


def test_without_times_nothing_is_said_of_them(tmp_path):
    model = chain(6)
    damage(model, "layer3")
    context = Context(provider=Calibrator(CalibrationData.open(feeds(), model), method="minmax"))
    SearchPrecision(min_sqnr_db=28)(model, context)
    assert notes(context, *TIMES) == []


def test_through_a_recipe_the_report_has_it_and_follows_the_file(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    with pytest.raises(DataError, match="earlier"):
        run(recipe, out=tmp_path / "run")
    earlier = tmp_path / "earlier"
    report(earlier, layer("/head/Gemm", "fp16", 0.02), layer("/head/Gemm", "int8", 0.01))
    result = run(recipe, out=tmp_path / "run")
    search = result.report.search
    assert search is not None and search.measured_share > 0 and search.budget["min_sqnr_db"] == 12.0
    assert result.report.weak_spots and {spot.source for spot in result.report.weak_spots} == {"search"}
    assert all(warning in result.report.summary.warnings for warning in search.warnings)
    assert "Precision search" in (tmp_path / "run/report.html").read_text()
    assert {step.status for step in run(recipe, out=tmp_path / "run").steps} == {"reused"}
    report(earlier, layer("/head/Gemm", "fp16", 0.2), layer("/head/Gemm", "int8", 0.1))
    again = run(recipe, out=tmp_path / "run")
    passes = next(step for step in again.steps if step.name == "passes")
    assert passes.status == "done" and "files of passes" in passes.why
    assert again.report.search.float_ms != search.float_ms


def test_a_run_may_not_read_times_from_the_report_that_it_writes(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.replace('"earlier"', '"run"'))
    report(tmp_path / "run", layer("/head/Gemm", "fp16", 0.02))
    with pytest.raises(QtoolError, match="a file of pass 2"):
        run(recipe, out=tmp_path / "run")
