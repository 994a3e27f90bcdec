"""Which of a model's outputs labels belong to, where several fit them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from tests.toolkit.evaluation.guessing.test_guess import out, seen
from tests.toolkit.run.new.test_metric import COUNT, UNLABELLED
from toolkit import run
from toolkit.base.errors import DataError, RecipeError
from toolkit.cli.main import invoke
from toolkit.data.sample import Sample
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.labels.label_fit import classes_read, fitting_metrics
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.new.new_recipe import recipe_for
from toolkit.run.recipe.recipe import Recipe
from toolkit.run.task.labels import not_finite
from toolkit.run.task.task import task_of


def heads(tmp_path, first, second, labels_of):
    """A recipe for a model of two heads, whose labels are the argmax of ``labels_of(x)``."""
    proto = build(
        [node("MatMul", ["x", "v"], ["first"]), node("MatMul", ["x", "w"], ["second"])], {"x": ["N", 6]},
        {"first": ["N", first.shape[1]], "second": ["N", second.shape[1]]}, {"v": first, "w": second},
    )  # fmt: skip
    onnx.save(proto, str(tmp_path / "model.onnx"))
    x = normal(64, 6, seed=2)
    np.savez(tmp_path / "test.npz", x=x, label=labels_of(x))
    return recipe_for(tmp_path / "model.onnx", tmp_path / "r.toml", tmp_path / "test.npz", tmp_path / "test.npz", None)


def evaluation_of(made):
    return Recipe.parse(made.text).evaluation


def test_labels_of_classes_are_of_the_head_of_classes_and_not_of_the_value_before_it(tmp_path):
    made = heads(tmp_path, 40 + 9 * normal(6, 1), normal(6, 3, seed=1), lambda x: (x @ normal(6, 3, seed=1)).argmax(1))
    assert (evaluation_of(made).metric, evaluation_of(made).output) == ("top1", "second") and not made.warnings


def test_labels_are_of_the_head_that_gives_them_where_all_fit(tmp_path):
    one, other = normal(6, 4), normal(6, 4, seed=1)
    for weight, output in ((one, None), (other, "second")):
        made = heads(tmp_path, one, other, lambda x, w=weight: (x @ w).argmax(axis=1))
        assert (evaluation_of(made).metric, evaluation_of(made).output) == ("top1", output) and not made.warnings
        (own,) = [note for note in made.said if note.code is ReportCode.NEW_FLOAT_VALUE]
        assert own.values["value"] == 1.0


def test_labels_by_another_numbering_are_of_the_head_that_they_follow(tmp_path):
    made = heads(tmp_path, normal(6, 4), normal(6, 4, seed=1), lambda x: ((x @ normal(6, 4, seed=1)).argmax(1) + 1) % 4)
    assert evaluation_of(made).output == "second"
    assert [note.code for note in made.warnings] == [EvaluationCode.LABELS_SHIFTED]


def test_of_heads_that_labels_fit_alike_the_first_is_taken_and_the_others_are_named(tmp_path):
    """The second differs from the first in a few answers only, as an auxiliary head does."""
    weight = normal(6, 4)
    close = weight + 0.3 * normal(6, 4, seed=1)
    label = (normal(64, 6, seed=2) @ (weight + 0.3 * normal(6, 4, seed=3))).argmax(axis=1)
    made = heads(tmp_path, weight, close, lambda x: label)
    (unsure,) = [note for note in made.warnings if note.code is ReportCode.NEW_OUTPUT_UNSURE]
    assert unsure.values["outputs"] == ("first", "second") and evaluation_of(made).output == "first"
    right = [((normal(64, 6, seed=2) @ one).argmax(axis=1) == label).mean() for one in (weight, close)]
    assert list(unsure.values["values"]) == right and right[0] != right[1]
    # heads that answer the same need no choice
    assert not heads(tmp_path, weight, 2 * weight, lambda x: label).warnings


def test_labels_that_nothing_uses_are_named_with_the_output_that_they_are_of(tmp_path):
    heads(tmp_path, 40 + 9 * normal(6, 1), normal(6, 3, seed=1), lambda x: (x @ normal(6, 3, seed=1)).argmax(axis=1))
    np.savez(tmp_path / "data.npz", x=normal(COUNT, 6, seed=4))
    record = task_of(Inputs(Job(Recipe.parse(UNLABELLED, tmp_path / "r.toml"), RunFolder(tmp_path / "run"))))
    (unused,) = [note for note in record.notes if note.code is EvaluationCode.LABELS_UNUSED]
    assert unused.values == {"metric": "top1", "output": "second"}


@pytest.mark.parametrize("place", [2, 150])
def test_a_label_that_is_no_number_is_named_by_new_and_by_check_alike(place, tmp_path, capsys):
    """Wherever it is; its file, its sample and the value's place are said, and what to do."""
    proto = build([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 6]}, {"y": ["n", 3]}, {"w": normal(6, 3)})
    onnx.save(proto, str(tmp_path / "model.onnx"))
    x = normal(160, 6, seed=1)
    label = (x @ normal(6, 3)).astype(np.float32)
    label[place, 1] = np.nan
    np.savez(tmp_path / "test.npz", x=x, label=label)
    given = [str(tmp_path / name) for name in ("model.onnx", "r.toml", "test.npz")]
    told = (
        f"test.npz, sample {place} is nan at [1] (1 value in 1 sample is not finite), so no built-in metric can read the "
        "labels and nothing uses them: repair or remove such samples; mse of output 'y' fits the others."
    )
    assert invoke(["new", given[0], "--data", given[2], "--test", given[2], "--out", given[1]]) == 0
    assert told in capsys.readouterr().out
    assert invoke(["check", given[1]]) == 0
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "not finite" in line]
    assert said.startswith("warning: ") and told in said
    with pytest.raises(DataError, match=f"test.npz, sample {place}: --metric mse cannot read the label: it is NaN"):
        recipe_for(*(tmp_path / name for name in ("model.onnx", "r.toml", "test.npz", "test.npz")), "mse")


