"""Outputs whose values are no rivals, as scores of classes are: points, forecasts, and maps after a Relu."""

from __future__ import annotations

import numpy as np
import pytest

from tests.toolkit.evaluation.guessing.test_guess import IMAGE, TOKENS, out, seen
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.guessing.rivalry import common_share

FRAMES = {"frames": np.zeros((17, 12), np.float32)}


def draw():
    return np.random.default_rng(5)


def key_points(values=2, centre=0.0, samples=32):
    """Points of a figure that moves freely, by more than its points are apart, [samples, 17, values]."""
    draws = draw()
    figure = 0.3 * draws.normal(size=(17, values))
    moved = draws.normal(size=(samples, 1, values)) + 0.1 * draws.normal(size=(samples, 17, values))
    return centre + 0.2 * (figure + moved)


def rivals(scores):
    """Scores of classes as a softmax's cross-entropy leaves them: their sum does not move."""
    return scores - scores.mean(axis=-1, keepdims=True)


def tasks(output, inputs=IMAGE):
    return [part.task for part in guess(seen(output, inputs=inputs)).parts]


@pytest.mark.parametrize("values", [2, 3])
@pytest.mark.parametrize("centre", [0.0, 112.0])
def test_key_points_are_judged_by_their_places(values, centre):
    """The argmax of x and y changed with any point at which they are nearly equal: a sound model was called a miss."""
    assert tasks(out("y", key_points(values, centre), "Gemm")) == ["regression"]


@pytest.mark.parametrize("classes", [2, 3])
def test_scores_of_classes_of_positions_stay_classes(classes):
    scores = rivals(3 * draw().normal(size=(32, 17, classes)) + 1)
    assert "regression" not in tasks(out("y", scores, "Gemm"))
    assert "sequence" in tasks(out("y", scores, "Gemm"))


@pytest.mark.parametrize(
    ("inputs", "declared"),
    [(FRAMES, None), (IMAGE, ("n", "positions", 2))],
    ids=["as many as frames", "any number"],
)
def test_independent_values_of_each_position_may_be_labels_too(inputs, declared):
    """Unless the model has a fixed number of points of its own; what is called scores is judged as such."""
    found = guess(seen(out("y", key_points(), "Gemm", declared=declared), inputs=inputs))
    assert found.task == "sequence" and not found.sure and found.others == ["regression"]
    assert tasks(out("logits", key_points(), "Gemm", declared=declared), inputs) == ["sequence"]
    assert tasks(out("y", key_points(), "Gemm", declared=declared), TOKENS) == ["sequence"]


@pytest.mark.parametrize("steps", [12, 24, 48])
def test_a_forecast_whose_variance_grows_is_judged_by_its_values(steps):
    """It was judged by the step with the largest value."""
    walk = np.cumsum(draw().normal(size=(40, steps)), axis=1)
    assert tasks(out("y", walk, "Gemm")) == ["regression"]
    assert "regression" not in tasks(out("y", rivals(walk[:, ::-1][:, draw().permutation(steps)]), "Gemm"))


def test_values_that_rise_and_fall_together_without_an_order_may_be_those_of_actions():
    values = draw().normal(size=(40, 1)) + 0.3 * draw().normal(size=(40, 8))
    assert set(tasks(out("y", values, "Gemm"))) == {"classification", "regression"}
    assert set(tasks(out("y", 9 + 0.3 * draw().normal(size=(40, 8)), "Gemm"))) == {"classification", "regression"}
    # a sigmoid's or a softplus's values are above 0 whatever they are
    assert "regression" not in tasks(out("y", 9 + 0.3 * draw().normal(size=(40, 8)), "Softplus"))


@pytest.mark.parametrize("actions", [7, 15])
@pytest.mark.parametrize("level", [1, 10])
def test_the_values_of_actions_in_an_order_are_those_of_actions(actions, level):
    """Of steering angles, neighbours are alike; the value of the state, which all share, hides which one is chosen."""
    state, angles = level * draw().normal(size=(40, 1)), np.linspace(-1, 1, actions)
    gain, cost = np.random.default_rng(6).normal(size=(2, 40, 1))
    values = state + gain * angles - cost * angles**2 + np.cos(2 * angles) * 0.5 * gain * cost
    assert set(tasks(out("y", values, "Gemm"))) == {"classification", "regression"}


