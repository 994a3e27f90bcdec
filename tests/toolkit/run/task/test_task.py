"""The task of a run: guessed or named, judged by one rule, and said where the verdict is."""

from __future__ import annotations

import importlib.util
import json
from html import unescape
from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit import CalibrationData, Model, Recipe, run
from toolkit.base.errors import DataError, RecipeError
from toolkit.cli.main import invoke
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.numerics.boxes import detections
from toolkit.evaluation.tasks import OutputPart, reader
from toolkit.graph.sessions.session import session
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence
from toolkit.report.findings.outputs.tasks import few_details
from toolkit.report.findings.words import clause
from toolkit.report.page.html import render_html
from toolkit.report.terminal.report import to_text
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.task import task
from toolkit.run.task.task import look, task_of

RNG = np.random.default_rng(3)


def detector(folder):
    """Boxes in pixels drown scores from 0 to 1 where one range serves both: [n, 10, anchors]."""
    nodes = [
        node("Conv", ["x", "w"], ["f"]), node("Relu", ["f"], ["h"]),
        node("Conv", ["h", "wb"], ["b0"]), node("Relu", ["b0"], ["b"]), node("Conv", ["h", "ws"], ["s0"]),
        node("Sigmoid", ["s0"], ["s"]), node("Concat", ["b", "s"], ["c"], axis=1),
        # a layer after the Concat reads both by one range
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
        few = EvaluationCode.WITHIN_ON_FEW(**accuracy.few.model_dump(exclude_none=True))
        high = pytest.approx(accuracy.parts[0].high - accuracy.parts[0].low)
        assert accuracy.few.model_dump() == {
            "limit": "max_drop", "answers": samples, "samples": True, "share": 0.01, "enough": 300, "lost": 0.0,
            "low": 0.0, "high": high, "by": "count", "largest": None,
        }  # fmt: skip
        assert accuracy.doubts == [sentence(few)]
        assert made.report.summary.headline.lower().startswith(f"{accuracy.doubts[0]}; ")
        # once in the terminal and in few words; what lies after it is on the page
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
        assert "<title>Not proven" in render_html(made.report)


@pytest.mark.parametrize("found", [False, True])
def test_samples_in_which_a_mask_is_empty_prove_nothing(tmp_path, found):
    """Probabilities of 1e-7 everywhere, which no type keeps, are no mask that was lost; and none that was kept."""
    nodes = [
        node("Conv", ["x", "w"], ["f"], pads=[1, 1, 1, 1]), node("Relu", ["f"], ["h"]),
        node("Conv", ["h", "v", "b"], ["s"]), node("Sigmoid", ["s"], ["y"]),
    ]  # fmt: skip
    weights = {
        "w": normal(8, 3, 3, 3, seed=1, scale=0.3), "v": normal(1, 8, 1, 1, seed=2, scale=3 if found else 0.3),
        "b": np.float32([0 if found else -16]),
    }  # fmt: skip
    model = build(nodes, {"x": ["n", 3, 16, 16]}, {"y": ["n", 1, 16, 16]}, weights)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    np.savez(tmp_path / "data.npz", x=normal(40, 3, 16, 16, seed=5))
    profile = {"name": "all", "shapes": {"x": {"min": [1, 3, 16, 16], "opt": [4, 3, 16, 16], "max": [8, 3, 16, 16]}}}
    made = run(
        Recipe.build(
            "mask", model={"path": tmp_path / "model.onnx"}, profile=[profile],
            calibration={"data": str(tmp_path / "data.npz")}, passes=["insert_qdq"], engine={"backend": "none"},
            evaluation={"task": "segmentation", "budget": {"min_unchanged": 0.01}},
        ),
        tmp_path / "out",
    )  # fmt: skip
    accuracy = made.report.accuracy
    assert accuracy.shows_nothing is not found and accuracy.misses == []
    nothing = sentence(
        ReportCode.SAMPLES_HOLD_NOTHING(task="segmentation", outputs=("y",), samples=accuracy.samples, threshold=0.5)
    )
    # scores of a few pixels may be over it, in a mask too small to count
    assert "in any of 8 samples with the threshold 0.5, " in nothing and "set [evaluation] threshold" in nothing
    assert (nothing in accuracy.doubts) is not found
    assert made.report.summary.headline.startswith(f"NOT PROVEN: {nothing}; ") is not found
    assert accuracy.parts[0].unchanged == 1 or found


def test_labels_off_by_one_are_said_before_anything_is_quantized(tmp_path):
    found = []
    made = chosen(tmp_path, 96, shift=True, budget={"max_drop": 0.01})
    labels = np.load(tmp_path / "test.npz")["label"]
    np.savez(tmp_path / "test.npz", x=np.load(tmp_path / "test.npz")["x"][labels < 5], label=labels[labels < 5])
    result = run(made, tmp_path / "out", on_step=found.append)
    assert found[0].name == "task" and len(found[0].said) == 2
    record = json.loads((tmp_path / "out" / ".qtool" / "task.json").read_text())
    assert record["suspicion"]["code"] == "evaluation-labels-shifted" and record["suspicion"]["values"]["offset"] == 1
    accuracy, summary = result.report.accuracy, result.report.summary
    assert summary.verdict != "usable" and accuracy.float_wrong and accuracy.doubts[0] == clause(found[0].said[1])
    # the bad news first, as part of a sentence
    assert summary.headline.split("; ")[0].endswith(f": {accuracy.doubts[0]}") and accuracy.doubts[0][0].islower()


def test_a_task_that_no_output_fits_is_refused_by_its_line(tmp_path):
    made = chosen(tmp_path, 20, task="segmentation")
    with pytest.raises(RecipeError, match="no output can be read for the task segmentation"):
        task_of(Inputs(Job(made, RunFolder(tmp_path / "out"))))


def test_a_metric_without_a_budget_has_the_usual_one(tmp_path):
    accuracy = run(chosen(tmp_path, 400), tmp_path / "out").report.accuracy
    assert accuracy.budget == 0.01 and accuracy.met and accuracy.by_default and accuracy.standing == "met"


def drowned_branch(folder):
    """A branch whose values one range shares with much larger ones, added to a strong path: the output hardly feels it."""
    quiet = np.zeros((8, 8), np.float32)
    quiet[4:] = normal(4, 8, seed=4, scale=0.02)
    nodes = [
        node("MatMul", ["x", "wide"], ["h"]), node("MatMul", ["h", "quiet"], ["branch"]),
        node("MatMul", ["x", "strong"], ["main"]), node("Add", ["main", "branch"], ["y"]),
    ]  # fmt: skip
    # the first four columns are a thousand times the others, which alone the branch reads
    wide = normal(8, 8, seed=1) * np.array([200, 200, 200, 200, 0.1, 0.1, 0.1, 0.1], np.float32)
    weights = {"wide": wide, "quiet": quiet, "strong": normal(8, 8, seed=3)}
    model = build(nodes, {"x": ["n", 8]}, {"y": ["n", 8]}, weights)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    np.savez(folder / "data.npz", x=normal(400, 8, seed=5))
    return Recipe.build(
        "branch", model={"path": folder / "model.onnx"}, calibration={"data": str(folder / "data.npz"), "method": "minmax"},
        passes=["insert_qdq"], engine={"backend": "none"},
        evaluation={"data": str(folder / "data.npz"), "task": "regression", "budget": {"min_unchanged": 0.95}},
    )  # fmt: skip


def test_a_destroyed_layer_is_named_in_amber_although_the_whole_passes(tmp_path):
    report = run(drowned_branch(tmp_path), tmp_path / "out").report
    assert report.accuracy.standing == "met" and report.accuracy.outputs["y"].sqnr_db > 30
    (lost,) = [layer for layer in report.layers if layer.node == "branch"]
    assert lost.error.sqnr_db < 6
    said = sentence(ReportCode.LAYER_SIGNAL_LOST(nodes=["branch"], sqnr_db=lost.error.sqnr_db))
    assert report.summary.verdict == "doubtful" and report.accuracy.doubts == [said]
    assert report.summary.headline.startswith(f"Within its budget, but {said}; ")
    assert '<div class="banner missed"' in render_html(report)


def test_a_search_can_have_a_limit_on_unchanged_answers_of_its_own(tmp_path):
    recipe = drowned_branch(tmp_path)
    kept = []
    for least in (0.5, 1.0):
        passes = [{"use": "search_precision", "min_unchanged": least, "samples": 64}]
        made = Recipe.build(
            "own", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "data.npz")}, passes=passes,
            engine={"backend": "none"}, evaluation={"task": "regression", "budget": {"min_snr_db": 45.0}},
        )  # fmt: skip
        report = run(made, tmp_path / f"out{least}").report
        assert report.search.budget["min_unchanged"] == least
        kept.append(report.search.chosen.kept)
    assert kept[0] <= kept[1] and kept[1] > 0 and recipe.name == "branch"


