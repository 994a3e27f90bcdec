"""The task of a run: guessed or named, judged by one rule, and said where the verdict is."""

from __future__ import annotations

import json
from html import unescape

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit import Recipe, run
from toolkit.base.errors import RecipeError
from toolkit.evaluation.codes import EvaluationCode
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence
from toolkit.report.findings.tasks import few_details
from toolkit.report.html import render_html
from toolkit.report.terminal import to_text
from toolkit.run.folder import RunFolder
from toolkit.run.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.task import task_of

RNG = np.random.default_rng(3)


def detector(folder):
    """Boxes in pixels drown scores from 0 to 1 where one range serves both: [n, 10, anchors]."""
    nodes = [
        node("Conv", ["x", "w"], ["f"]), node("Relu", ["f"], ["h"]),
        node("Conv", ["h", "wb"], ["b0"]), node("Relu", ["b0"], ["b"]), node("Conv", ["h", "ws"], ["s0"]),
        node("Sigmoid", ["s0"], ["s"]), node("Concat", ["b", "s"], ["c"], axis=1),
        # a layer behind the Concat reads both by one range
        node("Conv", ["c", "eye"], ["d"]), node("Reshape", ["d", "to"], ["y"]),
    ]  # fmt: skip
    weights = {
        "w": normal(16, 3, 1, 1, seed=1), "wb": np.abs(normal(4, 16, 1, 1, seed=2)) * 12,
        "ws": normal(6, 16, 1, 1, seed=3, scale=0.8) - 0.45, "eye": np.eye(10, dtype=np.float32)[..., None, None],
        "to": np.array([0, 10, -1], np.int64),
    }  # fmt: skip
    model = build(nodes, {"x": ["n", 3, 12, 12]}, {"y": ["n", 10, "a"]}, weights)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    np.savez(folder / "data.npz", x=normal(40, 3, 12, 12, seed=5))


def recipe(folder, **evaluation):
    profile = {"name": "all", "shapes": {"x": {"min": [1, 3, 12, 12], "opt": [4, 3, 12, 12], "max": [8, 3, 12, 12]}}}
    return Recipe.build(
        "task", model={"path": folder / "model.onnx"}, profile=[profile],
        calibration={"data": str(folder / "data.npz"), "method": "minmax"}, passes=["insert_qdq"],
        engine={"backend": "none"}, evaluation=evaluation,
    )  # fmt: skip


def test_scores_that_drown_in_boxes_are_not_usable_whatever_the_sqnr(tmp_path):
    detector(tmp_path)
    made = run(recipe(tmp_path, budget={"min_sqnr_db": 20}), tmp_path / "out")
    accuracy = made.report.accuracy
    assert accuracy.outputs["y"].sqnr_db > 20
    assert accuracy.task.name == "detection" and accuracy.standing == "missed" and made.exit_status == 1
    assert made.report.summary.verdict in ("missed", "broken") and accuracy.parts[0].unchanged < 0.5


def test_slices_of_unlike_scale_are_judged_one_by_one_and_named(tmp_path):
    detector(tmp_path)
    made = run(recipe(tmp_path, task="regression"), tmp_path / "out")
    parts = {tuple(part.channels): part for part in made.report.accuracy.parts}
    assert set(parts) == {(0, 3), (4, 9)} and parts[0, 3].standing == "unproven" and parts[4, 9].standing == "missed"
    assert made.report.accuracy.parts[0].channels == [4, 9]
    # the recipe demands nothing, so nothing that it demands was missed
    assert made.report.summary.verdict != "usable" and (
        made.exit_status == 0 or made.report.summary.verdict == "broken"
    )


