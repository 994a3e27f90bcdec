"""The metric and the limit of a new recipe: what the labels fit, in keeping with the float model's own value."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.conftest import build, node, normal
from tests.toolkit.conftest import complain
from tests.toolkit.evaluation.guessing.test_guess import CASES, out, seen, softmax
from toolkit import Model, run
from toolkit.base.errors import RecipeError
from toolkit.cli.main import invoke
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.guessing.parts import one_sided_among, parts_for
from toolkit.evaluation.labels.label_fit import FittingMetric, fitting_metrics, out_of_range_label
from toolkit.evaluation.observation.observed import SeenOutput
from toolkit.graph.sessions.session import session
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.new.metric import new_evaluation
from toolkit.run.new.new_recipe import recipe_for
from toolkit.run.recipe.recipe import Recipe
from toolkit.run.task.labels import unfit
from toolkit.run.task.task import task_of

CLASSES, COUNT = 5, 40
NO_ENGINE = ("--set", "engine.backend=none")
"""For checks of metrics: a backend's parser, which test_new_runs asks, takes a process each time."""
UNLABELLED = """
[model]
path = "model.onnx"
[calibration]
data = "data.npz"
[[pass]]
use = "insert_qdq"
[engine]
backend = "none"
[evaluation]
data = "test.npz"
"""


@pytest.fixture
def place(tmp_path):
    """A classifier whose second output is a signal, and samples of it."""
    proto = build(
        [node("MatMul", ["x", "w"], ["scores"]), node("MatMul", ["x", "v"], ["signal"])],
        {"x": ["N", 6]}, {"scores": ["N", CLASSES], "signal": ["N", 3]},
        {"w": normal(6, CLASSES), "v": normal(6, 3, seed=1)},
    )  # fmt: skip
    onnx.save(proto, str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(COUNT, 6, seed=2))
    return tmp_path


def answers(place, count=COUNT):
    x = normal(count, 6, seed=3)
    return x, session(Model.load(place / "model.onnx")).run({"x": x})


def save_test_data(place, x, label):
    np.savez(place / "test.npz", x=x, label=label)


def made(place, *words):
    out = place / "made.toml"
    given = words if words else ["--data", place / "data.npz", "--test", place / "test.npz"]
    assert invoke(["new", str(place / "model.onnx"), "--out", str(out), "--force", *map(str, given)]) == 0
    assert invoke(["check", str(out), *NO_ENGINE]) == 0
    return Recipe.load(out).evaluation


def test_classes_are_judged_by_top1(place, capsys):
    x, found = answers(place)
    save_test_data(place, x, found["scores"].argmax(axis=1))
    section = made(place)
    assert (section.metric, section.output, section.budget.max_drop) == ("top1", None, 0.03)
    assert "own top1 is 1 on 40 samples" in (place / "made.toml").read_text()


def test_a_limit_is_a_hundredth_of_the_float_models_own_share(place, capsys):
    x, found = answers(place, 400)
    label = found["scores"].argmax(axis=1)
    label[:32] = (label[:32] + 1) % CLASSES
    save_test_data(place, x, label)
    assert made(place).budget.max_drop == 0.005


def test_labels_in_another_order_are_called_that(place, capsys):
    x, found = answers(place)
    order = np.array([3, 0, 4, 1, 2])
    for turned, code in ((lambda c: (c + 1) % CLASSES, "shifted"), (lambda c: order[c], "renamed")):
        save_test_data(place, x, turned(found["scores"].argmax(axis=1)))
        assert made(place).budget.max_drop == 0.01
        decided, warned = told(place, capsys)
        said = warned[f"evaluation-labels-{code}"]
        assert said["share"] == 1.0 and "new-float-value" not in decided
        assert code == "renamed" or (said["offset"], said["modulo"]) == (1, CLASSES)
        # what new says of the float model check says too
        assert invoke(["check", str(place / "made.toml"), "--json", *NO_ENGINE]) == 0
        warnings = json.loads(capsys.readouterr().out)["warnings"]
        assert [one for one in warnings if "float model's own top1" in one]


@pytest.mark.parametrize(
    ("change", "sample", "value", "remedy"),
    [
        (lambda c: c + 1, None, 5, "from 1 to 5. Subtract 1"),
        (lambda c: np.where(np.arange(COUNT) == 7, 9, c), 7, 9, "from 0 to 9. Number the classes from 0"),
        (lambda c: np.where(np.arange(COUNT) == 7, 5, c), 7, 5, "from 0 to 5. Number the classes from 0"),
    ],
)
def test_labels_out_of_range_are_an_error_of_new_and_a_warning_where_no_metric_reads_them(
    place, capsys, change, sample, value, remedy
):
    x, found = answers(place)
    label = change(found["scores"].argmax(axis=1))
    save_test_data(place, x, label)
    sample = sample if sample is not None else int(np.flatnonzero(label == CLASSES)[0])
    given = ["--data", str(place / "data.npz"), "--test", str(place / "test.npz"), "--out", str(place / "made.toml")]
    said = complain(place, capsys, "new", str(place / "model.onnx"), *given)
    assert "test.npz" in said and f"{sample}: the label {value} is not a class" in said and remedy in said
    assert not (place / "made.toml").exists()
    (place / "made.toml").write_text(UNLABELLED)
    assert invoke(["check", str(place / "made.toml"), *NO_ENGINE]) == 0
    assert f"label {value} of" in capsys.readouterr().out
    report = run(place / "made.toml", place / "out").report
    assert report.accuracy.metric is None and [one for one in report.summary.warnings if f"label {value} of" in one]


