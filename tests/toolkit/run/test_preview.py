"""``qtool run --dry-run``: what a run says beforehand is what it does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.conftest import normal
from toolkit.cli.main import invoke
from toolkit.run.pipeline import run
from toolkit.run.preview import preview
from toolkit.run.recipe.recipe import Recipe


def tree(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def fates(found):
    return {step.step: step.fate for step in found.steps}


def test_before_a_first_run_everything_is_anew_and_nothing_is_written(place):
    found = preview(Recipe.load(place / "recipe.toml"), place / "out")
    assert set(fates(found).values()) == {"anew"} and not (place / "out").exists()


@pytest.fixture
def ran(place):
    """The folder of a run, and its recipe."""
    run(place / "recipe.toml", place / "out")
    return place


@pytest.mark.parametrize(
    ("settings", "anew", "depends"),
    [
        ([], set(), set()),
        (["report.formats=['json']"], {"report"}, set()),
        (["calibration.method=entropy"], {"passes", "report"}, {"lowering", "engine", "evaluation"}),
        (["engine.optimization_level=2"], {"lowering", "engine", "report"}, {"evaluation"}),
        (["evaluation.batch=3"], {"task", "evaluation", "report"}, set()),
    ],
)
def test_what_is_foreseen_is_what_happens(ran, settings, anew, depends):
    recipe, before = Recipe.load(ran / "recipe.toml", settings), tree(ran / "out")
    found = preview(recipe, ran / "out")
    assert {name for name, fate in fates(found).items() if fate == "anew"} == anew
    assert {name for name, fate in fates(found).items() if fate == "depends"} == depends
    assert tree(ran / "out") == before
    done = {step.name for step in run(recipe, ran / "out").steps if step.status == "done"}
    assert anew <= done <= anew | depends


def test_statistics_that_calibration_finds_again_are_named(ran):
    found = preview(Recipe.load(ran / "recipe.toml", ["calibration.method=entropy"]), ran / "out")
    (passes,) = [step for step in found.steps if step.step == "passes"]
    kept = next((ran / "out" / ".qtool").glob("collection-*.npz")).name
    assert passes.parts and kept in passes.parts[0] and passes.why == "changed: calibration method"
    np.savez(ran / "data.npz", x=normal(12, 3, 4, 4, seed=5))
    (passes,) = [s for s in preview(Recipe.load(ran / "recipe.toml"), ran / "out").steps if s.step == "passes"]
    assert not passes.parts and "calibration data" in passes.why


def test_the_command_says_it(ran, capsys):
    words = ["run", str(ran / "recipe.toml"), "--out", str(ran / "out"), "--dry-run"]
    assert invoke([*words, "--json", "--set", "engine.rest=fp32"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {step["step"]: step["fate"] for step in found["steps"]}["lowering"] == "anew"
    assert invoke(words) == 0 and "from the cache" in capsys.readouterr().out
    assert invoke([*words, "--set", "calibration.data=none.npz"]) == 2


def test_a_step_that_the_recipe_drops_is_named(ran):
    steps = json.loads((ran / "out" / ".qtool" / "steps.json").read_text())
    (ran / "out" / ".qtool" / "steps.json").write_text(json.dumps({**steps, "open": {"key": "", "files": {}}}))
    assert fates(preview(Recipe.load(ran / "recipe.toml"), ran / "out"))["open"] == "dropped"
