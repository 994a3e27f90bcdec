"""What a search holds on samples that have no labels for the recipe's metric."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from toolkit import Model, Recipe, run
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outcome import compare, summed
from toolkit.evaluation.tasks import OutputPart
from toolkit.graph.sessions.session import session
from toolkit.report.findings import sentence
from toolkit.report.findings.quantization.search import search_line, standing
from toolkit.run.checks.dry_run import dry_run
from toolkit.run.new.new_recipe import recipe_for
from toolkit.run.recipe.sections import BudgetSection
from toolkit.search.budget.budget import Judged, budget_for, needs_no_labels, unlabelled, without_labels

NONE = {"max_drop": None, "min_sqnr_db": None, "min_agreement": None, "min_unchanged": None}


def predicting(folder, metric, limits, rows=64):
    """A regression whose calibration samples have no labels; its residuals are no smaller than INT8's errors."""
    proto = build(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["y"])],
        {"x": ["N", 12]}, {"y": ["N", 4]}, {"w": normal(12, 32, seed=1), "v": normal(32, 4, seed=2)},
    )  # fmt: skip
    onnx.save(proto, str(folder / "model.onnx"))
    x, test = normal(rows, 12, seed=3), normal(200, 12, seed=4)
    values = session(Model.load(folder / "model.onnx")).run({"x": test})["y"]
    np.savez(folder / "data.npz", x=x)
    np.savez(folder / "test.npz", x=test, label=values + normal(*values.shape, seed=5, scale=2.0))
    return Recipe.build(
        "predicting", model={"path": folder / "model.onnx"}, calibration={"data": str(folder / "data.npz")},
        passes=["search_precision"], engine={"backend": "none"},
        evaluation={"data": str(folder / "test.npz"), "metric": metric, "budget": limits},
    )  # fmt: skip


def noted(folder):
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [line["values"] for line in lines if line.get("rule") == Code.SEARCH_WITHOUT_LABELS.value]


@pytest.mark.parametrize("metric", ["mse", "mae"])
def test_a_drop_of_a_distance_is_held_by_the_float_models_outputs(metric, tmp_path):
    recipe = predicting(tmp_path, metric, {"max_drop": 5.0, "max_relative_drop": 0.9})
    search = run(recipe, tmp_path / "out").report.search
    assert (search.metric, search.float_metric, search.higher_is_better) == (metric, 0.0, False)
    # the other limit is a share of what labels alone tell
    assert {name: value for name, value in search.budget.items() if name.startswith("max")} == {"max_drop": 5.0}
    x = np.load(tmp_path / "data.npz")["x"]
    power = np.square(session(Model.load(tmp_path / "model.onnx")).run({"x": x})["y"]).mean()
    (plan,) = [one for one in search.plans if one.chosen]
    assert plan.kept == 0 and plan.samples == len(x)
    noise = plan.noise * power
    if metric == "mse":
        assert plan.metric == pytest.approx(noise, rel=1e-3)
    else:
        assert 0.5 * noise**0.5 < plan.metric < noise**0.5
    assert noted(tmp_path / "out") == [
        {"data": str(tmp_path / "data.npz"), "metric": metric, "how": "float", "limits": ["max_drop"], "values": [5.0]}
    ]


def test_no_more_is_quantized_than_the_drop_of_a_distance_allows(tmp_path):
    search = run(predicting(tmp_path, "mse", {"max_drop": 1e-9}), tmp_path / "out").report.search
    assert search.chosen.quantized_share == 0.0
    assert all(one.lacks["max_drop"] > 0 for one in search.plans if one.kept == 0)


def test_where_the_tasks_own_limit_stands_for_a_metric_it_is_said_beside_what_it_costs(tmp_path):
    recipe = predicting(tmp_path, "psnr", {"max_drop": 0.1})
    recipe.evaluation.budget.min_snr_db = 90.0
    report = run(recipe, tmp_path / "out").report
    assert report.search.metric is None and report.search.chosen.quantized_share == 0.0
    (values,) = noted(tmp_path / "out")
    assert (values["metric"], values["how"], values["limits"]) == ("psnr", "task", [])
    assert any("has no labels, so the search cannot measure psnr" in line for line in report.summary.bound)