def test_a_label_out_of_range_after_the_first_samples_is_named_by_its_sample(place, capsys):
    x, found = answers(place, 100)
    label = found["scores"].argmax(axis=1)
    label[80] = 7
    save_test_data(place, x, label)
    (place / "made.toml").write_text(UNLABELLED + 'metric = "top1"\n')
    said = complain(place, capsys, "run", str(place / "made.toml"), "--out", str(place / "out"))
    assert "test.npz, sample 80: " in said and "5 classes" in said


def test_labels_that_no_metric_reads_are_said_to_be_there(place, capsys):
    x, found = answers(place)
    save_test_data(place, x, found["scores"].argmax(axis=1))
    (place / "made.toml").write_text(UNLABELLED)
    report = run(place / "made.toml", place / "out").report
    assert sentence(EvaluationCode.LABELS_UNUSED(metric="top1", output="scores")) in report.summary.warnings


def test_labels_of_the_shape_of_an_output_are_judged_by_the_squared_error(place, capsys):
    x, found = answers(place)
    noise = normal(COUNT, 3, seed=9, scale=0.5)
    save_test_data(place, x, found["signal"] + noise)
    section = made(place)
    own = float((noise.astype(np.float64) ** 2).mean())
    assert (section.metric, section.output) == ("mse", "signal")
    assert 0.05 * own <= section.budget.max_drop <= 0.1 * own
    save_test_data(place, x, found["signal"])
    spread = float(found["signal"].var())
    assert 0.001 * spread <= made(place).budget.max_drop <= 0.002 * spread


@pytest.mark.parametrize(("samples", "known"), [(10, False), (40, True)])
def test_no_limit_is_written_that_few_labels_tell_only_roughly(place, capsys, samples, known):
    """How the labels vary is known from 10 of them to within a factor of 3, from 40 of 1.6."""
    x, found = answers(place)
    save_test_data(place, x[:samples], found["signal"][:samples])
    section = made(place)
    assert (section.metric, section.budget.max_drop is not None) == ("mse", known)
    text = (place / "made.toml").read_text()
    said = (
        "No limit is written: it follows from how the labels vary, which 10 of them tell only to within a factor of 3.0"
    )
    assert (said in text) is not known


@pytest.mark.parametrize("label", [normal(COUNT, 7), np.full(COUNT, 9), np.full((COUNT, 2), 2)])
def test_labels_that_fit_no_output_have_no_metric(place, capsys, label):
    save_test_data(place, answers(place)[0], label)
    section = made(place)
    assert (section.metric, section.budget.min_unchanged) == (None, 0.99)
    assert "No built-in metric fits the labels" in (place / "made.toml").read_text()


def test_without_labels_there_is_no_metric(place, capsys):
    np.savez(place / "test.npz", x=normal(COUNT, 6))
    section = made(place)
    assert (section.metric, section.budget.max_drop, section.budget.min_unchanged) == (None, None, 0.99)


def test_labels_of_the_calibration_data_count_where_there_is_no_other(place, capsys):
    x, found = answers(place)
    np.savez(place / "data.npz", x=x, label=found["scores"].argmax(axis=1))
    section = made(place, "--data", place / "data.npz")
    # one of eight samples that are held back
    assert (section.data, section.metric, section.budget.max_drop) == (None, "top1", 0.2)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("tpo1", ["--metric: no metric is called 'tpo1'", "Did you mean 'top1'"]),
        ("nonsense", ["--metric: no metric is called 'nonsense'", "'mse'"]),
        ("mse", ["--metric mse does not fit the labels", "labels have shape [1], the output [1, 5]"]),
    ],
)
def test_a_wrong_metric_is_refused_before_anything_is_written(place, capsys, metric, words):
    save_test_data(place, answers(place)[0], np.arange(COUNT) % CLASSES)
    said = complain(
        place, capsys, "new", str(place / "model.onnx"), "--test", str(place / "test.npz"), "--metric", metric,
        "--out", str(place / "made.toml"),
    )  # fmt: skip
    for word in words:
        assert word in said, said
    assert not (place / "made.toml").exists()


@pytest.mark.parametrize("first", ["labelled", "unlabelled"])
@pytest.mark.parametrize("option", ["--data", "--test"])
def test_a_folder_of_which_a_part_is_labelled_is_said_to_be_so(place, capsys, monkeypatch, first, option):
    """Nothing was said where the first file had no labels, and where it had some, new ended on the second."""
    x, found = answers(place)
    folder = place / "samples"
    folder.mkdir()
    labelled, bare = ("a.npz", "b.npz") if first == "labelled" else ("b.npz", "a.npz")
    np.savez(folder / labelled, x=x, label=found["scores"].argmax(axis=1))
    np.savez(folder / bare, x=normal(COUNT, 6))
    for source in (folder, "."):
        monkeypatch.chdir(folder)
        section = made(place, *(() if option == "--data" else ("--data", place / "data.npz")), option, source)
        printed = capsys.readouterr()
        said = printed.out + printed.err
        assert (section.metric, section.budget.min_unchanged) == (None, 0.99)
        # check says it too, of the samples to measure on: all, or those held out
        assert f"Only {COUNT} of {2 * COUNT} samples have labels" in said
        assert said.count("samples have labels, as") == 2
        assert f"{labelled}, sample 0, and others none" in said and "--test" in said
        assert f"# Only {COUNT} of {2 * COUNT} samples have labels" in (place / "made.toml").read_text()
    asked = ("new", str(place / "model.onnx"), option, str(folder), "--metric", "top1")
    assert f"needs labels of all samples, and {folder / bare}, sample 0 has none" in complain(place, capsys, *asked)


