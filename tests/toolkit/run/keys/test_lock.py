"""A run can be repeated from what it left: its lock file is a recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.conftest import MODELS
from toolkit import Recipe, run
from toolkit.base.errors import RecipeError
from toolkit.cli.main import invoke

RECIPE = """
[model]
path = "net.onnx"

[calibration]
data = "c.npz"
method = "minmax"
samples = 32

[[pass]]
use = "fold_batchnorm"

[[pass]]
use = "insert_qdq"
exclude = ["/head/*"]

[engine]
backend = "none"

[evaluation]
data = "t.npz"
metric = "top1"
samples = 64
budget = { max_drop = 0.05 }
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    place = tmp_path_factory.mktemp("lock")
    for name, file in {
        "digits_cnn.onnx": "net.onnx",
        "digits_calibration.npz": "c.npz",
        "digits_test.npz": "t.npz",
    }.items():
        shutil.copy(MODELS / name, place / file)
    (place / "mine.toml").write_text(RECIPE)
    run(Recipe.load(place / "mine.toml"), out=place / "run")
    return place


def left(folder):
    return [(folder / name).read_bytes() for name in ("model.onnx", "ranges.json", "recipe.lock.toml")]


def test_a_lock_file_runs_again_from_anywhere_and_gives_the_same(ran, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke(["run", str(ran / "run" / "recipe.lock.toml"), "--out", "again"]) == 0
    assert left(Path("again")) == left(ran / "run")
    # and so does the lock file of that run
    recipe = Recipe.load("again/recipe.lock.toml")
    assert recipe.is_resolved and recipe.name == "mine" and recipe.folder == ran
    assert invoke(["check", "again/recipe.lock.toml"]) == 0


def test_a_lock_file_takes_settings_like_its_recipe(ran):
    lock = ran / "run" / "recipe.lock.toml"
    assert Recipe.load(lock, ["calibration.method=mse"]).calibration.method == "mse"
    assert Recipe.load(lock).calibration.method == "minmax"
    with pytest.raises(RecipeError, match="Did you mean 'method'"):
        Recipe.load(lock, ["calibration.methd=mse"])


def test_a_lock_file_by_itself_starts_in_the_working_folder(ran, tmp_path, monkeypatch):
    alone = shutil.copy(ran / "run" / "recipe.lock.toml", tmp_path / "alone.lock.toml")
    monkeypatch.chdir(ran)
    run(Recipe.load(alone), out=tmp_path / "again")
    assert left(tmp_path / "again") == left(ran / "run")


def test_files_that_are_not_those_of_the_run_are_named(ran, tmp_path, monkeypatch, capsys):
    place = shutil.copytree(ran, tmp_path / "moved")
    lock = shutil.copy(place / "run" / "recipe.lock.toml", place / "alone.lock.toml")
    stored = dict(np.load(place / "c.npz"))
    np.savez(place / "c.npz", **{name: values[::-1] for name, values in stored.items()})
    rest = (
        "from the run whose lock file this is, so the result may differ too. To repeat the run, give it the files that it "
        "read."
    )
    fewer = ["--set", "evaluation.samples=32"]

    def warnings():
        assert invoke(["check", str(lock), *fewer, "--json"]) == 0
        return [line for line in json.loads(capsys.readouterr().out)["warnings"] if "lock file" in line]

    monkeypatch.chdir(place)
    assert warnings() == [f"[calibration] data differs {rest}"]
    shutil.copy(MODELS / "digits_calibration.npz", "c.npz")
    assert warnings() == []
    shutil.copy("t.npz", "c.npz")
    net = onnx.load("net.onnx")
    net.doc_string = "another"
    onnx.save(net, "net.onnx")
    result = run(Recipe.load(lock), out="again")
    assert [line for line in result.report.summary.warnings if "lock file" in line] == [
        f"The model and [calibration] data differ {rest}"
    ]


def test_a_lock_file_that_was_moved_with_its_recipe_reads_the_files_beside_that(ran, tmp_path, monkeypatch):
    place = shutil.copytree(ran, tmp_path / "moved")
    shutil.copy(MODELS / "digits_uneven.onnx", place / "net.onnx")
    recipe = Recipe.load(place / "run" / "recipe.lock.toml")
    assert recipe.folder == place and recipe.name == "mine"
    (warning,) = (
        line for line in run(recipe, out=tmp_path / "again").report.summary.warnings if "whose lock file" in line
    )
    assert warning.startswith("The model differs from the run")
    # a run folder that was moved alone still reads what its run did
    alone = shutil.copytree(ran / "run", tmp_path / "deep" / "er" / "run")
    assert Recipe.load(alone / "recipe.lock.toml").folder == ran


def test_what_is_wrong_in_a_lock_file_is_named_there(ran, tmp_path, capsys):
    place = shutil.copytree(ran, tmp_path / "edited")
    lock = place / "run" / "recipe.lock.toml"
    text = lock.read_text()
    for good, bad in (('"minmax"', '"minmx"'), ('"/head/*"', '"/haed/*"'), ("batch = 8", "bach = 8")):
        lock.write_text(text.replace(good, bad, 1))
        line = next(number for number, one in enumerate(lock.read_text().splitlines(), 1) if bad in one)
        assert invoke(["check", str(lock)]) == 2
        assert f"{lock}:{line}: " in capsys.readouterr().err


OWN_PASS = """
from toolkit import Pass

class Mine(Pass):
    def apply(self, model, context):
        context.journal.noted("here")
"""


def test_own_code_that_was_changed_since_is_named(ran, tmp_path, capsys):
    place = shutil.copytree(ran, tmp_path / "coded", ignore=shutil.ignore_patterns("run"))
    (place / "coded_pass.py").write_text(OWN_PASS)
    (place / "mine.toml").write_text(RECIPE.replace('use = "fold_batchnorm"', 'use = "coded_pass:Mine"'))
    assert invoke(["run", str(place / "mine.toml"), "--allow-code", "--out", str(place / "run")]) == 0

    def warnings():
        capsys.readouterr()
        assert invoke(["check", str(place / "run" / "recipe.lock.toml"), "--allow-code", "--json"]) == 0
        return [line for line in json.loads(capsys.readouterr().out)["warnings"] if "lock file" in line]

    assert warnings() == []
    (place / "coded_pass.py").write_text(OWN_PASS.replace("here", "there"))
    (warning,) = warnings()
    assert warning.startswith("The code of its passes or metric differs from the run whose lock file this is")


def test_what_is_no_recipe_is_none_by_that_name(tmp_path):
    (tmp_path / "a.lock.toml").write_text("[model")
    with pytest.raises(RecipeError, match="not TOML"):
        Recipe.load(tmp_path / "a.lock.toml")
    (tmp_path / "a.lock.toml").write_text('[modle]\npath = "m.onnx"\n')
    with pytest.raises(RecipeError, match="unknown key 'modle'"):
        Recipe.load(tmp_path / "a.lock.toml")