@pytest.mark.parametrize("op", ["Neg", "Mul", "Div", "ReduceSum", "Gemm"])
def test_distances_to_the_mean_of_each_class_may_be_its_scores_whatever_computes_them(op):
    """Far samples are far from the means of all classes."""
    sample, means = 3 * draw().normal(size=(32, 1, 4)), np.random.default_rng(6).normal(size=(10, 4))
    found = tasks(out("y", -np.abs(sample - means).sum(axis=-1), op))
    assert {"classification", "regression"} <= set(found)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("inputs", [FRAMES, IMAGE, TOKENS])
def test_evidence_for_classes_of_positions_is_above_zero_and_may_be_that_of_classes(classes, inputs):
    evidence = 1 + np.eye(classes)[draw().integers(0, classes, (32, 17))] * draw().uniform(2, 9, (32, 17, 1))
    for op in ("Add", "Mul"):
        assert {"sequence", "regression"} <= set(tasks(out("y", evidence, op), inputs))


@pytest.mark.parametrize("labels", [2, 3])
def test_labels_of_frames_that_do_not_exclude_each_other_may_be_labels(labels):
    """Of a signal, not of a picture: the number of frames is none of the inputs' extents."""
    scores = 8.0 * draw().integers(0, 2, (16, 10, labels)).repeat(5, axis=1) - 4
    inputs = {"audio": np.zeros((1, 16000), np.float32)}
    assert {"sequence", "regression"} <= set(tasks(out("y", scores, "Gemm"), inputs))
    # the same channels as an input series, another property that labels may have
    series = {"signal": np.zeros((2000, labels), np.float32)}
    assert {"sequence", "regression"} <= set(tasks(out("y", scores, "Gemm"), series))


@pytest.mark.parametrize("op", ["Relu", "Resize", "ConvTranspose"])
@pytest.mark.parametrize("background", [False, True])
def test_a_map_of_classes_after_a_relu_is_judged_by_them_too(background, op):
    """It was judged by its values alone, so that a changed class was no difference. A background may be 0 throughout."""
    scores = np.zeros((6, 5, 32, 32))
    places = draw().integers(0, 5, (6, 8, 8)).repeat(4, axis=1).repeat(4, axis=2)
    np.put_along_axis(scores, places[:, None], 4 + draw().normal(size=(6, 1, 32, 32)), axis=1)
    scores = np.maximum(scores + 0.3 * draw().normal(size=scores.shape), 0)
    if background:
        scores[:, 0] = 0
    assert set(tasks(out("y", scores, op))) == {"segmentation", "regression"}
    features = np.maximum(draw().normal(size=(6, 8, 32, 32)), 0)
    assert tasks(out("y", features, "Relu")) == ["regression"]


@pytest.mark.parametrize("op", ["Relu", "Conv", "Softplus"])
@pytest.mark.parametrize("channels", [2, 5, 6])
def test_quantities_above_zero_have_no_winners(channels, op):
    """Of two values, one is at least half the sum whatever they are: such maps were judged by classes too."""
    quantities = np.exp(0.3 * draw().normal(size=(6, channels, 32, 32)))
    assert tasks(out("y", quantities, op)) == ["regression"]
    two = 6.0 * (draw().normal(size=(6, 1, 32, 32)) > 0)
    scores = np.maximum(np.concatenate([two, 6 - two], axis=1) + 0.3 * draw().normal(size=(6, 2, 32, 32)), 0)
    assert set(tasks(out("y", scores, op))) == {"segmentation", "regression"}


def test_the_common_share_of_values():
    """One of n for independent values, none for rivals, all for equal ones; a position's own level does not count."""
    values = draw().normal(size=(400, 3, 4)) + 100 * draw().normal(size=(3, 4))
    of = lambda some: common_share(out("y", some, "Gemm"), -1)  # noqa: E731
    assert of(values) == pytest.approx(0.25, abs=0.02)
    assert of(rivals(values)) == pytest.approx(0, abs=1e-6)
    assert of(np.repeat(values[..., :1], 4, axis=-1)) == pytest.approx(1, abs=1e-6)
    assert of(values[:2]) is None and of(np.ones((40, 3, 4))) is None
    assert of(np.where(values > 1e9, 0, np.inf)) is None
