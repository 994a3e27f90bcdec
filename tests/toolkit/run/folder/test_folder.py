"""A run folder that two runs write in: whose files it holds, and that what is out of date says so."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest

from tests.conftest import normal, said
from tests.toolkit.conftest import complain, model, rewrite
from toolkit import Journal, Recipe, run
from toolkit.base.errors import QtoolError
from toolkit.cli.main import invoke
from toolkit.report.codes import ReportCode
from toolkit.report.schema.report import Report
from toolkit.run.folder.state import RunState
from toolkit.run.steps.engine import EngineStep
from toolkit.run.steps.passes import PassesStep


def stop(*step, **settings):
    raise KeyboardInterrupt


@pytest.fixture
def mixed(place, monkeypatch):
    """A folder with a finished run, in which a second one with another recipe was stopped before its engine."""
    run(place / "recipe.toml", place / "out")
    shutil.copytree(place / "out", place / "before")
    rewrite(place, 'data = "data.npz"', 'data = "data.npz"\nmethod = "minmax"')
    with monkeypatch.context() as patch:
        patch.setattr(EngineStep, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            run(place / "recipe.toml", place / "out")
    return place


def test_the_report_of_a_run_that_was_overtaken_says_so_in_every_form(mixed, capsys):
    report = Report.load(mixed / "out" / "report.json")
    before = Report.load(mixed / "before" / "report.json")
    assert report.summary.verdict == "outdated" and before.summary.verdict != "outdated"
    assert report.layers == before.layers and before.summary.headline in report.summary.headline
    first, second = ((mixed / name / "report.html").read_text() for name in ("before", "out"))
    assert 'class="banner outdated"' in second and 'class="banner outdated"' not in first
    assert "<title>Out of date" in second
    capsys.readouterr()
    assert invoke(["inspect", str(mixed / "out")]) == 0
    assert capsys.readouterr().out.startswith("OUT OF DATE")
    assert invoke(["inspect", str(mixed / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["verdict"] == "outdated"
    page = mixed / "compared.html"
    assert invoke(["compare", str(mixed / "before"), str(mixed / "out"), "--json", "--html", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["runs"][0]["verdict"] == "outdated", found["runs"][1]["verdict"]) == (False, "outdated")
    assert 'class="banner outdated"' in page.read_text()


def test_single_files_of_a_mixed_folder_say_whose_they_are(mixed, capsys):
    state = RunState.load(mixed / "out").unfinished
    assert (
        state.step == "passes" and state.current == ["task", "passes", "lowering"] and "calibration method" in state.why
    )
    capsys.readouterr()
    assert invoke(["inspect", str(mixed / "out" / "ranges.json")]) == 0
    new = capsys.readouterr().out.splitlines()[0]
    assert invoke(["inspect", str(mixed / "out" / "journal.jsonl")]) == 0
    old = capsys.readouterr().out.splitlines()[0]
    assert new.startswith("Warning") and old.startswith("Warning") and new != old
    ranges = [str(mixed / name / "ranges.json") for name in ("before", "out")]
    assert invoke(["compare", *ranges, "--json"]) == 0
    printed = capsys.readouterr()
    assert "Warning" in printed.err and json.loads(printed.out)
    assert invoke(["inspect", str(mixed / "before" / "ranges.json"), "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_old_files_stay_until_their_successors_are_there(mixed):
    for name in ("journal.jsonl", "recipe.lock.toml", ".qtool/engine.json"):
        assert (mixed / "out" / name).read_bytes() == (mixed / "before" / name).read_bytes()
    assert (mixed / "out" / "ranges.json").read_bytes() != (mixed / "before" / "ranges.json").read_bytes()


def test_the_same_recipe_again_ends_as_if_nothing_had_been(mixed, capsys):
    result = run(mixed / "recipe.toml", mixed / "out")
    assert {s.name: s.status for s in result.steps}["passes"] == "reused"
    fresh = run(mixed / "recipe.toml", mixed / "fresh")
    for name in ("model.onnx", "ranges.json"):
        assert (mixed / "out" / name).read_bytes() == (mixed / "fresh" / name).read_bytes()
    assert result.report.summary == fresh.report.summary
    assert RunState.load(mixed / "out").unfinished is None
    capsys.readouterr()
    assert invoke(["inspect", str(mixed / "out" / "ranges.json")]) == 0
    assert "Warning" not in capsys.readouterr().out


def test_a_failure_before_anything_is_written_leaves_the_report_alone(place, capsys):
    run(place / "recipe.toml", place / "out")
    before = (place / "out" / "report.json").read_bytes()
    rewrite(place, '"data.npz"', '"nothing.npz"')
    complain(place, capsys)
    assert (place / "out" / "report.json").read_bytes() == before


def test_the_first_step_that_is_done_again_finds_the_report_marked(place, monkeypatch):
    run(place / "recipe.toml", place / "out")
    rewrite(place, 'data = "data.npz"', 'data = "data.npz"\nmethod = "minmax"')
    seen = []
    own = PassesStep.run

    def look(step):
        seen.append(Report.load(place / "out" / "report.json").summary.verdict)
        return own(step)

    monkeypatch.setattr(PassesStep, "run", look)
    result = run(place / "recipe.toml", place / "out")
    assert seen == ["outdated"] and result.report.summary.verdict != "outdated"


def test_a_damaged_report_is_taken_away_rather_than_marked(place, monkeypatch):
    run(place / "recipe.toml", place / "out")
    (place / "out" / "report.json").write_text("{")
    rewrite(place, 'data = "data.npz"', 'data = "data.npz"\nmethod = "minmax"')
    monkeypatch.setattr(EngineStep, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        run(place / "recipe.toml", place / "out")
    assert not (place / "out" / "report.json").exists() and not (place / "out" / "report.html").exists()


def test_a_measurement_that_was_overtaken_says_so(place, capsys, monkeypatch):
    words = [str(place / "recipe.toml"), "--out", str(place / "out")]
    assert invoke(["sensitivity", *words]) == 0
    file = place / "out" / "sensitivity.json"
    before = json.loads(file.read_text())
    with monkeypatch.context() as patch:
        patch.setattr("toolkit.search.sensitivity.measure.exact", stop)
        assert invoke(["sensitivity", *words]) == 130
    assert json.loads(file.read_text()) == {**before, "outdated": True}
    capsys.readouterr()
    assert invoke(["inspect", str(file), "--json"]) == 0
    assert capsys.readouterr().err.startswith("Warning")
    assert invoke(["sensitivity", *words]) == 0
    assert json.loads(file.read_text())["outdated"] is False


# ---------------------------------------------------------------- two recipes


@pytest.fixture
def two(place, monkeypatch):
    """Two recipes of one name in two folders, and a working directory beside them."""
    for name in ("a", "b"):
        (place / name).mkdir()
        for file in ("recipe.toml", "model.onnx", "data.npz"):
            shutil.copy(place / file, place / name / file)
    monkeypatch.chdir(place)
    return place


@pytest.mark.parametrize("command", ["run", "sensitivity", "bisect", "calibrate"])
def test_two_recipes_of_one_name_do_not_share_the_folder_of_that_name(two, capsys, command):
    assert invoke(["run", "a/recipe.toml"]) == 0
    before = (two / "runs" / "recipe" / "report.json").read_bytes()
    words = [command, "b/recipe.toml", *(["--min-sqnr-db", "1"] if command == "bisect" else [])]
    assert "--out" in complain(two, capsys, *words)
    assert (two / "runs" / "recipe" / "report.json").read_bytes() == before
    assert invoke(["run", "a/recipe.toml"]) == 0


def test_what_was_calibrated_is_not_written_over_by_another_recipe_of_the_name(two, capsys):
    assert invoke(["calibrate", "a/recipe.toml"]) == 0
    assert invoke(["calibrate", "a/recipe.toml", "--shard", "1/2"]) == 0
    before = (two / "runs" / "recipe" / "collection.npz").read_bytes()
    assert "--out" in complain(two, capsys, "calibrate", "b/recipe.toml")
    assert (two / "runs" / "recipe" / "collection.npz").read_bytes() == before
    assert invoke(["calibrate", "b/recipe.toml", "--out", "b.npz"]) == 0


def test_two_recipes_share_a_folder_that_was_named_and_it_is_said(two):
    first = run(two / "a" / "recipe.toml", two / "out")
    assert said(Journal.from_jsonl((first.folder / "journal.jsonl").read_text()), ReportCode.FOLDER_OF_ANOTHER) == []
    second = run(two / "b" / "recipe.toml", two / "out")
    journal = Journal.from_jsonl((second.folder / "journal.jsonl").read_text())
    (values,) = said(journal, ReportCode.FOLDER_OF_ANOTHER)
    assert values["recipe"] == str((two / "a" / "recipe.toml").resolve())


def test_a_recipe_that_was_moved_with_its_results_is_no_other_one(two):
    assert invoke(["run", "a/recipe.toml"]) == 0
    (two / "a").rename(two / "c")
    assert invoke(["run", "c/recipe.toml"]) == 0


def test_recipes_made_in_python_are_told_apart_by_their_models(two):
    def made(folder):
        return Recipe.build(
            model={"path": two / folder / "model.onnx"}, calibration={"data": [{"x": normal(1, 3, 4, 4)}]},
            passes=[{"use": "insert_qdq"}], engine={"backend": "none"},
        )  # fmt: skip

    run(made("a"))
    run(made("a"))
    with pytest.raises(QtoolError, match="--out"):
        run(made("b"))


# ---------------------------------------------------------------- a run folder that was moved beside another recipe


@pytest.fixture
def beside(two):
    """The run folder of a/recipe.toml in b/, where another recipe, model and data have the same names."""
    assert invoke(["run", "a/recipe.toml", "--out", "a/run"]) == 0
    proto = model()
    proto.doc_string = "another"
    onnx.save(proto, "b/model.onnx")
    np.savez("b/data.npz", x=normal(12, 3, 4, 4, seed=5) * 100)
    recipe = two / "b" / "recipe.toml"
    recipe.write_text(
        recipe.read_text().replace('use = "insert_qdq"', 'use = "keep_precision"\nprecision = "fp16"\nops = ["Conv"]')
    )
    (two / "a" / "run").rename(two / "b" / "run")
    return two


def test_a_folder_that_was_moved_alone_reads_what_its_own_run_read(beside, capsys):
    folder = beside / "b" / "run"
    before = Report.load(folder / "report.json")
    capsys.readouterr()
    assert invoke(["accuracy", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"]["outputs"] == before.accuracy.model_dump(mode="json")["outputs"]
    assert found["warnings"] == []
    assert Recipe.load(folder / "recipe.lock.toml").folder == beside / "a"
    assert invoke(["compare", str(folder), str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["verdict"] == before.summary.verdict


def test_the_recipe_beside_it_does_all_anew_and_says_whose_folder_it_was(beside):
    old = Report.load(beside / "b" / "run" / "report.json")
    shared = run(beside / "b" / "recipe.toml", beside / "b" / "run")
    alone = run(beside / "b" / "recipe.toml", beside / "alone")
    journal = Journal.from_jsonl((shared.folder / "journal.jsonl").read_text())
    (values,) = said(journal, ReportCode.FOLDER_OF_ANOTHER)
    assert values["recipe"] == str(beside / "a" / "recipe.toml")
    assert {layer.asked_precision for layer in old.layers} != {layer.asked_precision for layer in alone.report.layers}
    assert shared.report.layers == alone.report.layers
    assert shared.report.accuracy.outputs == alone.report.accuracy.outputs
    assert (shared.folder / "model.onnx").read_bytes() == (alone.folder / "model.onnx").read_bytes()


def test_where_its_own_recipe_is_gone_nothing_of_the_other_is_measured_in_silence(beside, capsys):
    """The recipe beside it may be its own, moved and edited since: then its files decide."""
    folder = beside / "b" / "run"
    shutil.rmtree(beside / "a")
    assert "the float model was changed since the run" in complain(beside, capsys, "accuracy", str(folder))
    onnx.save(model(), "b/model.onnx")
    capsys.readouterr()
    assert invoke(["accuracy", str(folder), "--json"]) in (0, 1)
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert warning.startswith("data.npz no longer holds the run's samples")
    assert invoke(["accuracy", str(folder)]) in (0, 1)
    assert f"Warning: {warning}" in " ".join(capsys.readouterr().out.split())
    assert invoke(["accuracy", str(folder), "--data", "b/data.npz", "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["warnings"] == []


def test_results_that_resume_are_not_another_recipes(beside, monkeypatch):
    """A run that is stopped in a folder of another recipe's goes on where it was, with its own results."""
    with monkeypatch.context() as patch:
        patch.setattr(EngineStep, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            run(beside / "b" / "recipe.toml", beside / "b" / "run")
    shared = run(beside / "b" / "recipe.toml", beside / "b" / "run")
    alone = run(beside / "b" / "recipe.toml", beside / "alone")
    assert shared.report.layers == alone.report.layers
    assert shared.report.accuracy.outputs == alone.report.accuracy.outputs
