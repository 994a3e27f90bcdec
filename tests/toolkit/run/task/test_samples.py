"""Samples that cannot be measured on are refused before anything is built, and by ``qtool check``."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from tests.conftest import build, digits_recipe, node, normal
from tests.toolkit.conftest import complain
from toolkit import CalibrationData, Model
from toolkit.base.errors import DataError, RecipeError
from toolkit.cli.main import invoke
from toolkit.data.codes import DataCode
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.outputs import OutputComparison
from toolkit.evaluation.metrics.by_name import make_metric
from toolkit.run.steps.passes import PassesStep
from toolkit.run.task.task import rows_together


@pytest.fixture
def place(tmp_path):
    text = digits_recipe(tmp_path).replace('"auto"', '"none"')
    (tmp_path / "recipe.toml").write_text(text)
    return tmp_path


def change(place, **arrays):
    """Write the test data anew; None leaves an array out."""
    with np.load(place / "digits_test.npz") as archive:
        held = {**archive, **arrays}
    np.savez(place / "digits_test.npz", **{name: value for name, value in held.items() if value is not None})


def arrays(place):
    with np.load(place / "digits_test.npz") as archive:
        return dict(archive)


def broken(value, at, where):
    value = value.copy()
    value[at] = where
    return value


FAULTS = {
    "no labels": (lambda a: {"label": None}, "there are no labels"),
    "name of the labels": (lambda a: {"label": None, "lable": a["label"]}, "'lable' is neither an input"),
    "number of labels": (lambda a: {"label": a["label"][:5]}, "the numbers of samples differ"),
    "shape of labels": (lambda a: {"label": np.stack([a["label"]] * 2, 1)}, "labels have shape [1, 2], the output [1, 10]"),
    "labels beyond the classes": (
        lambda a: {"label": broken(a["label"], 3, 10)}, "sample 3: the label is 10, and the output has 10 classes",
    ),
    "labels of two classes each": (
        lambda a: {"label": np.eye(10)[a["label"]] + np.eye(10)[(a["label"] + 1) % 10]}, "one-hot labels",
    ),
    "labels that are words": (lambda a: {"label": a["label"].astype(str)}, "text, not numbers of classes"),
    "labels that are no number": (lambda a: {"label": broken(a["label"].astype(float), 0, np.nan)}, "not numbers of classes"),
    "labels without end": (lambda a: {"label": broken(a["label"].astype(float), 5, np.inf)}, "not numbers of classes"),
    "NaN": (lambda a: {"image": broken(a["image"], (2, 0, 0, 0), np.nan)}, "sample 2, input 'image': the value at"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_faults_of_the_test_data_are_found_first(place, capsys, monkeypatch, case):
    make, words = FAULTS[case]
    change(place, **make(arrays(place)))
    monkeypatch.setattr(PassesStep, "run", lambda self: pytest.fail("a step was begun"))
    for said in (complain(place, capsys), complain(place, capsys, "check", str(place / "recipe.toml"))):
        assert words in said, said
        assert "digits_test.npz" in said and "calibration needs" not in said.lower()


@pytest.mark.parametrize("soft", [0.0, 0.2])
def test_labels_may_be_one_hot_or_probabilities_of_classes(place, soft):
    change(place, label=((1 - soft) * np.eye(10)[arrays(place)["label"]] + soft / 10).astype(np.float32))
    assert invoke(["check", str(place / "recipe.toml")]) == 0


def test_check_looks_at_every_sample_and_a_run_at_the_first_batch(place, capsys, monkeypatch):
    held = arrays(place)
    last = len(held["label"]) - 1
    change(place, label=broken(held["label"], last, 99))
    said = complain(place, capsys, "check", str(place / "recipe.toml"))
    assert f"sample {last}: the label is 99" in said
    monkeypatch.setattr(PassesStep, "run", lambda self: (_ for _ in ()).throw(DataError("the passes began")))
    assert "the passes began" in complain(place, capsys)


def test_a_metric_of_the_users_that_fails(place, capsys, monkeypatch):
    (place / "mine_xyz.py").write_text(
        "class Odd:\n    higher_is_better = True\n    def update(self, outputs, labels):\n        1 / 0\n"
        "    def value(self):\n        return 0.0\n"
    )
    (place / "recipe.toml").write_text((place / "recipe.toml").read_text().replace('"top1"', '"mine_xyz:Odd"'))
    said = complain(place, capsys, "check", str(place / "recipe.toml"), "--allow-code")
    assert "the metric 'mine_xyz:Odd' failed on the first sample: ZeroDivisionError" in said and "recipe.toml:" in said
    assert "division by zero (mine_xyz.py, line 4)" in said


def test_a_metric_of_the_users_that_cannot_be_made(place, capsys):
    (place / "mine_made.py").write_text("class Odd:\n    def __init__(self):\n        1 / 0\n")
    (place / "recipe.toml").write_text((place / "recipe.toml").read_text().replace('"top1"', '"mine_made:Odd"'))
    said = complain(place, capsys, "check", str(place / "recipe.toml"), "--allow-code")
    assert "cannot be created: ZeroDivisionError: division by zero (mine_made.py, line 3)" in said


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{}['x']", "failed in value: KeyError: 'x'"), ("'0.5'", "failed in value: TypeError: it returns '0.5'"),
        ("[1.0, 2.0]", "failed in value: TypeError: it returns [1.0, 2.0]"), (None, "has no value"),
    ],
)  # fmt: skip
def test_a_metric_of_the_users_that_gives_no_number(tmp_path, value, words, monkeypatch):
    """It is the metric's fault, and no bug of qtool's."""
    (tmp_path / "none_xyz.py").write_text(
        "class Odd:\n    higher_is_better = True\n    def update(self, outputs, labels):\n        pass\n"
        + (f"    def value(self):\n        return {value}\n" if value is not None else "")
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("none_xyz", None)
    model = Model.from_proto(build([node("Relu", ["x"], ["y"])], {"x": ["n", 4]}, {"y": ["n", 4]}))
    with pytest.raises((DataError, RecipeError), match=re.escape(words)):
        compared = OutputComparison(model, "none_xyz:Odd", allow_code=True)
        compared.add({"y": normal(2, 4)}, {"y": normal(2, 4)}, {"label": np.zeros(2)}, 2)
        compared.result()


@pytest.mark.parametrize(("dimension", "rows", "said"), [("N", 5, True), ("N", 1, False), ("points", 5, False)])
def test_a_sample_that_is_a_whole_batch_is_said(dimension, rows, said):
    # its rows are weighed against each other, so that they are no samples by themselves
    proto = build([node("Softmax", ["x"], ["y"], axis=0)], {"x": [dimension, 4]}, {"y": [dimension, 4]})
    feeds = [{"x": normal(rows, 4)}] * 3
    found = rows_together(CalibrationData.open(feeds, Model.from_proto(proto)), feeds)
    assert found == ([EvaluationCode.SAMPLES_OF_ROWS(input="x", rows=rows, dimension=dimension)] if said else [])


def test_rows_that_count_as_samples_are_said():
    proto = build([node("Relu", ["x"], ["y"])], {"x": ["N", 4]}, {"y": ["N", 4]})
    feeds = [{"x": normal(5, 4, seed=i)} for i in range(3)]
    found = rows_together(CalibrationData.open(feeds, Model.from_proto(proto)), feeds)
    assert found == [DataCode.ROWS_APART(items=3, rows=15, data="the iterable")]


def test_a_metric_that_needs_several_samples_gets_them(place):
    (place / "pairs_xyz.py").write_text(
        "class Several:\n    higher_is_better = True\n    def update(self, outputs, labels):\n"
        "        assert len(outputs['logits']) > 1\n    def value(self):\n        return 1.0\n"
    )
    text = (place / "recipe.toml").read_text().replace('"top1"', '"pairs_xyz:Several"\nbatch = 20')
    (place / "recipe.toml").write_text(text)
    assert invoke(["run", str(place / "recipe.toml"), "--out", str(place / "out"), "--allow-code"]) == 0


def test_samples_are_looked_at_again_only_where_something_changed(place, monkeypatch):
    looked = []
    monkeypatch.setattr("toolkit.run.task.samples.fit", lambda inputs, data, count: looked.append(count))
    words = ["run", str(place / "recipe.toml"), "--out", str(place / "out")]
    assert invoke(words) == invoke(words) == 0
    assert looked == [8]
    change(place, label=arrays(place)["label"][::-1])
    assert invoke(words) in (0, 1)
    assert looked == [8, 8]


def test_check_counts_by_profile_only_where_there_are_several(place, capsys):
    assert invoke(["check", str(place / "recipe.toml")]) == 0
    several = capsys.readouterr().out
    text = (place / "recipe.toml").read_text()
    second = text.index("[[profile]]", text.index("[[profile]]") + 1)
    (place / "recipe.toml").write_text(text[:second] + text[text.index("[calibration]") :])
    assert invoke(["check", str(place / "recipe.toml")]) == 0
    one = capsys.readouterr().out
    samples = len(arrays(place)["label"])
    assert f"evaluation: {samples} samples (" in several and f"evaluation: {samples} samples\n" in one


@pytest.mark.parametrize(("metric", "label"), [("exact", (4, 2)), ("top1", (4, 1)), ("mse", (1,)), ("mse", (4, 5))])
def test_labels_of_another_shape_are_never_broadcast(metric, label):
    outputs = {"y": np.zeros((4, 1) if metric == "mse" else (4, 3), np.float32)}
    with pytest.raises(DataError, match="labels have shape"):
        make_metric(metric).update(outputs, {"label": np.zeros(label, np.int64)})


def test_a_label_without_the_outputs_axis_of_one_is_not_broadcast_either():
    metric = make_metric("mse")
    metric.update({"y": np.arange(4, dtype=np.float32)[:, None]}, {"label": np.arange(4)})
    assert metric.value() == 0.0
