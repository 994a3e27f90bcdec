"""An autoencoder's output is judged by its values: its largest value is no class."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node
from toolkit import Model
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.observation.observe import observe
from toolkit.evaluation.observation.repeated_input import repeated_input
from toolkit.graph.sessions.session import session

RNG = np.random.default_rng(5)
DIRECTIONS = np.linalg.qr(RNG.standard_normal((20, 4)))[0].astype(np.float32)
"""An orthonormal basis of the four-dimensional space that holds nearly all of the samples, float32 [20, 4]."""


def found(steps, noise, last="Identity", decoder=DIRECTIONS.T, output="output"):
    """The guess for an encoder and a decoder of two linear layers on vectors, or on ``steps`` rows a sample."""
    size = ["n", 20] if steps is None else ["n", steps, 20]
    nodes = [node("MatMul", ["x", "v"], ["z"]), node("MatMul", ["z", "w"], ["y"]), node(last, ["y"], [output])]
    model = Model.from_proto(build(nodes, {"x": size}, {output: size}, {"v": DIRECTIONS, "w": decoder}))
    latent = RNG.standard_normal((32, *([] if steps is None else [steps]), 4))
    samples = (latent @ DIRECTIONS.T + noise * RNG.standard_normal((*latent.shape[:-1], 20))).astype(np.float32)
    loaded = session(model)
    batches = [{"x": samples[first : first + 4]} for first in range(0, 32, 4)]
    return guess(observe(model, [(one, loaded.run(one), 4) for one in batches]))


@pytest.mark.parametrize("steps", [None, 6])
def test_what_a_model_gives_back_is_judged_by_its_values(steps):
    of_model = found(steps, noise=0.02)
    assert (of_model.task, of_model.sure, of_model.others) == ("regression", True, [])
    assert of_model.clues[0].values["what"] == "given back"


@pytest.mark.parametrize("steps, task", [(None, "classification"), (6, "sequence")])
def test_what_is_given_back_in_part_is_judged_by_both(steps, task):
    of_model = found(steps, noise=0.4)
    assert of_model.task == task and "regression" in of_model.others


def test_chances_that_follow_the_input_are_judged_by_both():
    of_model = found(None, noise=0.02, last="Sigmoid", decoder=6 * DIRECTIONS.T)
    assert {of_model.task, *of_model.others} == {"classification", "regression"}


@pytest.mark.parametrize("steps, task", [(None, "classification"), (6, "sequence")])
def test_as_many_classes_as_features_are_classes(steps, task):
    others = RNG.standard_normal((4, 20)).astype(np.float32)
    of_model = found(steps, noise=0.02, decoder=others)
    assert of_model.task == task and "regression" not in of_model.others


CHOICES = {
    "logits": np.float32(3) * (LOGITS := RNG.standard_normal((32, 10))) - 3 * LOGITS.mean(axis=1, keepdims=True),
    "scores of labels": LOGITS,
    "shares": np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True),
    "one choice": np.eye(10)[RNG.integers(0, 10, 32)],
    "several choices": (RNG.random((32, 10)) < 0.2).astype(float),
    "letters": np.eye(4)[RNG.integers(0, 4, (32, 30))],
}  # fmt: skip


@pytest.mark.parametrize("given", CHOICES)
@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_scores_that_follow_scores_or_choices_are_scores_too(given, op):
    """A calibrated classifier, a recommender, or a model of letters gives back what it read; the largest counts."""
    x = CHOICES[given].astype(np.float32)
    size = ["n", *x.shape[1:]]
    model = Model.from_proto(build([node(op, ["x", "w"], ["y"])], {"x": size}, {"y": size}, {"w": np.float32([0.5])}))
    loaded = session(model)
    batches = [{"x": x[first : first + 4]} for first in range(0, 32, 4)]
    of_model = guess(observe(model, [(one, loaded.run(one), 4) for one in batches]))
    wanted = "sequence" if x.ndim == 3 else "classification"
    assert {wanted, "regression"} <= {of_model.task, *of_model.others}


def test_a_signal_of_mean_zero_is_no_choice_and_is_judged_by_its_values():
    x = np.cumsum(RNG.standard_normal((40, 50)), axis=1)
    x = (x - x.mean(axis=1, keepdims=True)).astype(np.float32)
    size, smooth = ["n", 50], sum(np.eye(50, k=k, dtype=np.float32) / 5 for k in range(-2, 3))
    model = Model.from_proto(build([node("MatMul", ["x", "w"], ["y"])], {"x": size}, {"y": size}, {"w": smooth}))
    loaded = session(model)
    batches = [{"x": x[first : first + 4]} for first in range(0, 40, 4)]
    of_model = guess(observe(model, [(one, loaded.run(one), 4) for one in batches]))
    assert (of_model.task, of_model.others) == ("regression", [])


def test_the_input_that_is_followed_best_counts_and_few_samples_do_not():
    x, other = RNG.standard_normal((2, 10, 6)).astype(np.float32)
    y = -0.5 * x + 3
    assert repeated_input([{"a": other, "b": x}], [-y]) == pytest.approx(1)
    assert repeated_input([{"b": x}], [y]) == pytest.approx(-1)
    assert repeated_input([{"b": x[:7]}], [x[:7]]) == 0
    assert repeated_input([{"b": x[:, :3]}], [x[:, :3]]) == 0
    assert repeated_input([{"b": x[:, :5]}], [x]) == 0
    assert repeated_input([{"b": x[:5]}, {"b": x[5:]}], [x[:5], x[5:]]) == pytest.approx(1)
    assert repeated_input([{"b": np.where(x > 9, x, np.nan)}], [x]) == 0
    assert repeated_input([{"b": x}], [np.zeros_like(x)]) == 0