def test_a_search_without_labels_says_what_it_met_and_what_would_let_it_measure(tmp_path):
    recipe = predicting(tmp_path, "psnr", {"max_drop": 0.1})
    recipe.evaluation.budget.min_snr_db = 48.0
    report = run(recipe, tmp_path / "out").report
    # the line of the search claims no budget that was not measured, and what to try says what would let it
    assert report.search.unlabelled == "psnr" and "a substitute for psnr: add labels" in report.summary.next[0].text
    assert standing(report.search) == "meets the substitute for a limit on psnr without labels"
    kept = [one for one in report.declined if one.rule == "kept"]
    assert kept and all("misses the accuracy budget (min_unchanged by " in one.reason for one in kept)


@pytest.mark.parametrize(
    ("metric", "stands"), [("psnr", "unchanged answers count"), ("mse", "the float model's outputs stand")]
)
def test_check_says_that_labels_in_the_calibration_data_would_let_the_search_measure(tmp_path, metric, stands):
    recipe = predicting(tmp_path, metric, {"max_drop": 0.1})
    (said,) = [note for note in dry_run(recipe).notes if "With labels under 'label'" in note]
    assert f"a search cannot measure {metric} on it: {stands}" in said
    x = normal(64, 12, seed=3)
    np.savez(tmp_path / "data.npz", x=x, label=session(Model.load(tmp_path / "model.onnx")).run({"x": x})["y"])
    assert not [note for note in dry_run(recipe).notes if "With labels" in note]


def test_new_says_that_the_calibration_data_lacks_labels_for_the_search(tmp_path):
    predicting(tmp_path, "mse", {"max_drop": 0.1})
    paths = [tmp_path / name for name in ("model.onnx", "r.toml", "data.npz", "test.npz")]
    told = unlabelled("data.npz", "psnr", by_float=False)
    assert told in recipe_for(*paths, "psnr").said
    assert told not in recipe_for(*paths[:2], paths[3], paths[3], "psnr").said


def test_an_output_that_the_metric_does_not_read_may_lose_what_the_verdict_lets_pass():
    answers = Answers([OutputPart("classification", (name,), {"axis": -1}) for name in ("read", "other")])
    judged = Judged(("read", "other"), ("read", "other"), (), None, None, True, answers, "top1", "read")
    budget = budget_for(judged, NONE, BudgetSection(max_drop=0.01), Journal())
    scores = normal(400, 10, seed=1)

    def lacks(read, other):
        found = {name: scores.copy() for name in ("read", "other")}
        found["read"][:read] *= -1
        found["other"][:other] *= -1
        parts = [compare({"read": scores, "other": scores}, found, (), answers)]
        return replace(budget, margin=0.0).lacks(summed(parts, answers=answers), summed(parts, answers=answers))

    assert not lacks(0, 12) and not lacks(0, 20)
    assert lacks(0, 40)["min_unchanged"] == pytest.approx(0.05, abs=0.01)
    assert lacks(12, 0)["min_unchanged"] == pytest.approx(0.02, abs=0.01)
    said = sentence(without_labels(judged, budget, "data.npz"))
    assert "(min_unchanged = 0.99 of 'read', which it reads, and 0.95 of other outputs)" in said
    both = budget_for(judged, NONE, BudgetSection(max_drop=0.01, min_sqnr_db=20), Journal())
    said = sentence(without_labels(judged, both, "data.npz"))
    assert "and 0.95 of other outputs and min_sqnr_db = 20)" in said
    # a limit that is looser itself holds for all outputs
    loose = budget_for(judged, NONE, BudgetSection(max_drop=0.1), Journal())
    said = sentence(without_labels(judged, loose, "data.npz"))
    assert "(min_unchanged = 0.9)" in said


def test_a_search_without_labels_counts_positions_where_the_metric_does(tmp_path):
    proto = build(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["y"])],
        {"x": ["N", 32, 12]}, {"y": ["N", 32, 6]}, {"w": normal(12, 32, seed=1), "v": normal(32, 6, seed=2)},
    )  # fmt: skip
    onnx.save(proto, str(tmp_path / "model.onnx"))
    float_model = session(Model.load(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(60, 32, 12, seed=3))
    test = normal(60, 32, 12, seed=4)
    np.savez(tmp_path / "test.npz", x=test, label=float_model.run({"x": test})["y"].argmax(-1))
    recipe = Recipe.build(
        "tagger", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "data.npz")},
        passes=["search_precision"], engine={"backend": "none"},
        evaluation={"data": str(tmp_path / "test.npz"), "metric": "top1", "budget": {"max_drop": 0.03}},
    )  # fmt: skip
    report = run(recipe, tmp_path / "out").report
    # two of a hundred positions change: nearly every other sequence of 32 does
    assert report.search.unlabelled == "top1" and report.search.chosen.kept == 0
    assert report.accuracy.parts[0].unchanged < 0.8 and 0.96 < report.accuracy.quantized < 1


