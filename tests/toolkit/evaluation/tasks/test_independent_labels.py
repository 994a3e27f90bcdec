"""Sigmoids stay independent labels where each sample has just one, so that they add up to 1."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal, run
from toolkit import Model
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.observation.observe import observe
from toolkit.evaluation.tasks import chooses_class

SHAPES = {"a sample": (40, 6), "a position": (40, 6, 12), "a place": (40, 6, 16, 16)}


def parts(op, shape, gain):
    """How the outputs of an operator are read whose scores are far apart: each sample has one class, at any place."""
    positions = (shape[0], *shape[2:])
    chosen = np.random.default_rng(0).integers(0, shape[1], positions)
    x = np.moveaxis(np.where(np.arange(shape[1]) == chosen[..., None], 1.0, -1.0), -1, 1)
    x = (x + normal(*shape, seed=1, scale=0.01)).astype(np.float32)
    sizes = ["n", *shape[1:]]
    nodes = [node("Mul", ["x", "gain"], ["z"]), node(op, ["z"], ["y"], **({"axis": 1} if op == "Softmax" else {}))]
    model = Model.from_proto(build(nodes, {"x": sizes}, {"y": sizes}, {"gain": np.float32(gain)}))
    (y,) = run(model, {"x": x})
    assert np.allclose(y.sum(axis=1), 1.0, atol=1e-2)
    found = guess(observe(model, [({"x": x}, {"y": y}, shape[0])])).parts
    # of a map of many channels nothing else tells that it holds no values, so that these are judged too
    assert found[0].task != "regression"
    return [part for part in found if part.task != "regression"]


@pytest.mark.parametrize("shape", SHAPES)
def test_sigmoids_that_add_up_to_1_hold_each_by_itself(shape):
    for part in parts("Sigmoid", SHAPES[shape], 12.0):
        assert part.settings["threshold"] == 0.5 and not chooses_class(part)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_softmax_of_the_same_scores_chooses_one(shape):
    for part in parts("Softmax", SHAPES[shape], 12.0):
        assert "threshold" not in part.settings and part.settings["axis"] == 1 - len(SHAPES[shape])