def boxed(folder):
    """The detector with the float model's own detections as labels."""
    detector(folder)
    inputs = Inputs(Job(recipe(folder), RunFolder(folder / "out")))
    part = OutputPart.from_json(next(one for one in look(inputs).record.parts if one["task"] == "detection"))
    x = np.load(folder / "data.npz")["x"]
    (values,) = session(inputs.source()).run({"x": x}).values()
    found = detections(reader(part).samples({"y": values}), part.settings, 0.05)
    labels = np.full((len(x), max(len(one.boxes) for one in found), 5), -1.0, np.float32)
    for row, one in zip(labels, found):
        row[: len(one.boxes)] = np.concatenate([one.boxes, one.classes[:, None]], axis=1)
    np.savez(folder / "test.npz", x=x, label=labels)


def test_boxes_are_judged_by_mean_average_precision(tmp_path, capsys):
    boxed(tmp_path)
    given = [str(tmp_path / name) for name in ("model.onnx", "data.npz", "test.npz", "made.toml")]
    command = ["new", given[0], "--data", given[1], "--test", given[2], "--out", given[3], "--json"]
    assert invoke(command) == 0
    said = json.loads(capsys.readouterr().out)
    if importlib.util.find_spec("pycocotools") is None:
        (needs,) = [one["values"] for one in said["warnings"] if one["code"] == "new-metric-needs-extra"]
        assert needs == {"metric": "map", "extra": "detection"}
        return
    (value,) = [one["values"] for one in said["decisions"] if one["code"] == "new-float-value"]
    assert value["metric"] == "map" and value["value"] > 0.9
    assert invoke(["check", given[3]]) == 0
    made = recipe(tmp_path, data=given[2], metric="map50", budget={"max_drop": 0.01})
    accuracy = run(made, tmp_path / "out").report.accuracy
    assert accuracy.before > 0.9 > accuracy.quantized and accuracy.standing == "missed"


