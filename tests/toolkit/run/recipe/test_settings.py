"""Settings given beside a recipe's file, by --set."""

from __future__ import annotations

import json

import pytest

from tests.toolkit.conftest import GOOD, complain
from toolkit import RecipeError
from toolkit.cli.main import invoke
from toolkit.contract.journal import Journal
from toolkit.report.codes import ReportCode
from toolkit.report.schema.report import Report
from toolkit.run.pipeline import run
from toolkit.run.recipe.recipe import Recipe


def with_settings(*settings):
    return Recipe.parse(GOOD, None, settings)


@pytest.mark.parametrize(
    ("setting", "place", "value"),
    [
        ("engine.rest=fp32", ("engine", "rest"), "fp32"),
        ('engine.compare=["fp16", "fp32"]', ("engine", "compare"), ["fp16", "fp32"]),
        ("engine.avg_timing_iterations = 8", ("engine", "avg_timing_iterations"), 8),
        ("engine.open=true", ("engine", "open"), True),
        # a number where text is wanted is that text
        ("calibration.data=2024", ("calibration", "data"), "2024"),
        ("calibration.random.seed=3", ("calibration", "random", "seed"), 3),
        ('calibration.manual."a.b"=2.5', ("calibration", "manual", "a.b"), 2.5),
        ("evaluation.budget.max_drop=1e-2", ("evaluation", "budget", "max_drop"), 0.01),
        ("pass.insert_qdq.exclude_ops=['Gemm']", ("pass", 0, "exclude_ops"), ["Gemm"]),
        ("pass.0.dtype=fp8", ("pass", 0, "dtype"), "fp8"),
        ("profile.all.shapes.x.opt=[4, 3, 4, 4]", ("profile", 0, "shapes", "x", "opt"), [4, 3, 4, 4]),
    ],
)
def test_a_setting_is_typed_by_the_recipes_schema(setting, place, value):
    if place[1] == "random":
        recipe = Recipe.parse(GOOD.replace('data = "data.npz"', ""), None, [setting])
    else:
        recipe = with_settings(setting)
    (given,) = recipe.settings
    assert (given.place, given.value) == (place, value)
    found = recipe.model_dump(by_alias=True)
    for part in place:
        found = found[part]
    assert found == value


@pytest.mark.parametrize(
    ("setting", "what", "remedy"),
    [
        ("engine.rset=fp32", "'rset'", "'rest'"),
        ("engine.rest=fp61", "'fp61'", "precision"),
        ("calibration.samples=many", "'many'", "samples"),
        ("engine.compare=fp16", "'fp16'", "'[\"fp16\"]'"),
        ("pass.insert_qdq.exclud=x", "'exclud'", "'exclude'"),
        ("pass.insert_qdd.exclude=x", "'insert_qdd'", "'insert_qdq'"),
        ("pass.insert_qdq=x", "no single setting", "section.key=value"),
        ("profile.al.name=x", "'al'", "'all'"),
        ("engin.rest=x", "'engin'", "'engine'"),
        ("engine=3", "not a setting", "section.key=value"),
        ("engine.rest", "not a setting", "section.key=value"),
        ("calibration.data.x=3", "'x'", "section.key=value"),
    ],
)
def test_a_fault_names_key_value_and_remedy(setting, what, remedy):
    with pytest.raises(RecipeError) as caught:
        with_settings(setting)
    assert caught.value.where == f"--set {setting}"
    assert what in caught.value.what and remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("setting", "what"),
    [("profile.all.shapes.x.opt=[9, 3, 4, 4]", "opt 9"), ("calibration.weights.none=2.0", "'none'")],
)
def test_what_the_whole_recipe_refuses_is_laid_on_the_setting(setting, what):
    with pytest.raises(RecipeError) as caught:
        with_settings(setting)
    assert caught.value.where == f"--set {setting.partition('=')[0]}" and what in caught.value.what


@pytest.mark.parametrize(
    ("text", "setting", "what"),
    [
        ("[[calibration]]\nmethod = 'mse'\n", "calibration.method=mse", "'calibration' is not a table"),
        ("pass = ['x', {use = 'insert_qdq'}, 1]\n", "pass.2.dtype=fp8", "'pass.2' is not a table"),
    ],
)
def test_what_is_no_table_takes_no_setting(text, setting, what):
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(text, None, [setting])
    assert what in caught.value.what and setting in str(caught.value.where)


def test_a_byte_order_mark_is_read_over(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(GOOD, encoding="utf-8-sig")
    assert Recipe.load(path).model_dump() == Recipe.parse(GOOD).model_dump()


def test_two_passes_of_one_name_are_told_apart_by_number():
    twice = GOOD.replace("[engine]", '[[pass]]\nuse = "insert_qdq"\n\n[engine]')
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(twice, None, ["pass.insert_qdq.dtype=fp8"])
    assert "pass.0.key=value" in caught.value.remedy
    assert Recipe.parse(twice, None, ["pass.1.dtype=fp8"]).passes[1]["dtype"] == "fp8"


def test_a_run_knows_its_settings_and_does_again_what_they_change(place):
    recipe, out = place / "recipe.toml", place / "out"
    assert invoke(["run", str(recipe), "--out", str(out)]) == 0
    given = ["calibration.method=entropy", "engine.rest=fp32"]
    result = run(Recipe.load(recipe, given), out)
    assert result.report.recipe.given == {"calibration.method": "entropy", "engine.rest": "fp32"}
    assert {step.name: step.status for step in result.steps}["passes"] == "done"
    noted = [event.why for event in Journal.from_jsonl((out / "journal.jsonl").read_text()).of("noted")]
    assert ReportCode.SETTING_GIVEN(key="calibration.method", value='"entropy"', before=None) in noted
    assert "--set" in (out / "report.html").read_text() and "entropy" in (out / "recipe.lock.toml").read_text()
    again = run(Recipe.load(recipe, given), out)
    assert {step.status for step in again.steps} == {"reused"}
    # the same content by another way is the same content; the report says which way it was
    written = recipe.read_text().replace("[engine]", '[engine]\nrest = "fp32"')
    recipe.write_text(written)
    third = run(Recipe.load(recipe, given[:1]), out)
    assert [step.name for step in third.steps if step.status == "done"] == ["report"]


def test_backend_is_a_setting(place, capsys):
    words = ["run", str(place / "recipe.toml"), "--out", str(place / "out"), "--backend"]
    assert invoke([*words, "none"]) == 0
    assert Report.load(place / "out" / "report.json").recipe.given == {"engine.backend": "none"}
    capsys.readouterr()
    assert invoke([*words, "tensort", "--json"]) == 2
    printed = capsys.readouterr()
    error = json.loads(printed.out)["error"]
    assert error["where"] == "--set engine.backend=tensort" and "'tensort'" in error["what"]


@pytest.mark.parametrize(
    ("setting", "where", "what"),
    [
        ("calibration.manual.z=1.0", "--set calibration.manual.z", "'z'"),
        ('calibration.methods."/z/*"=mse', '--set calibration.methods."/z/*"', "'/z/*'"),
        ('pass.insert_qdq.exclude=["d"]', "--set pass.insert_qdq.exclude", "'d' matches no node"),
    ],
)
def test_a_wrong_name_in_a_setting_is_laid_to_the_command_line(place, capsys, setting, where, what):
    recipe = place / "recipe.toml"
    said = complain(place, capsys, "run", str(recipe), "--out", str(place / "out"), "--set", setting)
    assert said.startswith(f"qtool: {where}: ") and what in said and "recipe.toml" not in said