def test_labels_none_of_which_is_a_number_fit_nothing(tmp_path):
    model = seen(out("y", normal(8, 3), "MatMul"))
    samples = [Sample({}, index, f"row {index}") for index in range(8)]
    found = not_finite([np.full(3, np.inf)] * 8, samples, model)
    assert found.values["metric"] == "" and found.values["samples"] == 8 and found.values["values"] == 24
    assert sentence(found).endswith("(24 values in 8 samples are not finite), so no built-in metric can read the labels and "
                                    "nothing uses them: repair or remove such samples.")  # fmt: skip
    assert not_finite([np.array(index) for index in range(8)], samples, model) is None


def test_a_class_that_labels_name_is_not_ctcs_blank(tmp_path):
    """Class 0 is the space between two letters and most frequent; the blank, which no label names, is the last."""
    proto = build(
        [node("MatMul", ["x", "w"], ["p"]), node("Softmax", ["p"], ["y"], axis=-1)],
        {"x": ["n", 6, 5]}, {"y": ["n", 6, 5]}, {"w": 9 * np.eye(5, dtype=np.float32)},
    )  # fmt: skip
    onnx.save(proto, str(tmp_path / "model.onnx"))
    letters = np.random.default_rng(4).integers(1, 4, (COUNT, 2))
    lines = np.stack([letters[:, 0], *[np.zeros(COUNT, int)] * 3, letters[:, 1], np.full(COUNT, 4)], axis=1)
    label = np.insert(np.stack([*letters.T, np.full(COUNT, -1)], axis=1), 1, 0, axis=1)
    np.savez(tmp_path / "test.npz", x=np.eye(5, dtype=np.float32)[lines], label=label)
    made = recipe_for(tmp_path / "model.onnx", tmp_path / "r.toml", tmp_path / "test.npz", tmp_path / "test.npz", None)
    (own,) = [note for note in made.said if note.code is ReportCode.NEW_FLOAT_VALUE]
    assert own.values == {"metric": "ctc_exact", "value": 1.0, "samples": COUNT} and not made.warnings
    assert evaluation_of(made).blank == 4 and "CTC's blank is class 4: labels name class 0." in map(sentence, made.said)
    # without the line a run tells it from the labels that it sees
    for text in (made.text, made.text.replace("blank = 4\n", "")):
        record = task_of(Inputs(Job(Recipe.parse(text, tmp_path / "r.toml"), RunFolder(tmp_path / "run"))))
        assert record.float_value == 1.0 and record.parts[0]["settings"]["blank"] == 4


def test_labels_name_what_is_followed_by_another_class():
    """What only ends rows may fill them up; masks and single classes are no readings."""
    rows = [np.array([3, 0, 2, -1]), np.array([1, 1, 1, 1]), np.array([2, 4, 0, 0]), np.array([], int)]
    assert classes_read(rows) == {0, 2, 3, 4}
    assert classes_read([np.array([3, 4, 0, 0])]) == {3, 4}
    assert classes_read([np.zeros((4, 4), int)]) == classes_read([np.array(3)]) == frozenset()


def tagger(tmp_path, label):
    """The files of a tagger of 5 positions and 4 classes, with one label a position."""
    proto = build([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 5, 8]}, {"y": ["n", 5, 4]}, {"w": normal(8, 4)})
    onnx.save(proto, str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "test.npz", x=normal(len(label), 5, 8), label=label)
    return tmp_path / "model.onnx", tmp_path / "r.toml", tmp_path / "test.npz", tmp_path / "test.npz"


