"""The metric and the limit of a new recipe: what the labels fit, in keeping with the float model's own value."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from tests.toolkit.conftest import complain
from toolkit import Model
from toolkit.cli.main import invoke
from toolkit.graph.sessions import session
from toolkit.run.new_metric import FittingMetric, fitting_metric
from toolkit.run.recipe import Recipe

CLASSES, COUNT = 5, 40


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


def test_data(place, x, label):
    np.savez(place / "test.npz", x=x, label=label)


test_data.__test__ = False


def made(place, *words):
    out = place / "made.toml"
    given = words if words else ["--data", place / "data.npz", "--test", place / "test.npz"]
    assert invoke(["new", str(place / "model.onnx"), "--out", str(out), "--force", *map(str, given)]) == 0
    assert invoke(["check", str(out)]) == 0
    return Recipe.load(out).evaluation


def test_classes_are_judged_by_top1(place, capsys):
    x, found = answers(place)
    test_data(place, x, found["scores"].argmax(axis=1))
    section = made(place)
    assert (section.metric, section.output, section.budget.max_drop) == ("top1", None, 0.03)
    assert "own top1 is 1 on 40 samples" in (place / "made.toml").read_text()


def test_a_limit_is_a_hundredth_of_the_float_models_own_share(place, capsys):
    x, found = answers(place, 400)
    label = found["scores"].argmax(axis=1)
    label[:32] = (label[:32] + 1) % CLASSES
    test_data(place, x, label)
    assert made(place).budget.max_drop == 0.005


def test_labels_in_another_order_are_called_that(place, capsys):
    x, found = answers(place)
    test_data(place, x, (found["scores"].argmax(axis=1) + 1) % CLASSES)
    assert made(place).budget.max_drop == 0.01
    assert "no better than a guess: check the labels" in (place / "made.toml").read_text()


def test_labels_of_the_shape_of_an_output_are_judged_by_the_squared_error(place, capsys):
    x, found = answers(place)
    noise = normal(COUNT, 3, seed=9, scale=0.5)
    test_data(place, x, found["signal"] + noise)
    section = made(place)
    own = float((noise.astype(np.float64) ** 2).mean())
    assert (section.metric, section.output) == ("mse", "signal")
    assert 0.05 * own <= section.budget.max_drop <= 0.1 * own
    test_data(place, x, found["signal"])
    spread = float(found["signal"].var())
    assert 0.001 * spread <= made(place).budget.max_drop <= 0.002 * spread


@pytest.mark.parametrize("label", [normal(COUNT, 7), np.full(COUNT, 9), np.full((COUNT, 1), 2)])
def test_labels_that_fit_no_output_have_no_metric(place, capsys, label):
    test_data(place, answers(place)[0], label)
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
    test_data(place, answers(place)[0], np.arange(COUNT) % CLASSES)
    said = complain(
        place, capsys, "new", str(place / "model.onnx"), "--test", str(place / "test.npz"), "--metric", metric,
        "--out", str(place / "made.toml"),
    )  # fmt: skip
    for word in words:
        assert word in said, said
    assert not (place / "made.toml").exists()


@pytest.mark.parametrize("data", ["--data", "--test"])
def test_a_metric_without_labels_is_refused(place, capsys, data):
    said = complain(place, capsys, "new", str(place / "model.onnx"), data, str(place / "data.npz"), "--metric", "top1")
    assert "data.npz: --metric top1 needs labels, and there are none" in said


@pytest.mark.parametrize(("metric", "value"), [("top5", 1.0), ("exact", 1.0)])
def test_a_metric_that_is_asked_for_looks_at_the_output_that_fits(place, capsys, metric, value):
    x, found = answers(place)
    test_data(place, x, found["scores"].argmax(axis=1))
    section = made(place, "--data", place / "data.npz", "--test", place / "test.npz", "--metric", metric)
    assert (section.metric, section.output) == (metric, None)


@pytest.mark.parametrize(
    ("shape", "label", "fits"),
    [
        ((1, 5), np.array([4]), "top1"),
        ((1, 5), np.array([4.0], np.float32), "top1"),
        ((1, 7, 5), np.zeros((1, 7), np.int32), "top1"),
        ((1, 5), np.array([5]), None),
        ((1, 5), np.array([0.5]), None),
        ((1, 1), np.array([1.0]), None),
        ((1, 1), np.array([[1.0]]), "mse"),
        ((1, 5), np.array([[0, 0, 1, 0, 0]]), "mse"),
        ((1, 5, 4, 4), np.zeros((1, 4, 4), np.int64), None),
    ],
)
def test_what_a_label_fits_by_its_type_and_shape(shape, label, fits):
    found = fitting_metric({"ids": np.zeros((1,), np.int64), "y": np.zeros(shape, np.float32)}, label)
    assert found == (FittingMetric(fits, "y") if fits is not None else None)
