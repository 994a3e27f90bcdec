"""Spectrograms that a model makes are signals, whatever it reads: the loudest band of a frame is no class."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal
from tests.toolkit.evaluation.guessing.test_guess import AUDIO, TOKENS, out, seen
from toolkit import Model
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.observation.observe import observe
from toolkit.graph.sessions.session import session

RNG = np.random.default_rng(0)
MEL = {"mel": np.zeros((80, 100), np.float32)}


def log_mel(samples, bands, frames):
    """The logarithm of two formants that move, with pauses: float [samples, bands, frames]."""
    band, time, number = np.ogrid[:bands, :frames, :samples]
    first = 20 + 8 * np.sin(time / 9 + number)
    second = 2 * first + 5 * np.cos(time / 7)
    voiced = np.clip(np.sin(time / 13 + number), 0, 1)
    power = voiced * (np.exp(-((band - first) ** 2) / 30) + 0.5 * np.exp(-((band - second) ** 2) / 40))
    power = power + 0.02 * RNG.random((bands, frames, samples)) * np.exp(-band / 40)
    return np.moveaxis(np.log(power + 1e-5), -1, 0).astype(np.float32)


FORMS = {
    "bands first": (log_mel(8, 80, 100), ("n", 80, "frames")),
    "frames first": (np.moveaxis(log_mel(8, 80, 100), 1, 2), ("n", "frames", 80)),
    "fixed": (log_mel(8, 80, 100), ("n", 80, 100)),
    "with a channel": (log_mel(8, 128, 100)[:, None], ("n", 1, 128, "frames")),
}


@pytest.mark.parametrize("inputs", [TOKENS, AUDIO, MEL], ids=["tokens", "sound", "spectrogram"])
@pytest.mark.parametrize("form", FORMS)
def test_a_spectrogram_is_a_signal_whatever_the_model_reads(form, inputs):
    values, declared = FORMS[form]
    found = guess(seen(out("output", values, "Conv", declared=declared), inputs=inputs))
    assert (found.task, found.others) == ("regression", [])


@pytest.mark.parametrize("name", ["mel", "output_spectrogram"])
def test_a_name_tells_it_of_values_that_say_nothing(name):
    values = RNG.standard_normal((8, 80, 100))
    found = guess(seen(out(name, values, "Conv", declared=("n", 80, "frames")), inputs=TOKENS))
    assert (found.task, found.sure) == ("regression", True)


def frames(makes, features=40):
    """Two linear layers over frames of features that move, and as many values for each frame."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["z"])]
    weights = {"w": normal(features, 64, seed=1), "v": normal(64, features, seed=2) / 64, "part": np.float32(0.5)}
    nodes.append(node("Identity", ["z"], ["output"]) if makes == "classes" else node("Sub", ["x", "part"], ["y"]))
    nodes += [node("Add", ["y", "z"], ["output"])] if makes == "signals" else []
    used = {name for one in nodes for name in one.input}
    sizes = ["n", "frames", features]
    given = {name: value for name, value in weights.items() if name in used}
    model = Model.from_proto(build(nodes, {"x": sizes}, {"output": sizes}, given))
    batches = [{"x": normal(1, 60, features, seed=seed).cumsum(axis=1) / 8} for seed in range(8)]
    return guess(observe(model, [(one, session(model).run(one), 1) for one in batches]))


def test_what_follows_an_input_of_its_shape_is_a_signal():
    found = frames("signals")
    assert (found.task, found.sure, found.others) == ("regression", True, [])


def test_as_many_values_as_features_that_do_not_follow_these_are_judged_as_classes_too():
    found = frames("classes")
    assert {part.task for part in found.parts} == {"sequence", "regression"} and not found.sure


def test_labels_of_tokens_and_vectors_stay_what_they_are():
    labels = RNG.standard_normal((8, 40, 30))
    assert guess(seen(out("output", labels, "Add", declared=("n", "length", 30)), inputs=TOKENS)).task == "sequence"
    shares = np.exp(labels) / np.exp(labels).sum(axis=-1, keepdims=True)
    like = {"x": np.zeros((40, 30), np.float32)}
    assert guess(seen(out("output", shares, "Softmax", declared=("n", "length", 30)), inputs=like)).task == "sequence"
    vectors = RNG.standard_normal((8, 40, 64))
    like = {"x": np.zeros((40, 64), np.float32)}
    found = guess(seen(out("output", vectors, "LayerNormalization", declared=("n", "length", 64)), inputs=like))
    assert (found.task, found.others) == ("embedding", [])


@pytest.mark.parametrize("name", ["logits", "tag_scores", "ner_labels"])
def test_as_many_tags_as_features_stay_tags(name):
    like = {"x": np.zeros((40, 32), np.float32)}
    values = RNG.standard_normal((8, 40, 32))
    assert guess(seen(out(name, values, "Add", declared=("n", "length", 32)), inputs=like)).task == "sequence"