def test_a_folder_whose_files_are_all_labelled_has_a_metric(place, capsys, monkeypatch):
    x, found = answers(place)
    folder = place / "samples"
    folder.mkdir()
    for name in ("a.npz", "b.npz"):
        np.savez(folder / name, x=x, label=found["scores"].argmax(axis=1))
    monkeypatch.chdir(folder)
    for source in (folder, "."):
        assert made(place, "--data", source).metric == "top1"


@pytest.mark.parametrize("data", ["--data", "--test"])
def test_a_metric_without_labels_is_refused(place, capsys, data):
    said = complain(place, capsys, "new", str(place / "model.onnx"), data, str(place / "data.npz"), "--metric", "top1")
    assert "data.npz: --metric top1 needs labels, and there are none" in said


@pytest.mark.parametrize(("metric", "value"), [("top5", 1.0), ("exact", 1.0)])
def test_a_metric_that_is_asked_for_looks_at_the_output_that_fits(place, capsys, metric, value):
    x, found = answers(place)
    save_test_data(place, x, found["scores"].argmax(axis=1))
    section = made(place, "--data", place / "data.npz", "--test", place / "test.npz", "--metric", metric)
    assert (section.metric, section.output) == (metric, None)


def told(place, capsys, *words):
    """What `new --json` says: decisions and warnings by code."""
    capsys.readouterr()
    given = ["--data", place / "data.npz", "--test", place / "test.npz", *words]
    command = ["new", str(place / "model.onnx"), "--out", str(place / "made.toml"), "--force", "--json"]
    assert invoke([*command, *map(str, given)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["recipe"] == str(place / "made.toml")
    return tuple({one["code"]: one["values"] for one in said[key]} for key in ("decisions", "warnings"))


def test_labels_that_fit_nothing_are_said_with_a_remedy(place, capsys):
    save_test_data(place, answers(place)[0], normal(COUNT, 7))
    decided, warned = told(place, capsys)
    assert warned["evaluation-labels-fit-nothing"]["shape"] == [7]
    assert warned["evaluation-labels-fit-nothing"]["outputs"] == ["scores", "signal"]
    assert decided["new-limit"] == {"limit": "min_unchanged", "value": 0.99}
    made(place)
    said = capsys.readouterr().out
    assert "Warning: The labels fit no built-in metric" in said and "qtool metrics" in said


def test_labels_fit_a_metric_that_was_asked_for_only_where_they_were_looked_at(place, capsys):
    x, found = answers(place)
    save_test_data(place, x, found["scores"].argmax(axis=1))
    decided, _ = told(place, capsys, "--metric", "top5")
    assert decided["new-metric"] == {"metric": "top5", "output": None} and "new-metric-asked" not in decided
    decided, _ = told(place, capsys, "--metric", "own:Metric")
    assert decided["new-metric-asked"] == {"metric": "own:Metric"} and "new-metric" not in decided
    for metric in ("top1", "own:Metric"):
        command = ["new", str(place / "model.onnx"), "--out", str(place / "made.toml"), "--force", "--metric", metric]
        assert invoke(command) == 0
        said = capsys.readouterr().out
        assert f"The metric is {metric}, as --metric says." in said and "labels fit" not in said
        assert f'metric = "{metric}"' in (place / "made.toml").read_text()


def test_what_was_decided_is_said_with_its_values(place, capsys):
    x, found = answers(place)
    save_test_data(place, x, found["scores"].argmax(axis=1))
    decided, warned = told(place, capsys)
    assert decided["new-metric"] == {"metric": "top1", "output": None} and not warned
    assert decided["new-float-value"] == {"metric": "top1", "value": 1.0, "samples": COUNT}
    assert decided["new-limit"] == {"limit": "max_drop", "value": 0.03}
    assert decided["evaluation-task-guessed"]["task"] == "classification"
    assert decided["new-passes"]["passes"][0] == "fold_constants" and decided["new-method"] == {"method": "mse"}


def test_without_samples_no_limit_is_written_that_nothing_can_be_held_against(place, capsys):
    out = place / "made.toml"
    assert invoke(["new", str(place / "model.onnx"), "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    codes = {one["code"] for one in said["decisions"]}
    assert "new-without-samples" in codes and "new-limit" not in codes
    # no file is named that is not there
    assert Recipe.load(out).calibration.data is None
    assert [one["code"] for one in said["warnings"]] == ["new-without-data"]
    budget = Recipe.load(out).evaluation.budget
    assert all(limit is None for _, limit in budget)


def reader(place, declared, order):
    """A text reader of six positions and five classes, whose output has its axes in this order of N, T and C."""
    perm = ["NTC".index(axis) for axis in order]
    nodes = [
        node("Reshape", ["x", "flat"], ["r"]), node("MatMul", ["r", "w"], ["p"]),
        node("Transpose", ["p"], ["y"], perm=perm),
    ]  # fmt: skip
    # five kinds of position, the first of which is the blank, told apart with certainty
    weights = {"flat": np.array([-1, 6, 5], np.int64), "w": 9 * np.eye(5, dtype=np.float32)}
    proto = build(nodes, {"x": ["n", 1, 6, 5]}, {"y": None}, weights)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, declared))
    (place / "model.onnx").write_bytes(proto.SerializeToString())
    lines = np.random.default_rng(4).integers(1, 5, (COUNT, 6))
    lines[:, ::2] = 0
    np.savez(place / "data.npz", x=np.eye(5, dtype=np.float32)[lines][:, None])
    save_test_data(
        place, np.eye(5, dtype=np.float32)[lines][:, None], np.pad(lines[:, 1::2], ((0, 0), (0, 1)), constant_values=-1)
    )


@pytest.mark.parametrize(
    ("order", "declared", "contradicted"),
    [
        ("NTC", ["n", 6, 5], False), ("TNC", [6, "n", 5], False), ("NCT", ["n", 5, "t"], False),
        ("TNC", [1, "seqlen"], True), ("TNC", ["a", "b", 7], True), ("NTC", None, False),
    ],
)  # fmt: skip
def test_readings_are_found_whatever_the_order_of_axes_and_what_is_declared(
    tmp_path, capsys, order, declared, contradicted
):
    reader(tmp_path, declared, order)
    decided, warned = told(tmp_path, capsys)
    assert decided["new-metric"] == {"metric": "ctc_exact", "output": None}
    assert decided["new-float-value"] == {"metric": "ctc_exact", "value": 1.0, "samples": COUNT}
    assert decided["evaluation-task-guessed"]["task"] == "ctc"
    assert ("evaluation-output-shape-unlike-declared" in warned) is contradicted
    # a batch as long as a line has positions tells its axes too
    path = tmp_path / "made.toml"
    text = (
        path.read_text()
        .replace('backend = "auto"', 'backend = "none"')
        .replace("[evaluation]", "[evaluation]\nbatch = 6")
    )
    passes = text.index("[[pass]]"), text.index("[engine]")
    path.write_text(text[: passes[0]] + '[[pass]]\nuse = "insert_qdq"\n\n' + text[passes[1] :])
    report = run(path, tmp_path / "out").report
    found = report.accuracy
    assert any("the model declares" in warning for warning in report.summary.warnings) is contradicted
    assert (found.before, found.quantized, found.parts[0].task, found.parts[0].unchanged) == (1.0, 1.0, "ctc", 1.0)


SHARES = softmax(normal(8, 6, 5))
SCORE = 1 / (1 + np.exp(-normal(8, 1)))
SIGMOID = 1 / (1 + np.exp(-normal(8, 20)))
VECTORS = normal(8, 96) / np.linalg.norm(normal(8, 96), axis=1, keepdims=True)


def colours(seed):
    """Pictures of 8 bits, with the channel of colours last."""
    return np.random.default_rng(seed).integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("output", "labels", "fits"),
    [
        (out("y", normal(8, 5), "Gemm"), np.arange(8) % 5, ["top1", "auc"]),
        (out("y", normal(8, 5), "Gemm"), (np.arange(8) % 5).astype(np.float32), ["top1", "auc"]),
        (out("y", normal(8, 5, 1, 1), "Conv"), np.arange(8) % 5, ["top1", "auc"]),
        (out("y", normal(8, 5), "Gemm"), np.arange(8), []),
        (out("y", normal(8, 5), "Gemm"), np.arange(8) + 0.5, []),
        (out("y", SIGMOID, "Sigmoid"), np.eye(20)[np.arange(8)], ["f1", "mse"]),
        (out("y", normal(8, 5), "Gemm"), np.eye(5, dtype=np.int64)[np.arange(8) % 5],
         ["top1", "average_precision", "auc", "mse"]),
        (out("y", normal(8, 5), "Gemm"), 0.8 * np.eye(5)[np.arange(8) % 5] + 0.04, ["top1", "mse"]),
        (out("y", softmax(normal(8, 5)), "Softmax"), 0.8 * np.eye(5)[np.arange(8) % 5] + 0.04, ["mse"]),
        (out("y", normal(8, 5), "Gemm"), np.tril(np.ones((5, 5)))[np.arange(8) % 5], ["average_precision", "mse"]),
        (out("y", normal(8, 5), "Gemm"), (np.arange(8) % 5)[:, None], ["top1", "auc"]),
        (out("y", normal(8, 5), "Gemm"), (np.arange(8) % 5).astype(np.float32)[:, None, None], ["top1", "auc"]),
        (out("y", normal(8, 5), "Gemm"), np.round(normal(8, 5)), ["mse"]),
        (out("y", VECTORS, "LpNormalization"), (np.arange(8) % 3)[:, None], ["recall_at_1", "top1", "auc"]),
        (out("y", normal(8), "Gemm", declared=("n",)), np.arange(8)[:, None] / 2, ["mse"]),
        (out("y", normal(8, 1, 32, 32), "Conv"), normal(8, 32, 32), ["mse"]),
        (out("y", normal(8, 7, 5), "Add"), np.zeros((8, 7), np.int32), ["exact", "top1"]),
        (out("y", normal(8, 7, 5), "Add"), np.tile([1, 0, 4, 0, 2, -100, -100], (8, 1)), ["exact", "top1"]),
        (out("y", normal(8, 7, 5), "Add"), np.tile([1, 0, 4, 0, 5, -100, -100], (8, 1)), []),
        (out("y", normal(8, 7, 5), "Add"), np.full((8, 7), -100), []),
        (out("y", np.zeros((8, 7), np.int64)), np.zeros((8, 7), np.int32), ["exact", "top1", "miou"]),
        (out("y", SHARES, "Softmax"), np.tile([1, 2, -1], (8, 1)), ["ctc_exact"]),
        (out("y", SHARES, "Softmax"), np.tile([1, 2, 3, 2, 1, -1], (8, 1)), ["ctc_exact"]),
        (out("y", SHARES, "Softmax"), np.tile([-1, 2, 1], (8, 1)), []),
        (out("y", SHARES, "Softmax"), np.tile([1, 5, -1], (8, 1)), []),
        (out("y", normal(8, 6, 32, 32), "Resize"), np.zeros((8, 32, 32), np.uint8), ["miou"]),
        (out("y", normal(8, 6, 32, 32), "Resize"), np.full((8, 1, 32, 32), 255), []),
        (out("y", normal(8, 6, 32, 32), "Resize"), np.tile([255, 3], (8, 1, 32, 16)), ["miou"]),
        (out("y", normal(8, 32, 32, 4), "Resize"), np.full((8, 32, 32), 3), ["miou"]),
        (out("y", normal(8, 6, 32, 32), "Resize"), np.full((8, 32, 32), 6), []),
        (out("y", normal(8, 1, 32, 32), "Conv"), np.ones((8, 32, 32), np.int64), ["miou"]),
        (out("y", VECTORS, "LpNormalization"), np.arange(8) % 3, ["recall_at_1", "top1", "auc"]),
        (out("y", VECTORS, "LpNormalization"), np.arange(8) / 7, ["spearman"]),
        (out("y", normal(8, 1), "Gemm"), normal(8, 1), ["mse"]),
        (out("y", normal(8, 1), "Gemm"), normal(8), ["mse"]),
        (out("y", normal(8, 5), "Gemm"), normal(8), []),
        (out("y", SCORE, "Sigmoid"), np.arange(8) % 2, ["top1", "auc"]),
        (out("y", SCORE, "Sigmoid"), (np.arange(8) % 2).astype(np.float32)[:, None], ["top1", "auc"]),
        (out("y", SCORE, "Sigmoid"), np.arange(8) == 3, ["auc", "top1"]),
        (out("y", SCORE / 4, "Sigmoid"), np.arange(8) % 2, ["auc", "top1"]),
        (out("y", SCORE[:, 0], "Sigmoid", declared=("n",)), np.arange(8) % 2, ["top1", "auc"]),
        (out("y", normal(8, 1), "Gemm"), np.arange(8) % 2, ["top1", "auc"]),
        (out("y", normal(8, 1), "Gemm"), np.arange(8), ["mse"]),
        (out("y", SCORE, "Sigmoid"), SCORE, ["mse"]),
        (out("y", np.zeros((8, 1), np.int64), "Cast"), np.arange(8) % 2, ["top1"]),
        (out("y", normal(8, 3, 32, 32), "Conv"), normal(8, 3, 32, 32), ["mse"]),
        # a volume's classes come before depth, height and width, or after them
        (out("y", normal(8, 3, 5, 6, 7), "Conv"), normal(8, 3, 5, 6, 7).argmax(axis=1), ["miou"]),
        (out("y", normal(8, 5, 6, 7, 3), "Transpose"), normal(8, 5, 6, 7, 3).argmax(axis=-1), ["miou"]),
        (out("y", normal(8, 3, 5, 6, 7), "Conv"), normal(8, 3, 5, 6, 7), ["mse"]),
        # colours are no classes, and a mask has few of them
        (out("y", colours(1), "Cast"), colours(2), ["mse"]),
        (out("y", colours(1) // 64, "ArgMax"), colours(2) // 64, ["miou"]),
        # labels of one kind alone are no values that a score is to have
        (out("y", SCORE, "Sigmoid"), np.zeros(COUNT, np.int64), []),
        (out("y", SCORE, "Sigmoid"), np.ones((COUNT, 1), np.float32), []),
    ],
)  # fmt: skip
def test_what_labels_fit_by_their_layout(output, labels, fits):
    model = seen(output)
    assert [one.metric for one in fitting_metrics(model, guess(model), list(labels))] == fits


@pytest.mark.parametrize("form", ["one-hot", "column"])
def test_labels_of_classes_are_read_alike_in_every_form(form, tmp_path):
    """One-hot, or as a column: the metric, its value and the drop are those of plain numbers."""
    w = normal(6, 5, seed=1)
    onnx.save(build([node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 6]}, {"y": ["N", 5]}, {"w": w}),
              str(tmp_path / "model.onnx"))  # fmt: skip
    np.savez(tmp_path / "data.npz", x=normal(COUNT, 6, seed=3))
    x = normal(200, 6, seed=4)
    label = (x @ w).argmax(axis=1)
    label[::10] = (label[::10] + 1) % 5
    found = []
    for given in (label, np.eye(5)[label] if form == "one-hot" else label[:, None]):
        save_test_data(tmp_path, x, given)
        section = made(tmp_path)
        path = tmp_path / "made.toml"
        path.write_text(path.read_text().replace('backend = "auto"', 'backend = "none"'))
        accuracy = run(path, tmp_path / f"out{len(found)}").report.accuracy
        found.append((section.metric, section.budget.max_drop, accuracy.before, accuracy.quantized, accuracy.standing))
    assert found[0] == found[1] and found[0][:3] == ("top1", 0.009, 0.9)


def test_values_out_of_a_guess_of_classes_are_no_labels_out_of_range():
    """Floats may be what a regression is to give, although all are whole; integers are numbers of classes."""
    model = seen(out("y", np.sort(normal(8, 3)), "Gemm"))
    found = guess(model)
    assert {part.task for part in found.parts} >= {"regression"}
    ratings = np.arange(8) % 4
    assert out_of_range_label(model, found, list(ratings.astype(np.float32))) is None
    assert out_of_range_label(model, found, list(ratings)).value == 3
    classes = seen(out("y", normal(8, 3), "Gemm"))
    assert out_of_range_label(classes, guess(classes), list(ratings.astype(np.float32))).value == 3


@pytest.mark.parametrize("last", ["Sigmoid", "Identity"])
def test_labels_of_0_and_1_of_one_score_are_classes_in_new_check_and_run(last, tmp_path, capsys):
    proto = build(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["z"]),
         node(last, ["z"], ["y"])],
        {"x": ["N", 6]}, {"y": ["N", 1]}, {"w": normal(6, 8, seed=1), "v": normal(8, 1, seed=2)},
    )  # fmt: skip
    onnx.save(proto, str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(COUNT, 6, seed=3))
    x = normal(400, 6, seed=4)
    scores = session(Model.load(tmp_path / "model.onnx")).run({"x": x})["y"][:, 0]
    label = scores > (0.5 if last == "Sigmoid" else 0.0)
    label[::10] = ~label[::10]
    save_test_data(tmp_path, x, label.astype(np.float32))
    section = made(tmp_path)
    assert (section.metric, section.task or "classification") == ("top1", "classification")
    assert section.budget.max_drop == 0.009
    path = tmp_path / "made.toml"
    path.write_text(path.read_text().replace('backend = "auto"', 'backend = "none"'))
    report = run(path, tmp_path / "out").report
    assert (report.accuracy.metric, report.accuracy.before) == ("top1", 0.9)
    (part,) = report.accuracy.parts
    assert (part.task, part.outputs) == ("classification", ["y"])