def chosen(folder, samples, **evaluation):
    """A classifier whose classes lie far apart, with labels that it gets right."""
    weight = normal(8, 5, seed=7)
    model = build([node("MatMul", ["x", "w"], ["logits"])], {"x": ["n", 8]}, {"logits": ["n", 5]}, {"w": weight})
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    inputs = np.sign(normal(4 * samples, 8, seed=8)) + normal(4 * samples, 8, seed=9, scale=0.01)
    scores = inputs @ weight
    order = np.sort(scores, axis=1)
    inputs = inputs[order[:, -1] - order[:, -2] > 1.0][:samples]
    assert len(inputs) == samples
    labels = (inputs @ weight).argmax(axis=1)
    np.savez(folder / "data.npz", x=inputs)
    np.savez(folder / "test.npz", x=inputs + 0.001, label=labels if "shift" not in evaluation else labels + 1)
    evaluation.pop("shift", None)
    return Recipe.build(
        "classes", model={"path": folder / "model.onnx"}, calibration={"data": str(folder / "data.npz")},
        passes=["insert_qdq"], engine={"backend": "none"},
        evaluation={"data": str(folder / "test.npz"), "metric": "top1", **evaluation},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("samples", "verdict", "standing"),
    [(20, "doubtful", "unproven"), (96, "doubtful", "unproven"), (2000, "usable", "met")],
)
def test_few_samples_are_said_in_the_first_line(samples, verdict, standing, tmp_path):
    made = run(chosen(tmp_path, samples, budget={"max_drop": 0.01}), tmp_path / "out")
    accuracy = made.report.accuracy
    assert (made.report.summary.verdict, accuracy.standing, made.exit_status) == (verdict, standing, 0)
    assert bool(accuracy.doubts) == (verdict == "doubtful")
    if accuracy.doubts:
        few = EvaluationCode.WITHIN_ON_FEW(**accuracy.few.model_dump())
        high = pytest.approx(accuracy.parts[0].high - accuracy.parts[0].low)
        assert accuracy.few.model_dump() == {
            "limit": "max_drop", "answers": samples, "samples": True, "share": 0.01, "enough": 300, "lost": 0.0,
            "low": 0.0, "high": high,
        }  # fmt: skip
        assert accuracy.doubts == [sentence(few)]
        assert made.report.summary.headline.lower().startswith(f"{accuracy.doubts[0]}; ")
        # once in the terminal and in few words; what lies behind it is on the page
        shown = " ".join(to_text(made.report).split())
        assert shown.lower().count(accuracy.doubts[0]) == 1 and len(accuracy.doubts[0]) < 100
        assert (
            few_details(accuracy.few) in unescape(render_html(made.report)) and few_details(accuracy.few) not in shown
        )


def test_one_sample_or_samples_that_are_all_alike_prove_nothing_whatever_the_limit(tmp_path):
    for samples, budget in (
        (1, {"max_drop": 0.01}),
        (1, {"min_sqnr_db": 10}),
        (40, {"max_drop": 0.01}),
        (40, {"min_sqnr_db": 10}),
    ):
        recipe = chosen(tmp_path, 40, budget=budget)
        stored = dict(np.load(tmp_path / "test.npz"))
        np.savez(tmp_path / "test.npz", **{name: value[[0] * samples] for name, value in stored.items()})
        made = run(recipe, tmp_path / "out")
        assert made.report.accuracy.shows_nothing and made.report.summary.verdict == "doubtful"
        nothing = sentence(ReportCode.SAMPLES_SHOW_NOTHING(samples=samples))
        assert made.report.accuracy.doubts[0] == nothing
        assert made.report.summary.headline.startswith(f"NOT PROVEN: {nothing}; ")


def test_labels_off_by_one_are_said_before_anything_is_quantized(tmp_path):
    found = []
    made = chosen(tmp_path, 96, shift=True, budget={"max_drop": 0.01})
    labels = np.load(tmp_path / "test.npz")["label"]
    np.savez(tmp_path / "test.npz", x=np.load(tmp_path / "test.npz")["x"][labels < 5], label=labels[labels < 5])
    result = run(made, tmp_path / "out", on_step=found.append)
    assert found[0].name == "task" and len(found[0].said) == 2
    record = json.loads((tmp_path / "out" / ".qtool" / "task.json").read_text())
    assert record["suspicion"]["code"] == "evaluation-labels-shifted" and record["suspicion"]["values"]["offset"] == 1
    assert result.report.summary.verdict != "usable" and found[0].said[1] in result.report.accuracy.doubts


def test_a_task_that_no_output_fits_is_refused_by_its_line(tmp_path):
    made = chosen(tmp_path, 20, task="segmentation")
    with pytest.raises(RecipeError, match="no output can be read for the task segmentation"):
        task_of(Inputs(Job(made, RunFolder(tmp_path / "out"))))


def test_a_metric_without_a_budget_has_the_usual_one(tmp_path):
    accuracy = run(chosen(tmp_path, 400), tmp_path / "out").report.accuracy
    assert accuracy.budget == 0.01 and accuracy.met and accuracy.by_default and accuracy.standing == "met"
