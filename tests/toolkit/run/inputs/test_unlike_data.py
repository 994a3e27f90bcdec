"""Runs whose calibration data are not what they should be, and settings that cannot be meant as they are written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.conftest import MODELS, ROOT, build, digits_recipe, node, normal
from toolkit import Code, Recipe, run
from toolkit.base.errors import RecipeError
from toolkit.contract.journal import Journal
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.codes import EvaluationCode
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence


@pytest.fixture
def digits(tmp_path):
    """Runs the digits recipe on calibration images that a function has changed; gives the report."""

    def report(change):
        text = digits_recipe(tmp_path)
        arrays = dict(np.load(MODELS / "digits_calibration.npz"))
        np.savez(tmp_path / "digits_calibration.npz", **{**arrays, "image": change(arrays["image"])})
        (tmp_path / "digits.toml").write_text(text.replace('"auto"', '"none"'))
        return run(tmp_path / "digits.toml", tmp_path / "out").report

    return report


def about(report, words):
    return [warning for warning in report.summary.warnings if words in warning]


def test_images_prepared_otherwise_are_named_before_any_layer_is(digits):
    report = digits(lambda images: images / 3)
    (warning,) = about(report, "leaves the calibrated ranges")
    assert "'image' itself reaches 3 times what calibration saw" in warning
    part = report.accuracy.parts[0]
    changed = {"task": "classification", "outputs": part.outputs, "channels": None, "answers": part.answers}
    hurts = EvaluationCode.ANSWERS_CHANGED(**changed, changed=1 - part.unchanged)
    assert part.unchanged < 1 and f"; {sentence(hurts)}. To fix it" in warning
    clipped = [spot for spot in report.weak_spots if spot.causes[0].kind == "unlike-data"]
    assert clipped and all("rounding" not in {cause.kind for cause in spot.causes} for spot in clipped)
    assert all("in float" not in spot.causes[0].remedy for spot in clipped)
    assert report.summary.next[0].text.startswith(f"First {sentence(EvaluationCode.CALIBRATE_ALIKE())}")


def test_images_of_larger_values_are_named_from_the_other_side(digits):
    report = digits(lambda images: images * 255)
    (warning,) = about(report, "'image' uses a small part")
    assert "it reaches 1, the range is 25" in warning and not about(report, "leaves the calibrated ranges")


def test_good_data_raise_no_alarm(digits):
    report = digits(lambda images: images)
    words = ("calibrated range", "small part", "calibration sample", "was not evaluated", "between profiles")
    assert not [text for word in words for text in about(report, word)]
    assert not any(cause.kind == "unlike-data" for spot in report.weak_spots for cause in spot.causes)
    assert not report.summary.next or "calibrate with data like" not in report.summary.next[0].text


def test_images_that_are_all_zero_or_all_the_same_are_named(digits):
    (warning,) = about(digits(np.zeros_like), "throughout")
    assert warning == sentence(Code.UNVARIED_SAMPLES(inputs=["image"], samples=100, values=[0.0]))
    (warning,) = about(digits(lambda images: np.repeat(images[:1], len(images), 0)), "identical in all")
    assert warning == sentence(Code.UNVARIED_SAMPLES(inputs=["image"], samples=100, values=[None]))


PROFILES = """\
[model]
path = "model.onnx"

[[profile]]
name = "small"
shapes.x = { min = [1, 3, 4, 4], opt = [2, 3, 4, 4], max = [8, 3, 4, 4] }
[[profile]]
name = "large"
shapes.x = { min = [1, 3, 8, 8], opt = [2, 3, 8, 8], max = [8, 3, 8, 8] }

[calibration]
data = "data"
[[pass]]
use = "insert_qdq"
exclude = ["second"]
[engine]
backend = "none"
[evaluation]
data = "test.npz"
"""


def test_profiles_of_unlike_ranges_count_for_quantized_tensors_alone_and_an_unevaluated_one_is_told(tmp_path):
    # the input has unlike ranges in both profiles; of the tensors after the Clip, none has
    nodes = [node("Conv", ["x", "w"], ["c"], name="second"), node("Clip", ["c", "low", "high"], ["k"]),
             node("Conv", ["k", "v"], ["y"], name="third")]  # fmt: skip
    weights = {"w": normal(4, 3, 1, 1), "v": normal(2, 4, 1, 1), "low": np.float32(-0.1), "high": np.float32(0.1)}
    model = build(nodes, {"x": ["n", 3, "h", "h"]}, {"y": ["n", 2, "h", "h"]}, weights)
    onnx.save(model, str(tmp_path / "model.onnx"))
    (tmp_path / "data").mkdir()
    for number in range(9):
        np.savez(tmp_path / "data" / f"s{number}.npz", x=normal(1, 3, 4, 4, seed=number))
    np.savez(tmp_path / "data" / "large.npz", x=normal(1, 3, 8, 8, scale=9.0))
    np.savez(tmp_path / "test.npz", x=normal(20, 3, 4, 4, seed=99))
    (tmp_path / "r.toml").write_text(PROFILES)
    report = run(tmp_path / "r.toml", tmp_path / "out").report
    assert {info.tensor: info.quantized for info in report.ranges} == {"x": False, "k": True}
    (wide,) = [info for info in report.ranges if info.tensor == "x"]
    assert wide.per_profile["large"] > 4 * wide.per_profile["small"]
    assert not about(report, "between profiles") and not any("as wide in" in one.text for one in report.summary.next)
    noted = Journal.from_jsonl((tmp_path / "out" / "journal.jsonl").read_text())
    assert not [event for event in noted if event.rule == "unlike profiles"]
    assert sentence(EvaluationCode.PROFILE_NOT_EVALUATED(profile="large", samples=20)) in report.summary.warnings
    assert sentence(Code.FEW_SAMPLES(profile="large", samples=1)) in report.summary.warnings
    (tmp_path / "r.toml").write_text(PROFILES.replace('exclude = ["second"]\n', ""))
    report = run(tmp_path / "r.toml", tmp_path / "out").report
    assert sentence(ReportCode.RANGES_DIFFER_BY_PROFILE(count=1)) in report.summary.warnings


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("max_drop = 0.005", "max_drop = 2", 'budget = { max_drop = 2 }'),
        ("max_drop = 0.005", "min_value = 95", 'budget = { min_value = 95 }'),
        ('use = "insert_qdq"', 'use = "search_precision"\nmax_drop = 1.5', "max_drop = 1.5"),
    ],
)  # fmt: skip
def test_percentages_of_a_share_are_refused_with_the_line(old, new, line):
    text = (ROOT / "recipes" / "digits_int8.toml").read_text()
    assert old in text
    with pytest.raises(RecipeError, match="as a share") as error:
        Recipe.parse(text.replace(old, new))
    number = int(error.value.where.rpartition(":")[2])
    assert line in text.replace(old, new).splitlines()[number - 1]
    # whole shares are allowed, and nobody knows the range of other metrics
    Recipe.parse(text.replace("max_drop = 0.005", "max_drop = 1"))
    Recipe.parse(text.replace(old, new).replace('"top1"', '"mse"'))
    Recipe.parse(text.replace(old, new).replace('"top1"', '"mine:Mine"'))


def test_a_search_refuses_an_agreement_that_is_no_share():
    for wrong in (-1.0, 98.0):
        with pytest.raises(RecipeError, match="max_drop are shares"):
            Budget(min_agreement=wrong)
    assert Budget(min_agreement=0.0).min_agreement == 0.0