def test_scores_that_all_lie_on_one_side_are_judged_by_their_values_too():
    rare = out("y", SCORE / 4, "Sigmoid")
    found = guess(seen(rare))
    assert (found.task, [part.task for part in found.parts]) == ("classification", ["classification", "regression"])
    (note,) = one_sided_among(found.parts, seen(rare))
    count = rare.flat.size
    assert dict(note.values) == {"output": "y", "threshold": 0.5, "above": False, "scores": count}
    # what was looked at is said: further samples may lie on the other side
    assert f"All of the first {count} scores of output 'y' lie below 0.5" in sentence(note)
    both = seen(out("y", SCORE, "Sigmoid"))
    assert [part.task for part in guess(both).parts] == ["classification"]
    assert not one_sided_among(guess(both).parts, both)


@pytest.mark.parametrize("shape", [(8, 6, 1), (8, 1, 6, 1)])
def test_several_scores_a_sample_are_a_set_of_labels_however_they_lie(shape):
    scores = 1 / (1 + np.exp(-normal(*shape)))
    one = out("y", scores, "Sigmoid")
    (part,) = parts_for("classification", one, seen(one))
    assert "single" not in part.settings and part.settings["threshold"] == 0.5
    found = scores.copy()
    found[0] = 1 - found[0]
    tally = Answers([part]).tallies([Answers([part]).rows({"y": scores}, {"y": found})])[0]
    assert (tally.kept, tally.answers) == (7, 8)