def tagged(folder, label, **evaluation):
    """A tagger of 5 positions and 4 classes, with one label a position."""
    model = build([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 5, 8]}, {"y": ["n", 5, 4]}, {"w": normal(8, 4)})
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    np.savez(folder / "data.npz", x=normal(len(label), 5, 8), label=label)
    return Recipe.build(
        "tags", model={"path": folder / "model.onnx"}, calibration={"data": str(folder / "data.npz")},
        passes=["insert_qdq"], engine={"backend": "none"},
        evaluation={"data": str(folder / "data.npz"), **evaluation},
    )  # fmt: skip


@pytest.mark.parametrize("metric", ["top1", "top5", "exact", "perplexity"])
@pytest.mark.parametrize("count", [6, 20])
def test_a_metric_of_samples_without_any_label_is_refused(metric, count, tmp_path):
    """No answer is lost where none is asked for: the limit was called kept, or the float model's check failed."""
    made = tagged(tmp_path, np.full((count, 5), -100), metric=metric, budget={"max_drop": 0.01})
    with pytest.raises(DataError, match=f"{metric} cannot judge the {count} evaluation samples: none of them has"):
        run(made, tmp_path / "out")


def test_the_first_label_may_follow_many_samples_without_one(tmp_path):
    label = np.full((80, 5), -100)
    label[70, 2] = 1
    made = run(tagged(tmp_path, label, metric="top1"), tmp_path / "out")
    assert made.report.accuracy.before in (0.0, 1.0) and made.report.accuracy.samples == 80


@pytest.mark.parametrize(("broken", "read", "kept"), [((), 90, 64), ((70, 71, 80), 71, 65)])
def test_labels_that_no_metric_reads_are_not_all_read(monkeypatch, broken, read, kept):
    """Of a large set the first ones tell what they are; one that is no number is enough."""
    given = []

    def samples():
        for number in range(200):
            given.append(number)
            yield {"x": normal(1, 4), "label": np.array([np.nan if number in broken else 1.0], np.float32)}

    model = Model.from_proto(build([node("Relu", ["x"], ["y"])], {"x": ["n", 4]}, {"y": ["n", 4]}))
    data = CalibrationData.open(samples, model, labels=True)
    assert len(data) == 200
    monkeypatch.setattr(task, "_LABELS", 90)
    monkeypatch.setattr("toolkit.run.task.labels.unused", lambda labels, samples, seen, answers: len(samples))
    inputs = SimpleNamespace(reference=lambda: model, evaluation_data=lambda model: (data, True))
    looked = SimpleNamespace(batches=iter(()), seen=SimpleNamespace(labels_of=list))
    given.clear()
    assert task._unused_labels(inputs, looked) == [kept]
    assert max(given) <= read
