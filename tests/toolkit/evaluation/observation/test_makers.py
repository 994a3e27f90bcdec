"""The operators that compute an output, however many operators only move or join its values."""

from __future__ import annotations

import pytest

from tests.conftest import build, node, normal
from toolkit import Model
from toolkit.evaluation.observation.observe import observe


def moved(times: int):
    between = [node("Identity", [f"t{i}"], [f"t{i + 1}"]) for i in range(times)]
    return [node("Sigmoid", ["x"], ["t0"]), *between, node("Flatten", [f"t{times}"], ["y"])]


def joined(times: int):
    parts = [node("Identity", ["t"], [f"p{i}"]) for i in range(times)]
    last = node("Concat", ["x", *(f"p{i}" for i in range(times))], ["y"], axis=1)
    return [node("Sigmoid", ["x"], ["t"]), *parts, last]


@pytest.mark.parametrize("nodes", [moved(3), moved(300), joined(3), joined(300)])
def test_they_are_found_behind_any_number_of_others(nodes):
    model = Model.from_proto(build(nodes, {"x": ["n", 4]}, {"y": ["n", "m"]}, {}))
    x = normal(2, 4)
    seen = observe(model, [({"x": x}, {"y": x}, 2)])
    assert seen.outputs[0].ops == {"Sigmoid"}
