"""Actions of a controller are values, also where they are as many as classes might be."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from toolkit import Model
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.observation.observe import observe
from toolkit.graph.sessions.session import session

LAYERS = [node("Gemm", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("Gemm", ["r", "v"], ["g"])]
NUMBERS = {
    "low": np.float32(-1.0), "high": np.float32(1.0), "zero": np.float32(0.0), "two": np.float32(2.0),
    "far below": np.float32(-1e3), "far above": np.float32(1e3),
    "scale": np.array([1, 2, 1, 0.5, 1, 1], np.float32), "offset": np.array([0, 1, 0, 0, 2, 0], np.float32),
}  # fmt: skip


def task_of(*tail: onnx.NodeProto, width: int = 6) -> tuple[str, list[str]]:
    """How a network of two layers and these nodes is judged: the task, and the other tasks that fit as well."""
    weights = {"w": normal(17, 32), "v": normal(32, width, seed=1) / 8, **NUMBERS}
    used = {name for one in (*LAYERS, *tail) for name in one.input}
    weights = {name: value for name, value in weights.items() if name in used}
    proto = build([*LAYERS, *tail], {"x": ["n", 17]}, {"action": ["n", width]}, weights)
    model, runs = Model.from_proto(proto), []
    for seed in range(16):
        given = {"x": normal(1, 17, seed=seed)}
        runs.append((given, dict(session(model).run(given)), 1))
    found = guess(observe(model, runs))
    return found.task, found.others


@pytest.mark.parametrize(
    "tail",
    [
        [node("Tanh", ["g"], ["action"])],
        [node("Tanh", ["g"], ["t"]), node("Mul", ["t", "scale"], ["action"])],
        [node("Tanh", ["g"], ["t"]), node("Mul", ["scale", "t"], ["m"]), node("Add", ["m", "offset"], ["action"])],
        [node("Clip", ["g", "low", "high"], ["action"])],
    ],
    ids=["tanh", "scaled", "moved", "clipped"],
)
def test_bounded_actions_are_values(tail: list[onnx.NodeProto]) -> None:
    assert task_of(*tail) == ("regression", [])


@pytest.mark.parametrize(
    "tail",
    [
        [node("Identity", ["g"], ["action"])],
        [node("Div", ["g", "two"], ["d"]), node("Tanh", ["d"], ["t"]), node("Mul", ["t", "two"], ["action"])],
        [node("Clip", ["g", "zero", "high"], ["action"])],
        [node("Clip", ["g", "far below", "far above"], ["action"])],
        [node("Tanh", ["g"], ["t"]), node("Mul", ["t", "r"], ["action"])],
        [node("Tanh", ["g"], ["t"]), node("Softmax", ["t"], ["action"])],
    ],
    ids=["scores", "capped", "one side", "never reached", "gated", "shares"],
)
def test_what_may_be_scores_of_classes_is_not_taken_for_actions(tail: list[onnx.NodeProto]) -> None:
    task, others = task_of(*tail, width=32 if "r" in tail[-1].input else 6)
    assert "classification" in (task, *others)


def test_a_pooled_vector_of_features_is_still_an_embedding() -> None:
    assert task_of(node("Tanh", ["g"], ["action"]), width=128)[0] == "embedding"