@pytest.mark.parametrize("metric", ["top1", "exact", "perplexity"])
def test_a_new_recipe_has_no_metric_that_says_nothing_of_its_samples(metric, tmp_path):
    """A run would refuse it; the one label that decides may be the last."""
    label = np.full((70, 5), -100)
    given = tagger(tmp_path, label)
    with pytest.raises(DataError, match=f"{metric} cannot judge the 70 samples: none of them has a label at any pos"):
        recipe_for(*given, metric)
    assert [note.code for note in recipe_for(*given, None).warnings] == [EvaluationCode.LABELS_FIT_NOTHING]
    label[69, 2] = 1
    made = recipe_for(*tagger(tmp_path, label), metric)
    assert evaluation_of(made).metric == metric


def test_masks_without_a_class_anywhere_fit_nothing():
    seen_mask = seen(out("y", np.random.default_rng(0).normal(size=(8, 3, 32, 32)).astype(np.float32), "Conv"))
    label = np.full((8, 32, 32), 255, np.uint8)
    assert fitting_metrics(seen_mask, guess(seen_mask), list(label)) == []
    label[7, 0, 0] = 2
    assert [one.metric for one in fitting_metrics(seen_mask, guess(seen_mask), list(label))] == ["miou"]


@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_labels_of_masks_that_overlap_are_no_values_of_their_logits(kind):
    """A trained model of nested regions was called wrong: the distance of its logits from 0 and 1 was its error."""
    far = np.abs(np.arange(32) - 15.5)
    logits = np.stack([radius - np.maximum(far[:, None], far) for radius in (11.0, 7.0, 4.0)])
    scores = (logits + 0.2 * np.random.default_rng(0).normal(size=(8, 3, 32, 32))).astype(np.float32)
    nested = np.broadcast_to(logits > 0, scores.shape).astype(kind)
    for given in (scores, (1 / (1 + np.exp(-scores))).astype(np.float32)):
        model = seen(out("y", given, "Conv" if given is scores else "Sigmoid"))
        fits = [one.metric for one in fitting_metrics(model, guess(model), list(nested))]
        assert "miou" in fits and ("mse" in fits) is (given is not scores)
    one_hot = np.moveaxis(np.eye(3)[scores.argmax(axis=1)], -1, 1).astype(kind)
    model = seen(out("y", scores, "Conv"))
    assert "miou" not in {one.metric for one in fitting_metrics(model, guess(model), list(one_hot))}


def judged(tmp_path, first, second, labels_of, **evaluation):
    """What a recipe by hand, with that ``[evaluation]``, is judged by; see ``heads``."""
    heads(tmp_path, first, second, labels_of)
    data = str(tmp_path / "test.npz")
    made = Recipe.build(
        "heads", model={"path": tmp_path / "model.onnx"}, calibration={"data": data}, passes=["insert_qdq"],
        engine={"backend": "none"}, evaluation={"data": data, "metric": "top1", **evaluation},
    )  # fmt: skip
    return task_of(Inputs(Job(made, RunFolder(tmp_path / "run"))))


def test_a_recipe_that_names_no_output_is_refused_where_the_labels_are_another_ones(tmp_path):
    """The first of two heads was read, whose answers are chance, whatever the labels."""
    one, other = normal(6, 4), normal(6, 4, seed=1)

    def labels(x):
        return (x @ other).argmax(axis=1)

    right = ((normal(64, 6, seed=2) @ one).argmax(axis=1) == labels(normal(64, 6, seed=2))).mean()
    with pytest.raises(RecipeError, match="the labels belong to output 'second'") as error:
        judged(tmp_path, one, other, labels)
    assert f"own top1 is 1 by it, and {right:.4g} by 'first'" in error.value.what
    assert 'output = "second"' in error.value.remedy and '"first"' in error.value.remedy
    # what is named is judged, whatever the labels say, and of the first nothing need be said
    assert judged(tmp_path, one, other, labels, output="first").float_value == right
    assert judged(tmp_path, one, other, labels, output="second").float_value == 1.0
    record = judged(tmp_path, other, one, labels)
    assert record.float_value == 1.0 and not record.notes