def test_labels_that_are_rare_and_come_last_do_not_stop_a_search_by_the_area_under_the_curve(tmp_path):
    proto = build([node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["y"])],
                  {"x": ["N", 12]}, {"y": ["N", 1]}, {"w": normal(12, 32, seed=1), "v": normal(32, 1, seed=2)})  # fmt: skip
    onnx.save(proto, str(tmp_path / "model.onnx"))
    x = normal(256, 12, seed=3)
    scores = session(Model.load(tmp_path / "model.onnx")).run({"x": x})["y"][:, 0]
    x = x[np.argsort(scores)]
    np.savez(tmp_path / "data.npz", x=x, label=np.arange(256) >= 250)
    recipe = Recipe.build(
        "rare", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "data.npz")},
        passes=[{"use": "search_precision", "helpers": ["equalize"]}], engine={"backend": "none"},
        evaluation={"data": str(tmp_path / "data.npz"), "metric": "auc", "budget": {"max_drop": 0.05}},
    )  # fmt: skip
    report = run(recipe, tmp_path / "out").report
    assert (report.search.metric, report.search.float_metric, report.accuracy.before) == ("auc", 1.0, 1.0)
    assert report.search.chosen.kept == 0 and report.accuracy.quantized > 0.95


def judged(named, **more):
    return Judged(["y"], [], [], named=named, **more)


@pytest.mark.parametrize(
    ("metric", "own", "drop", "told"),
    [
        ("mse", NONE, 0.1, True), ("mae", NONE, 0.1, True), ("mse", NONE, None, False), ("psnr", NONE, 0.1, False),
        ("top1", NONE, 0.1, False), (None, NONE, 0.1, False), ("mse", {**NONE, "min_sqnr_db": 20.0}, 0.1, False),
        ("mse", {**NONE, "max_drop": 0.2}, None, True),
    ],
)  # fmt: skip
def test_which_drop_is_told_without_labels(metric, own, drop, told):
    assert needs_no_labels(metric, own, BudgetSection(max_drop=drop)) is told


def test_what_is_held_in_place_of_a_metric_is_said_as_it_is():
    section, journal = BudgetSection(max_drop=0.1, min_value=0.5), Journal()
    distance = judged("mse", metric="mse", against_float=True)
    found = budget_for(distance, NONE, section, journal)
    assert (found.max_drop, found.min_value, found.by_task, found.higher_is_better) == (0.1, None, False, False)
    said = sentence(without_labels(distance, found, "data.npz"))
    assert "max_drop = 0.1 to mse with the float model's outputs in place of labels" in said
    given = judged("psnr")
    found = budget_for(given, {**NONE, "min_sqnr_db": 30.0}, section, journal)
    assert sentence(without_labels(given, found, "data.npz")) == (
        "data.npz has no labels, so the search cannot measure psnr: it applies min_sqnr_db = 30 in its place."
    )


@pytest.mark.parametrize("whole", [True, False])
def test_the_line_of_a_search_has_decibels_only_where_an_output_holds_floats(tmp_path, whole):
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["z"])]
    last = [node("ArgMax", ["z"], ["y"], axis=1, keepdims=0)] if whole else [node("Identity", ["z"], ["y"])]
    proto = build([*nodes, *last], {"x": ["N", 12]}, {"y": ["N"] if whole else ["N", 4]},
                  {"w": normal(12, 32, seed=1), "v": normal(32, 4, seed=2)}, types={"y": 7} if whole else None)  # fmt: skip
    onnx.save(proto, str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(64, 12, seed=3))
    recipe = Recipe.build(
        "whole", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "data.npz")},
        passes=[{"use": "search_precision", "min_agreement": 0.5}], engine={"backend": "none"},
    )  # fmt: skip
    report = run(recipe, tmp_path / "out").report
    assert report.search.chosen.kept == 0 and (" dB SQNR" in search_line(report.search)) is not whole