def test_labels_that_are_no_numbers_are_counted():
    said = unfit([np.float32([value]) for value in (1, np.nan, 3, np.inf)], None).values
    assert (said["low"], said["high"], said["broken"]) == (1, 3, 2)


def test_labels_of_detectors_and_of_decoders():
    boxed = CASES["boxes and scores in one"][0]
    rows = list(np.full((8, 3, 5), 2.0))
    assert fitting_metrics(boxed, guess(boxed), rows)[0] == FittingMetric("map", "output0")
    spoken = CASES["a decoder"][0]
    assert fitting_metrics(spoken, guess(spoken), [np.full(16, -100), np.full(16, 3)])[0].metric == "perplexity"


def test_a_model_that_cannot_be_run_is_called_that(tmp_path):
    nodes = [node("Reshape", ["x", "three"], ["r"]), node("Relu", ["r"], ["y"])]
    model = Model.from_proto(build(nodes, {"x": ["n", 4]}, {"y": [3, 3]}, {"three": np.array([3, 3])}))
    np.savez(tmp_path / "data.npz", x=np.zeros((2, 4), np.float32))
    before = '[model]\npath = "none.onnx"\n[calibration]\ndata = "data.npz"\n[[pass]]\nuse = "insert_qdq"\n[evaluation]'
    made = new_evaluation(model, tmp_path / "data.npz", None, None, "", before, tmp_path / "made.toml")
    assert [note.code for note in made.warnings] == [ReportCode.NEW_NOT_RUN]


