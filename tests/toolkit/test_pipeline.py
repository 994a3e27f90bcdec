"""A run as a whole: what it leaves, what it finds again, what it notices."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tests.conftest import MODELS, ROOT
from toolkit import Model, Recipe, run
from toolkit.errors import QtoolError
from toolkit.steps import RunFolder


@pytest.fixture
def place(tmp_path):
    for name in ("digits_cnn.onnx", "digits_calibration.npz", "digits_test.npz"):
        shutil.copy(MODELS / name, tmp_path / name)
    text = (ROOT / "recipes" / "digits_int8.toml").read_text().replace("../models/", "").replace('"auto"', '"none"')
    (tmp_path / "digits.toml").write_text(text)
    return tmp_path


def statuses(result):
    return {step.name: step.status for step in result.steps}


def test_a_run_leaves_every_file_and_every_node_once(place):
    result = run(place / "digits.toml", place / "out")
    assert result.exit_status == 0
    content = json.loads((place / "out" / "report.json").read_text())
    names = Model.load(place / "out" / "model.onnx").node_names()
    listed = [layer["node"] for layer in content["layers"]]
    assert sorted(listed) == sorted(names) and len(set(listed)) == len(listed)
    assert sum(content["summary"]["by_status"].values()) == len(names)
    assert sum(content["summary"]["by_asked"].values()) == len(names)
    assert all(entry["rule"] for entry in content["declined"])
    for name in ("recipe.lock.toml", "ranges.json", "journal.jsonl", "report.html", "model.onnx"):
        assert (place / "out" / name).stat().st_size > 100
    model = Model.load(place / "out" / "model.onnx")
    assert model.metadata["/stem/conv/Conv"]["qtool.precision"] == "int8"
    assert content["accuracy"]["drop"] <= 0.005


def test_nothing_changed_is_found_again_and_the_method_alone_collects_nothing_anew(place):
    run(place / "digits.toml", place / "out")
    again = run(place / "digits.toml", place / "out")
    assert set(statuses(again).values()) == {"reused"}
    collections = sorted(p.name for p in (place / "out" / ".qtool").glob("collection-*"))
    text = (place / "digits.toml").read_text().replace('"entropy"', '"minmax"')
    (place / "digits.toml").write_text(text)
    changed = run(place / "digits.toml", place / "out")
    assert statuses(changed)["passes"] == "done"
    assert "calibration method" in next(s.why for s in changed.steps if s.name == "passes")
    assert sorted(p.name for p in (place / "out" / ".qtool").glob("collection-*")) == collections
    assert json.loads((place / "out" / "ranges.json").read_text())["tensors"]["image"]["method"] == "minmax"


def test_data_changed_under_the_same_name_is_noticed(place):
    run(place / "digits.toml", place / "out")
    data = dict(np.load(place / "digits_calibration.npz"))
    data["image"] = data["image"] * 2
    np.savez(place / "digits_calibration.npz", **data)
    changed = run(place / "digits.toml", place / "out")
    assert "calibration data" in next(s.why for s in changed.steps if s.name == "passes")


def test_a_result_that_was_tampered_with_is_made_again(place):
    run(place / "digits.toml", place / "out")
    path = place / "out" / "model.onnx"
    before = path.read_bytes()
    path.write_bytes(before[:-10])
    again = run(place / "digits.toml", place / "out")
    assert path.read_bytes() == before
    assert "model.onnx was changed" in next(s.why for s in again.steps if s.name == "lowering")


def test_two_runs_at_once_in_one_folder_are_refused(place):
    with RunFolder(place / "out"), pytest.raises(QtoolError, match="another qtool"):
        run(place / "digits.toml", place / "out")


def test_a_killed_run_leaves_only_whole_files(place, monkeypatch):
    from toolkit.pipeline import Pipeline

    def stop(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "_build", stop)
        with pytest.raises(KeyboardInterrupt):
            run(place / "digits.toml", place / "out")
    again = run(place / "digits.toml", place / "out")
    assert statuses(again)["passes"] == statuses(again)["lowering"] == "reused"
    assert statuses(again)["engine"] == "done"


def test_a_missed_budget_is_exit_status_1_with_all_files_there(place):
    text = (place / "digits.toml").read_text().replace("max_drop = 0.005", "min_value = 1.0")
    (place / "digits.toml").write_text(text)
    result = run(place / "digits.toml", place / "out")
    assert result.exit_status == 1
    assert result.report.summary.headline.startswith("MISSED")
    assert (place / "out" / "report.html").exists()


def test_without_test_data_outputs_are_compared_on_held_out_samples(place):
    text = (place / "digits.toml").read_text()
    (place / "digits.toml").write_text(text[: text.index("[evaluation]")])
    result = run(place / "digits.toml", place / "out")
    accuracy = result.report.accuracy
    assert accuracy.metric is None and accuracy.held_out and accuracy.samples == 20
    assert accuracy.outputs["logits"].sqnr_db > 15 and accuracy.outputs["logits"].agreement > 0.9


def test_garbage_is_called_broken_in_the_first_line(place):
    text = (place / "digits.toml").read_text().replace('method = "entropy"', "manual = { image = 0.001 }")
    text = text[: text.index("[evaluation]")]
    (place / "digits.toml").write_text(text)
    result = run(place / "digits.toml", place / "out")
    assert result.report.summary.headline.startswith("BROKEN")
    assert result.exit_status == 1


def test_random_data_is_said(place):
    text = (
        (place / "digits.toml")
        .read_text()
        .replace('data = "digits_calibration.npz"', "random = { seed = 3, samples = 16 }")
    )
    (place / "digits.toml").write_text(text)
    result = run(place / "digits.toml", place / "out")
    assert any("RANDOM DATA" in warning for warning in result.report.summary.warnings)


def test_the_api_takes_a_recipe_object(place):
    recipe = Recipe.load(place / "digits.toml")
    assert run(recipe, place / "out").report.recipe.name == "digits"
