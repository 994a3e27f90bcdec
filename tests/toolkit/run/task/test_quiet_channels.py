"""Channels beside others that vary far more: an error over all of them, and one variance for all, would not show them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit import Model, Recipe, run
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.guessing.parts import parts_for
from toolkit.evaluation.observation.observed import SeenModel, SeenOutput
from toolkit.evaluation.tasks import OutputPart, reader
from toolkit.graph.sessions.session import session
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence

SAMPLES = 320


def branch(name, count, scale, offset):
    """A branch of two layers from the input ``x``, whose values vary by about ``scale`` around an offset."""
    weights = {
        f"{name}1": normal(12, 24, seed=len(name), scale=0.3), f"{name}2": normal(24, count, seed=5, scale=0.3 * scale),
        f"{name}0": np.full(count, offset, np.float32),
    }  # fmt: skip
    nodes = [
        node("MatMul", ["x", f"{name}1"], [f"{name}h"]), node("Relu", [f"{name}h"], [f"{name}r"]),
        node("Gemm", [f"{name}r", f"{name}2", f"{name}0"], [f"{name}y"]),
    ]  # fmt: skip
    return nodes, weights


def forecast(folder, offset=0.0):
    """Three quantities that vary by hundreds and a fourth that varies by one, from a branch of its own."""
    loud, more = branch("loud", 3, 300.0, offset)
    quiet, weights = branch("quiet", 1, 1.0, offset)
    joined = node("Concat", ["loudy", "quiety"], ["forecast"], axis=1)
    model = build([*loud, *quiet, joined], {"x": ["n", 12]}, {"forecast": ["n", 4]}, {**more, **weights})
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return {"x": normal(SAMPLES, 12, seed=9)}


def judged(folder, data, spoilt, **evaluation):
    values = session(Model.load(folder / "model.onnx"), outputs=["quietr", "forecast"]).run(data)
    if evaluation:
        data["label"] = values["forecast"] + normal(SAMPLES, 4, seed=3) * np.float32([40, 40, 40, 0.1])
    np.savez(folder / "data.npz", **data)
    ranges = {"quietr": float(0.1 * values["quietr"].max())} if spoilt else {}
    made = Recipe.build(
        "quiet", model={"path": folder / "model.onnx"}, passes=["insert_qdq"],
        calibration={"data": str(folder / "data.npz"), "manual": ranges}, engine={"backend": "none", "rest": "fp32"},
        evaluation={"data": str(folder / "data.npz"), **evaluation},
    )  # fmt: skip
    return run(made, folder / "out").report


@pytest.mark.parametrize("spoilt", [False, True])
@pytest.mark.parametrize("metric", ["mse", "mae"])
def test_an_error_over_all_channels_does_not_prove_those_that_it_hardly_reads(tmp_path, metric, spoilt):
    report = judged(tmp_path, forecast(tmp_path), spoilt, metric=metric)
    quiet = next(part for part in report.accuracy.parts if part.channels == [3, 3])
    told = sentence(ReportCode.OUTPUT_WITHOUT_LIMIT(
        outputs=("forecast",), channels=[3, 3], changed=1.0 - quiet.unchanged, answers=SAMPLES, metric=metric, quiet=True,
    ))  # fmt: skip
    assert report.accuracy.standing == "met" and (quiet.unchanged < 0.5) is spoilt
    assert (told in report.accuracy.doubts) is spoilt
    assert report.summary.verdict == ("doubtful" if spoilt else "usable")


@pytest.mark.parametrize("spoilt", [False, True])
def test_channels_of_one_magnitude_that_vary_unlike_are_judged_apart(tmp_path, spoilt):
    """As a pressure of 2,000 +- 1 beside temperatures of 2,000 +- 300."""
    report = judged(tmp_path, forecast(tmp_path, 2000.0), spoilt)
    parts = {tuple(part.channels): part.standing for part in report.accuracy.parts}
    assert parts == {(0, 2): "met", (3, 3): "missed" if spoilt else "met"}
    assert report.summary.verdict == ("missed" if spoilt else "usable")


def regression(values):
    output = SeenOutput("y", ("n", *values.shape[1:]), list(values), 0)
    return parts_for("regression", output, SeenModel([output], {}, frozenset()))


def test_what_values_differ_by_is_no_variation_between_samples():
    """The sides of a box of 20, 60 and 100 +- 1: noise of a tenth of that variation is 20 dB below it."""
    values = (normal(64, 3, seed=1) + np.float32([20, 60, 100])).astype(np.float32)
    (part,) = regression(values)
    assert part.settings["variance"] == pytest.approx(values.var(axis=0).mean(), rel=1e-5)
    for noise, kept in ((0.09, True), (0.11, False)):
        found = values + np.float32(noise) * np.sqrt(part.settings["variance"])
        assert reader(part).compare([values], [found])["right"].all() == kept


@pytest.mark.parametrize(("samples", "parts"), [(2, 1), (7, 1), (8, 2)])
def test_few_samples_do_not_tell_how_a_channel_varies(samples, parts):
    """The first channel is alike in two of them by chance."""
    values = 5 + normal(samples, 3, seed=1)
    values[:, 0] = 5 + 0.01 * normal(samples, seed=2)
    found = regression(values.astype(np.float32))
    assert len(found) == parts
    if samples < 8:
        assert found[0].settings["variance"] == pytest.approx(values.var(), rel=1e-5)


@pytest.mark.parametrize(("samples", "ratio", "parts"), [(8, 13, 1), (8, 16, 2), (400, 7, 1), (400, 9, 2)])
def test_channels_vary_unlike_only_if_that_is_no_chance(samples, ratio, parts):
    """A ratio of 8 counts; the deviation of 8 samples may be 1.8 times what it seems, that of 400 1.06 times."""
    spread = np.stack([np.resize([1.0, -1.0], samples)] * 3, axis=1)
    spread[:, 0] /= ratio
    assert len(regression((50 + spread).astype(np.float32))) == parts


@pytest.mark.parametrize("still", [0.0, 1e-6])
def test_a_constant_channel_varies_by_nothing(still):
    values = np.concatenate([normal(64, 3, seed=1), 5 + still * normal(64, 1, seed=2)], axis=1).astype(np.float32)
    parts = {part.channels: part.settings["variance"] for part in regression(values)}
    assert parts[-1, 3, 3] == pytest.approx(25, rel=1e-4) and parts[-1, 0, 2] == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize("whole", [False, True])
def test_samples_with_the_same_classes_at_all_positions_prove_nothing_of_others(whole):
    """As of points whose second coordinate is always the larger one: a constant has the same order."""
    task = reader(OutputPart("sequence", ("y",), {} if whole else {"axis": -1}))
    scores = np.stack([normal(8, 5, seed=1), 9 + normal(8, 5, seed=2)], axis=-1)
    given = [scores, np.concatenate([scores[:7], scores[7:, :, ::-1]])]
    for values, alike in zip(given, (True, False)):
        values = values.argmax(axis=-1) if whole else values
        tallies = [task.tally([task.compare([one], [one]) for one in (values[:3], values[3:])])]
        assert [one.only is not None for one in tallies] == [alike]


@pytest.mark.parametrize("other", [False, True])
def test_sentences_of_any_length_without_an_entity_prove_nothing_of_one(other):
    """A tagger's labels of 3, 5 and 4 words: 'outside' at all of them."""
    task = reader(OutputPart("sequence", ("y",), {}))
    values = [np.full((2, words), 7) for words in (3, 5, 4)]
    values[1][0, 0] = 8 if other else 7
    assert task.tally([task.compare([one], [one]) for one in values]).only == (None if other else 7)