def test_new_and_a_run_give_one_answer(tmp_path, capsys):
    shape = {"x": ["N", 12]}
    proto = build([node("Relu", ["x"], ["r"]), node("MatMul", ["r", "w"], ["vector"]), node("Softmax", ["r"], ["probs"])],
                  shape, {"vector": ["N", 64], "probs": ["N", 12]}, {"w": normal(12, 64)})  # fmt: skip
    onnx.save(proto, str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(100, 12, seed=3))
    words = [
        "new",
        str(tmp_path / "model.onnx"),
        "--data",
        str(tmp_path / "data.npz"),
        "--out",
        str(tmp_path / "r.toml"),
    ]
    assert invoke([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["decisions"]
    (guessed,) = [one for one in told if one["code"] == EvaluationCode.TASK_GUESSED.value]
    recipe = Recipe.load(tmp_path / "r.toml")
    named = task_of(Inputs(Job(recipe, RunFolder(tmp_path / "named"))))
    plain = Recipe.parse(
        "\n".join(line for line in (tmp_path / "r.toml").read_text().splitlines() if not line.startswith("task")),
        tmp_path / "r.toml",
    )
    free = task_of(Inputs(Job(plain, RunFolder(tmp_path / "free"))))
    assert named.task == free.task == guessed["values"]["task"]
    assert sorted(map(str, named.parts)) == sorted(map(str, free.parts))
    # two tasks have two limits, and none is set for both
    assert {part["task"] for part in named.parts} == {"classification", "embedding"}
    assert recipe.evaluation.budget.min_unchanged is None


def test_the_float_models_own_value_is_that_of_the_model_without_the_pairs_that_the_recipe_strips(place):
    """Pairs so coarse that they take all that tells the classes apart."""
    x = normal(COUNT, 6, seed=2)
    label = session(Model.load(place / "model.onnx")).run({"x": x})["scores"].argmax(axis=1)
    np.savez(place / "test.npz", x=x, label=label)
    proto = onnx.load(str(place / "model.onnx"))
    proto.graph.node[0].input[0] = "back"
    pair = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["back"])]
    nodes = [*pair, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend([
        onnx.numpy_helper.from_array(np.float32(40), "s"), onnx.numpy_helper.from_array(np.int8(0), "z"),
    ])  # fmt: skip
    onnx.save(proto, str(place / "model.onnx"))
    coarse = session(Model.load(place / "model.onnx")).run({"x": x})["scores"].argmax(axis=1)
    assert (coarse == label).mean() < 0.6
    made = recipe_for(place / "model.onnx", place / "r.toml", place / "data.npz", place / "test.npz", None)
    (own,) = [one for one in made.said if one.code is ReportCode.NEW_FLOAT_VALUE]
    assert (own.values["metric"], own.values["value"]) == ("top1", 1.0)


def test_offsets_of_channels_are_no_spread_of_values(tmp_path):
    """A forecast of two quantities, one around 1000: what they differ by is known before anything is seen."""
    x = normal(COUNT, 6, seed=2)
    limits = []
    for offset in (0.0, 1000.0):
        proto = build(
            [node("MatMul", ["x", "v"], ["m"]), node("Add", ["m", "b"], ["y"])], {"x": ["N", 6]}, {"y": ["N", 2]},
            {"v": normal(6, 2, seed=1), "b": np.float32([0, offset])},
        )  # fmt: skip
        onnx.save(proto, str(tmp_path / "model.onnx"))
        label = x @ normal(6, 2, seed=1) + np.float32([0, offset]) + 0.3 * normal(COUNT, 2, seed=3)
        np.savez(tmp_path / "test.npz", x=x, label=label)
        made = recipe_for(
            tmp_path / "model.onnx", tmp_path / "r.toml", tmp_path / "test.npz", tmp_path / "test.npz", "mse"
        )
        (limit,) = [one.values["value"] for one in made.said if one.code is ReportCode.NEW_LIMIT]
        limits.append(limit)
    assert limits[0] == limits[1] < 0.2


@pytest.mark.parametrize("metric", ["mae", "mse"])
@pytest.mark.parametrize("unit", [1.0, 1000.0, 1e-9])
def test_the_limit_on_an_error_is_in_the_unit_of_the_labels(tmp_path, unit, metric):
    """Millimetres, metres or nanometres: of a model without an error it is 30 dB below what the labels vary by."""
    weight = normal(6, 1, seed=1) * np.float32(unit)
    proto = build([node("MatMul", ["x", "v"], ["y"])], {"x": ["N", 6]}, {"y": ["N", 1]}, {"v": weight})
    onnx.save(proto, str(tmp_path / "model.onnx"))
    x = normal(COUNT, 6, seed=2)
    np.savez(tmp_path / "test.npz", x=x, label=x @ weight)
    files = tmp_path / "model.onnx", tmp_path / "r.toml", tmp_path / "test.npz", tmp_path / "test.npz"
    (limit,) = [one.values["value"] for one in recipe_for(*files, metric).said if one.code is ReportCode.NEW_LIMIT]
    label = (x @ weight).astype(np.float64)
    wanted = np.abs(label - np.median(label)).mean() / 10**1.5 if metric == "mae" else label.var() / 1000
    assert wanted <= limit < 2 * wanted


def test_a_metric_that_is_asked_for_and_that_no_output_can_be_read_for_is_refused(place):
    np.savez(place / "test.npz", x=normal(COUNT, 6, seed=2), label=np.arange(COUNT) % CLASSES)
    with pytest.raises(RecipeError, match="the metric miou is for segmentation") as told:
        recipe_for(place / "model.onnx", place / "r.toml", place / "data.npz", place / "test.npz", "miou")
    assert told.value.where == "--metric"


@pytest.mark.parametrize("own", [True, False])
def test_masks_of_unlike_sizes_are_labels_of_segmentation(own):
    sizes = [(12, 16), (10, 20), (16, 16), (12, 16)]
    values = [np.float32(normal(3, *size, seed=i)) for i, size in enumerate(sizes)]
    output = SeenOutput("mask", ("n", 3, "h", "w"), values, 0, frozenset({"Conv"}))
    labels = [one.argmax(axis=0) if own else one.argmax(axis=0)[0] for one in values]
    model = seen(output)
    metrics = {one.metric for one in fitting_metrics(model, guess(model), labels)}
    assert ("miou" in metrics) is own


def limit_on_error(place, noise, metric):
    """The limit that a new recipe has, the float model's own error, and that of the best constant."""
    weight = normal(6, 1, seed=1)
    proto = build([node("MatMul", ["x", "v"], ["y"])], {"x": ["N", 6]}, {"y": ["N", 1]}, {"v": weight})
    onnx.save(proto, str(place / "model.onnx"))
    x, apart = normal(COUNT, 6, seed=2), noise * normal(COUNT, 1, seed=3).astype(np.float64)
    label = x @ weight + apart
    np.savez(place / "test.npz", x=x, label=label)
    files = place / "model.onnx", place / "r.toml", place / "test.npz", place / "test.npz"
    (limit,) = [one.values["value"] for one in recipe_for(*files, metric).said if one.code is ReportCode.NEW_LIMIT]
    if metric == "mae":
        return limit, np.abs(apart).mean(), np.abs(label - np.median(label)).mean()
    return limit, np.square(apart).mean(), label.var()


@pytest.mark.parametrize("metric", ["mae", "mse"])
@pytest.mark.parametrize("noise", [0.03, 0.3, 3.0])
def test_the_limit_on_an_error_is_a_part_of_the_float_models_own(tmp_path, noise, metric):
    """However well it does: of a model that hardly errs, what varies in the labels is no measure."""
    limit, own, _ = limit_on_error(tmp_path, noise, metric)
    assert 0.04 * own <= limit <= 0.11 * own


@pytest.mark.parametrize("metric", ["mae", "mse"])
def test_the_limit_on_an_error_changes_little_where_the_error_does(tmp_path, metric):
    """Of 0.9e-6 of what varies 1e-3 was allowed, of 1.1e-6 a 20,000th of that."""
    found = np.array([limit_on_error(tmp_path, 10.0**power, metric) for power in np.arange(-4, -0.9, 0.25)])
    steps = np.diff(np.log10(found[:, 0]))
    # the error itself changes by 0.5 (mse) or 0.25 (mae), and the limit is rounded to one digit
    assert np.abs(steps).max() <= (1.0 if metric == "mse" else 0.5) + 0.31
    # none beside what is no error, and no less than the float model's part of its own anywhere
    assert found[0, 0] == pytest.approx(found[0, 2] * (1e-3 if metric == "mse" else 1e-3**0.5), rel=1.0)
    assert (found[:, 0] >= 0.0499 * found[:, 1]).all()


@pytest.mark.parametrize("metric", ["mae", "mse"])
@pytest.mark.parametrize(("noise", "told"), [(1e-4, True), (0.03, False)])
def test_a_limit_far_above_the_float_models_error_is_explained(tmp_path, noise, told, metric):
    """A mean squared error of 0.03 could grow to 3,000 where labels vary by 1,400, as energies do, without a word."""
    limit, own, varied = limit_on_error(tmp_path, noise, metric)
    assert bool(limit > 100 * own) is told
    files = tmp_path / "model.onnx", tmp_path / "r.toml", tmp_path / "test.npz", tmp_path / "test.npz"
    made = recipe_for(*files, metric)
    said = [one.values["spread"] for one in made.said if one.code is ReportCode.NEW_NO_ERROR]
    assert said == ([pytest.approx(varied, rel=0.2)] if told else [])
    assert ("# That is next to none beside what varies in the labels" in made.text) is told


@pytest.mark.parametrize("noise", [0.0, 1e-4])
@pytest.mark.parametrize("samples", [1, 3])
def test_labels_that_do_not_tell_how_they_vary_give_no_limit(tmp_path, samples, noise):
    """One exact sample gave max_drop = 1e-12, and beside "No limit is written" the limit was in keeping."""
    limit_on_error(tmp_path, noise, "mse")
    with np.load(tmp_path / "test.npz") as data:
        save_test_data(tmp_path, data["x"][:samples], data["label"][:samples])
    files = tmp_path / "model.onnx", tmp_path / "r.toml", tmp_path / "test.npz", tmp_path / "test.npz"
    made = recipe_for(*files, "mse")
    assert "No limit is written" in made.text and "\nbudget =" not in made.text and "in keeping" not in made.text
    assert ("one labelled sample does not tell" in made.text) is (samples == 1)
    assert ("That is next to none" in made.text) is (samples > 1)


@pytest.mark.parametrize(("wrong", "limit"), [(0, 0.005), (2, 0.005), (84, 0.00875), (120, 0.01)])
def test_a_rate_of_errors_may_grow_by_a_part_of_the_float_models_own(tmp_path, wrong, limit):
    """Of 480 characters in 160 readings none or some are wrong: two edits may be added, 5 %, and never more than a point."""
    reader(tmp_path, ["n", 6, 5], "NTC")
    with np.load(tmp_path / "test.npz") as data:
        x, label = (np.concatenate([data[name]] * 4) for name in ("x", "label"))
    read = label[:, :3].reshape(-1)
    read[:wrong] = read[:wrong] % 4 + 1
    label[:, :3] = read.reshape(-1, 3)
    save_test_data(tmp_path, x, label)
    files = tmp_path / "model.onnx", tmp_path / "r.toml", tmp_path / "test.npz", tmp_path / "test.npz"
    said = recipe_for(*files, "cer").said
    (found,) = [one.values["value"] for one in said if one.code is ReportCode.NEW_LIMIT]
    assert limit <= found <= limit * 1.25


def test_an_error_without_samples_is_limited_by_a_share_of_the_float_models(tmp_path):
    proto = build([node("MatMul", ["x", "v"], ["y"])], {"x": ["N", 6]}, {"y": ["N", 1]}, {"v": normal(6, 1)})
    onnx.save(proto, str(tmp_path / "model.onnx"))
    said = recipe_for(tmp_path / "model.onnx", tmp_path / "r.toml", None, None, "mse").said
    assert [one.values for one in said if one.code is ReportCode.NEW_LIMIT] == [
        {"limit": "max_relative_drop", "value": 0.05}
    ]


@pytest.mark.parametrize(("kind", "last", "form"), [
    (np.float32, False, "as integers"),
    (np.int64, True, "without their last axis, of length 1"),
    (np.float64, True, "as integers and without their last axis, of length 1"),
])  # fmt: skip
def test_masks_that_are_nearly_stored_as_labels_are_told_how(kind, last, form):
    """As pictures are read from files: floats, with an axis of one channel."""
    model = seen(out("y", normal(8, 3, 20, 16), "Conv"))
    masks = normal(8, 3, 20, 16).argmax(axis=1).astype(kind)
    labels = list(masks[..., None] if last else masks)
    assert not fitting_metrics(model, guess(model), labels)
    assert f"Store them {form}: then miou fits them." in sentence(unfit(labels, model))


def test_labels_that_no_form_makes_fit_are_told_where_forms_are_listed():
    model = seen(out("y", normal(8, 3, 20, 16), "Conv"))
    for labels in (normal(8, 7), normal(8, 20, 16, 1) > 0.5, np.full((8, 5), 4.5)):
        assert "Store them" not in sentence(unfit(list(labels[:, :3]), model))
