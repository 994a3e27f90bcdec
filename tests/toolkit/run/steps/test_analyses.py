"""What sensitivity and bisection found is in the run's report, whichever came first, and says when it is outdated."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MODELS
from toolkit import Recipe, run
from toolkit.report.page.html import render_html
from toolkit.report.schema.report import Report
from toolkit.run.analysis.bisect import BisectLimits, Question, bisect_recipe
from toolkit.run.analysis.quantizing import Samples
from toolkit.run.analysis.sensitivity import measure_sensitivity
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.job import Job

SAMPLES = Samples(most=32)


def recipe(method: str = "minmax") -> Recipe:
    return Recipe.build(
        "analysed",
        model={"path": str(MODELS / "digits_uneven.onnx")},
        calibration={"data": str(MODELS / "digits_calibration.npz"), "method": method},
        passes=[{"use": "fold_batchnorm"}, {"use": "insert_qdq"}],
        engine={"backend": "none"},
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analysed") / "out"
    job = Job(recipe(), RunFolder(folder))
    # before there is a report, after it, and a run again
    assert measure_sensitivity(job, SAMPLES, fast=True).page is None
    run(recipe(), out=folder)
    question = Question(BisectLimits(min_sqnr_db=10))
    assert bisect_recipe(Job(recipe(), RunFolder(folder)), SAMPLES, question).page == folder / "report.html"
    return folder


def test_both_are_in_the_report_and_on_its_page(out: Path) -> None:
    report = Report.load(out / "report.json")
    assert report.sensitivity is not None and report.bisection is not None
    assert not report.sensitivity.outdated and not report.bisection.outdated
    layers, kept = {layer.node for layer in report.layers}, report.bisection.kept
    assert {harm.node for harm in report.sensitivity.layers} <= layers and set(kept) <= layers
    assert report.harms == report.sensitivity.layers and sum(harm.share for harm in report.harms) == pytest.approx(1)
    assert report.bisection.check == "min_sqnr_db = 10" and report.bisection.checks[-1].kept >= len(kept) > 0
    assert (out / "report.html").read_text() == render_html(report)
    page = render_html(report)
    assert "What each layer costs" in page and 'id="bisection-title"' in page and 'class="worse"' not in page


def test_a_run_again_keeps_them_and_another_recipe_calls_them_outdated(out: Path) -> None:
    before = Report.load(out / "report.json")
    again = run(recipe(), out=out).report
    assert (again.sensitivity, again.bisection) == (before.sensitivity, before.bisection)
    assert {step.status for step in again.steps if step.name != "report"} == {"reused"}
    changed = run(recipe("entropy"), out=out).report
    assert changed.sensitivity is not None and changed.sensitivity.outdated
    assert "measure again" in render_html(changed)
    # what is measured by another recipe than the report's is kept for its own runs, and not joined into this one
    assert measure_sensitivity(Job(recipe(), RunFolder(out)), SAMPLES, fast=True).page is None
    assert Report.load(out / "report.json").sensitivity == changed.sensitivity


def test_a_damaged_file_says_nothing(out: Path) -> None:
    (out / ".qtool" / "analyses.json").write_text('{"sensitivity": 1}')
    assert run(recipe(), out=out).report.sensitivity is None