def test_heads_that_labels_fit_alike_are_named_in_check_and_run(tmp_path, capsys):
    weight = normal(6, 4)
    close = weight + 0.3 * normal(6, 4, seed=1)
    label = (normal(64, 6, seed=2) @ (weight + 0.3 * normal(6, 4, seed=3))).argmax(axis=1)
    (note,) = judged(tmp_path, weight, close, lambda x: label).notes
    assert note.code is ReportCode.NEW_OUTPUT_UNSURE and note.values["outputs"] == ("first", "second")
    assert not judged(tmp_path, weight, close, lambda x: label, output="second").notes
    # heads that answer the same need no choice
    assert not judged(tmp_path, weight, 2 * weight, lambda x: label).notes
    heads(tmp_path, weight, close, lambda x: label)
    (tmp_path / "hand.toml").write_text(
        '[model]\npath = "model.onnx"\n[calibration]\ndata = "test.npz"\n[[pass]]\nuse = "insert_qdq"\n[engine]\n'
        'backend = "none"\n[evaluation]\ndata = "test.npz"\nmetric = "top1"\n'
    )
    assert invoke(["check", str(tmp_path / "hand.toml"), "--json"]) == 0
    assert any("name it as [evaluation] output" in one for one in json.loads(capsys.readouterr().out)["warnings"])
    report = run(tmp_path / "hand.toml", tmp_path / "out").report
    assert any("name it as [evaluation] output" in one for one in report.summary.warnings)


def graphs(tmp_path, nodes, smallest=2):
    """Graphs of unlike sizes whose nodes are classified, an array a sample; a node's features go to its neighbours."""
    layers = [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["a", "h"], ["y"])]
    model = build(layers, {"x": [nodes, 8], "a": [nodes, nodes]}, {"y": [nodes, 4]}, {"w": normal(8, 4)})
    onnx.save(model, str(tmp_path / "model.onnx"))
    rng, stored = np.random.default_rng(0), {}
    for number in range(24):
        count = nodes if isinstance(nodes, int) else int(rng.integers(smallest, 30))
        x, a = normal(count, 8, seed=number), np.float32(rng.random((count, count)) < 0.4)
        given = {"x": x, "a": a, "label": (a @ (x @ normal(8, 4))).argmax(axis=1)}
        stored |= {f"{name}/{number:05d}": value for name, value in given.items()}
    np.savez(tmp_path / "test.npz", **stored)
    return tmp_path / "model.onnx", tmp_path / "r.toml", tmp_path / "test.npz", tmp_path / "test.npz"


@pytest.mark.parametrize("nodes", [6, "nodes"])
def test_a_class_for_each_node_of_a_graph_needs_no_axis_of_samples(nodes, tmp_path):
    """The array of a sample is its own; of the first node alone it was said that it fits nothing."""
    made = recipe_for(*graphs(tmp_path, nodes), None)
    assert evaluation_of(made).metric == "exact"
    (own,) = [note for note in made.said if note.code is ReportCode.NEW_FLOAT_VALUE]
    assert own.values == {"metric": "exact", "value": 1.0, "samples": 24}
    recipe = Recipe.build(
        "nodes", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "test.npz")},
        passes=["insert_qdq"], engine={"backend": "none"},
        evaluation={"data": str(tmp_path / "test.npz"), "metric": "top1", "budget": {"max_drop": 0.5}},
    )  # fmt: skip
    accuracy = run(recipe, tmp_path / "out").report.accuracy
    sizes = sum(len(value) for name, value in np.load(tmp_path / "test.npz").items() if name.startswith("label"))
    assert accuracy.before == 1.0 and 0.5 < accuracy.quantized <= 1.0 and accuracy.samples == 24
    # so many of all nodes are right
    assert accuracy.quantized * sizes == pytest.approx(round(accuracy.quantized * sizes))


def test_positions_without_a_label_may_be_in_labels_of_their_own(tmp_path):
    files = graphs(tmp_path, "nodes")
    stored = dict(np.load(files[2]))
    stored["label/00003"] = np.full_like(stored["label/00003"], -100)
    np.savez(files[2], **stored)
    made = recipe_for(*files, "top1")
    (own,) = [note for note in made.said if note.code is ReportCode.NEW_FLOAT_VALUE]
    assert own.values == {"metric": "top1", "value": 1.0, "samples": 24}
    record = task_of(Inputs(Job(Recipe.parse(made.text, files[1]), RunFolder(tmp_path / "run"))))
    assert record.float_value == 1.0


def test_readings_of_unlike_lengths_are_not_classes_of_positions_where_some_lengths_coincide():
    """Of a recogniser's lines of 3 to 20 letters, one had as many as another line's output has positions."""
    lines = out("y", normal(3, 4, 6), "Softmax", declared=("n", "positions", 6))
    lines.samples[:] = [np.float32(normal(positions, 6)) for positions in (4, 9, 12)]
    readings = [np.array(one) for one in ([1, 2], [1, 2, 3, 1], [5, 4, 1, 2, 3], [2, 1, 5])]
    model = seen(lines)
    assert [one.metric for one in fitting_metrics(model, guess(model), readings)] == ["ctc_exact"]
    positions = [np.arange(length) % 6 for length in (4, 9, 12, 7)]
    assert [one.metric for one in fitting_metrics(model, guess(model), positions)][:2] == ["exact", "top1"]
