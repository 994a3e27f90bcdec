"""Calibration and evaluation samples that were not prepared alike, found before anything is quantized."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import MODELS, digits_recipe
from toolkit import Recipe, run
from toolkit.data.codes import DataCode
from toolkit.data.dataset import CalibrationData
from toolkit.data.unlike import prepared_unlike
from toolkit.graph.model import Model
from toolkit.report.findings import sentence
from toolkit.run.checks.dry_run import dry_run
from toolkit.run.new.new_recipe import recipe_for

RANDOM = np.random.default_rng(3)
IMAGES = RANDOM.uniform(0.2, 1.0, (16, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def digits():
    return Model.load(MODELS / "digits_cnn.onnx")


def found(model, calibration, evaluation, used=("image",)):
    data = [
        CalibrationData.open([{"image": one[None]} for one in images], model) for images in (calibration, evaluation)
    ]
    return prepared_unlike(*data, used)


def test_values_of_another_scale_are_named_with_what_is_typical(digits):
    (said,) = found(digits, IMAGES * 255, IMAGES)
    assert said.code == DataCode.PREPARED_UNLIKE and said.values["input"] == "image"
    levels = np.sqrt(np.mean(np.square(IMAGES.reshape(16, -1).astype(np.float64)), 1))
    assert said.values["calibration"] == pytest.approx(255 * np.median(levels), rel=1e-6)
    assert said.values["evaluation"] == pytest.approx(np.median(levels), rel=1e-6)
    assert found(digits, IMAGES, IMAGES * 255)[0].code == DataCode.PREPARED_UNLIKE


@pytest.mark.parametrize("normalized", [0, 1])
def test_values_that_only_one_side_centres_are_named(digits, normalized):
    sides = [IMAGES, (IMAGES - 0.6) / 0.25]
    (said,) = found(digits, sides[1 - normalized], sides[normalized])
    assert said.code == DataCode.NORMALIZED_UNLIKE
    assert said.values == {"input": "image", "signed": "evaluation" if normalized else "calibration"}


def test_samples_that_vary_from_one_to_the_next_are_alike(digits):
    levels = np.geomspace(0.01, 100, 16).astype(np.float32)[:, None, None, None]
    assert found(digits, IMAGES * levels, IMAGES) == []
    signed = IMAGES * np.where(RANDOM.uniform(size=IMAGES.shape) < 0.05, -1, 1)
    assert found(digits, signed.astype(np.float32), IMAGES) == []


def test_few_samples_silent_ones_and_inputs_that_are_not_used_say_nothing(digits):
    assert found(digits, IMAGES[:3] * 255, IMAGES) == []
    assert found(digits, IMAGES * 0, IMAGES) == []
    assert found(digits, IMAGES * 255, IMAGES, used=()) == []


def test_new_check_and_run_say_so_before_anything_is_quantized(tmp_path):
    recipe = tmp_path / "digits.toml"
    recipe.write_text(digits_recipe(tmp_path).replace('"auto"', '"none"'))
    assert not [text for text in dry_run(Recipe.load(recipe)).warnings if "prepared alike" in text]
    arrays = dict(np.load(MODELS / "digits_calibration.npz"))
    np.savez(tmp_path / "digits_calibration.npz", **{**arrays, "image": arrays["image"].astype(np.float32) * 255})
    (said,) = (text for text in dry_run(Recipe.load(recipe)).warnings if "prepared alike" in text)
    assert "root mean square" in said and "input 'image'" in said
    samples = tmp_path / "digits_calibration.npz", MODELS / "digits_test.npz"
    made = recipe_for(MODELS / "digits_cnn.onnx", tmp_path / "new.toml", *samples, None)
    assert said in map(sentence, made.warnings)
    result = run(recipe, tmp_path / "out")
    assert said in next(step.said for step in result.steps if step.name == "task")
