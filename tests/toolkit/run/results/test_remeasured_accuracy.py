"""``qtool accuracy``: a run's model over samples again; on the engine see test_device.py."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.conftest import normal
from toolkit.cli.main import invoke
from toolkit.run.keys.lock import read_lock
from toolkit.run.pipeline import run
from toolkit.run.recipe.recipe import Recipe
from toolkit.run.recipe.sections import BudgetSection, EvaluationSection
from toolkit.run.results.finished_run import FinishedRun
from toolkit.run.results.remeasured_accuracy import judge_by


@pytest.fixture
def ran(place):
    """The folder of a run."""
    run(place / "recipe.toml", place / "out")
    return place / "out"


def measured(capsys, *words, status=0):
    assert invoke(["accuracy", *map(str, words), "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_the_same_samples_give_the_runs_own_figures(ran, capsys):
    before = {path: path.stat().st_mtime_ns for path in ran.rglob("*")}
    own, found = FinishedRun.of(ran).report, measured(capsys, ran)
    assert found["verdict"] == own.summary.verdict and found["device"] is None
    assert found["accuracy"]["outputs"] == own.accuracy.model_dump(mode="json")["outputs"]
    assert {path: path.stat().st_mtime_ns for path in ran.rglob("*")} == before
    assert invoke(["accuracy", str(ran)]) == 0 and "The engine was not run" in capsys.readouterr().out


def test_other_samples_and_fewer(ran, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "other.npz", x=normal(9, 3, 4, 4, seed=3))
    found = measured(capsys, ran, "--data", "other.npz")
    assert found["accuracy"]["samples"] == 9 and found["accuracy"]["held_out"]
    assert measured(capsys, ran, "--data", "other.npz", "--samples", 4)["accuracy"]["samples"] == 4
    # the recipe's own calibration data are samples that calibration saw
    assert not measured(capsys, ran, "--data", ran.parent / "data.npz")["accuracy"]["held_out"]


def test_settings_of_the_run_that_nothing_reads_any_more_are_no_fault_of_who_asks(ran, capsys):
    """As of locks that earlier releases wrote, and of samples by which the outputs are judged as something else."""
    lock = ran / "recipe.lock.toml"
    text = lock.read_text()
    for table, line in (("[evaluation]", "threshold = 0.3"), ("[evaluation.budget]", "min_cosine = 0.9")):
        assert f"{table}\n" in text
        text = text.replace(f"{table}\n", f"{table}\n{line}\n")
    lock.write_text(text)
    np.savez(ran.parent / "other.npz", x=normal(9, 3, 4, 4, seed=3))
    assert measured(capsys, ran, "--data", ran.parent / "other.npz")["accuracy"]["samples"] == 9


def test_faults_name_their_remedy(ran, capsys):
    assert invoke(["accuracy", str(ran), "--data", "none.npz"]) == 2
    said = capsys.readouterr().err
    assert "none.npz" in said and "--data" in said and "recipe" not in said
    assert invoke(["accuracy", str(ran), "--on", "enginee"]) == 2 and "'engine'" in capsys.readouterr().err
    assert invoke(["accuracy", str(ran), "--on", "engine"]) == 3
    said = capsys.readouterr().err
    assert "built no engine (requested: " in said and "--backend auto" in said and "--on onnxruntime" in said
    (ran / "model.onnx").write_bytes(b"")
    assert invoke(["accuracy", str(ran)]) == 2 and "model.onnx was changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric", "top11"], "--metric: no metric is called 'top11'. Did you mean 'top1'"),
        (["--metric", "own:Metric"], "--metric: the metric 'own:Metric' is code. Run again with --allow-code"),
        (["--metric", "own:Metric", "--allow-code"], "--metric: the module 'own' of the metric 'own:Metric' cannot be"),
        (["--data", "own:data"], "--data: the data 'own:data' is code. Run again with --allow-code"),
        (["--data", "own:data", "--allow-code"], "--data: the module 'own' of the data 'own:data' cannot be imported"),
    ],
)
def test_what_an_option_gives_is_named_by_the_option(ran, capsys, words, message):
    assert invoke(["accuracy", str(ran), *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said and "recipe.toml" not in said


@pytest.mark.parametrize(("metric", "threshold"), [("miou", 0.3), ("m:Own", 0.3), ("top1", None)])
def test_another_metric_keeps_what_is_said_of_its_task(metric, threshold):
    evaluation = EvaluationSection(metric="miou", threshold=0.3, budget=BudgetSection(max_drop=0.1))
    recipe = Recipe.build("made", model={"path": "model.onnx"}, evaluation=evaluation)
    judge_by(recipe, metric, "segmentation")
    section = recipe.evaluation
    assert (section.metric, section.threshold, section.budget) == (metric, threshold, BudgetSection())


def test_a_float_model_that_is_another_by_now_is_refused(ran, capsys):
    model = ran.parent / "model.onnx"
    model.write_bytes(model.read_bytes() + b"\x72\x00")
    assert invoke(["accuracy", str(ran)]) == 2
    assert "changed since the run" in capsys.readouterr().err


def test_a_lock_file_is_the_recipe_as_it_ran(ran):
    recipe, lock = read_lock(ran / "recipe.lock.toml", ran.parent / "recipe.toml")
    own = FinishedRun.of(ran).recipe
    assert recipe.as_key() == own.as_key() and own.folder == ran.parent
    assert lock.backend == "none" and len(lock.fingerprints["model"]) == 64


def test_what_is_exported_is_not_held_against_another_float_model(ran, capsys):
    assert invoke(["export", str(ran), "--to", "onnxruntime", "--out", str(ran.parent / "first")]) == 0
    model = ran.parent / "model.onnx"
    model.write_bytes(model.read_bytes() + b"\x72\x00")
    capsys.readouterr()
    assert invoke(["export", str(ran), "--to", "onnxruntime", "--out", str(ran.parent / "second")]) == 2
    assert "the float model was changed since the run" in capsys.readouterr().err
