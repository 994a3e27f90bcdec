"""Scores of tokens for every frame after every token, as of an RNN-T's joint network, are answers by themselves and no map."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from tests.conftest import build, node, normal
from tests.toolkit.evaluation.guessing.test_guess import out, seen, softmax
from toolkit import Model
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.observation.observe import observe
from toolkit.evaluation.tasks import OutputPart
from toolkit.graph.sessions.session import session

FRAMES, TOKENS, VOCABULARY = 20, 7, 30
RANDOM = np.random.default_rng(0)


def transducer(batch=("n",), tokens=True, shares=False):
    """Frames [.., frames, 8] and tokens, or what a prediction network makes of them, [.., tokens, 16], joined."""
    batch, first = list(batch), len(batch)
    # without an axis of samples, first axes that are dynamic would be taken for it
    t, u = ("t", "u") if batch else (FRAMES, TOKENS)
    weights = {
        "w": normal(8, 16),
        "o": normal(16, VOCABULARY, seed=2),
        "here": np.int64([first]),
        "there": np.int64([first + 1]),
    }
    nodes = [
        node("MatMul", ["frames", "w"], ["e"]), node("Unsqueeze", ["e", "there"], ["e2"]), node("Unsqueeze", ["d", "here"], ["d2"]),
        node("Add", ["e2", "d2"], ["both"]), node("Tanh", ["both"], ["t"]), node("MatMul", ["t", "o"], ["s"]),
        node("LogSoftmax" if shares else "Identity", ["s"], ["logits"]),
    ]  # fmt: skip
    inputs, types = {"frames": [*batch, t, 8], "d": [*batch, u, 16]}, {}
    if tokens:
        nodes = [node("Gather", ["table", "targets"], ["d"]), *nodes]
        weights["table"] = normal(VOCABULARY, 16, seed=1)
        inputs, types = {"frames": [*batch, t, 8], "targets": [*batch, u]}, {"targets": TensorProto.INT64}
    return build(nodes, inputs, {"logits": [*batch, t, u, VOCABULARY]}, weights, types=types)


def judged(proto, *batch):
    model = Model.from_proto(proto)
    given = []
    for i in range(4):
        of = {"frames": normal(*batch, FRAMES, 8, seed=i), "d": normal(*batch, TOKENS, 16, seed=i)}
        of["targets"] = RANDOM.integers(0, VOCABULARY, (*batch, TOKENS))
        given.append({one.name: of[one.name] for one in model.graph.inputs})
    loaded = session(model)
    return guess(observe(model, [(one, loaded.run(one), 1) for one in given]))


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("batch", [("n",), ()])
def test_scores_of_every_frame_after_every_token_generate(tokens, shares, batch):
    found = judged(transducer(batch, tokens, shares), *[1] * len(batch))
    assert found.task == "generation" and found.sure and not found.others
    assert [(part.task, part.settings["axis"]) for part in found.parts] == [("generation", -1)]


@pytest.mark.parametrize(("frames", "tokens"), [(20, 8), (5, 7), (5, 8)])
def test_an_encoder_may_halve_the_frames_and_a_start_precede_the_tokens(frames, tokens):
    inputs = {"audio": np.zeros((20, 80), np.float32), "targets": np.zeros(7, np.int64)}
    values = softmax(RANDOM.normal(0, 3, (8, frames, tokens, VOCABULARY)))
    assert guess(seen(out("output", values, "Softmax"), inputs=inputs)).task == "generation"


@pytest.mark.parametrize(
    "inputs",
    [
        {"image": np.zeros((3, 20, 7), np.float32), "ids": np.zeros(7, np.int64)},
        {"spectrogram": np.zeros((20, 7), np.float32), "speaker": np.zeros(7, np.int64)},
        {"ids": np.zeros(9, np.int64)},
        {"audio": np.zeros((20, 80), np.float32), "length": np.zeros((), np.int64)},
    ],
    ids=["a picture", "a map of both", "tokens alone", "a number"],
)
def test_scores_of_places_in_one_input_are_a_map(inputs):
    values = softmax(RANDOM.normal(0, 3, (8, FRAMES, TOKENS, 5)))
    assert guess(seen(out("output", values, "Softmax"), inputs=inputs)).task == "segmentation"


def test_every_frame_after_every_token_is_an_answer():
    part = OutputPart("generation", ("logits",), {"batch_axis": 0, "axis": -1})
    answers, wanted = Answers([part]), normal(2, FRAMES, TOKENS, VOCABULARY)
    found = wanted.copy()
    found[0, 3, 2] = np.roll(found[0, 3, 2], 1)
    found[1, 4, :2] = np.roll(found[1, 4, :2], 1, axis=-1)
    tally = answers.tallies([answers.rows({"logits": wanted}, {"logits": found})])[0]
    assert (tally.kept, tally.answers) == (2 * FRAMES * TOKENS - 3, 2 * FRAMES * TOKENS)