@pytest.mark.parametrize("spoilt", [False, True])
def test_points_whose_order_is_fixed_are_judged_by_their_values(tmp_path, spoilt):
    """As classes they would prove nothing, since y is the larger one in every sample."""
    weights = {
        "w": normal(12, 24, seed=1, scale=0.3), "v": normal(24, 10, seed=2, scale=0.3),
        "b": np.tile(np.float32([0, 9]), 5), "s": np.array([-1, 5, 2]),
    }  # fmt: skip
    nodes = [
        node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["quietr"]), node("Gemm", ["quietr", "v", "b"], ["z"]),
        node("Reshape", ["z", "s"], ["forecast"]),
    ]  # fmt: skip
    model = build(nodes, {"x": ["n", 12]}, {"forecast": ["n", 5, 2]}, weights)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    report = judged(tmp_path, {"x": normal(SAMPLES, 12, seed=9)}, spoilt)
    assert report.summary.verdict == ("missed" if spoilt else "usable")
    assert "regression" in {part.task for part in report.accuracy.parts}


@pytest.mark.parametrize(
    ("name", "ops", "valued"),
    [("points", ["Reshape"], True), ("logits", ["Add"], False), ("out", ["LayerNormalization"], False)],
)
def test_values_of_one_order_are_no_sure_classes(name, ops, valued):
    """Unless the name says classes, or the layer that they are features."""
    values = normal(16, 9, 4, seed=1) + np.float32([0, 30, 0, 0])
    output = SeenOutput(name, ("n", 9, 4), list(values), 0, frozenset(ops))
    tasks = {part.task for part in guess(SeenModel([output], {}, frozenset(ops))).parts}
    assert ("regression" in tasks) is valued
