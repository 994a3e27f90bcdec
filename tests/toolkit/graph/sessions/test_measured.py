"""What is measured of a model, and what stands before it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit.graph.model import Model
from toolkit.graph.sessions.measured import squashed_by


@pytest.mark.parametrize("op", ["Softmax", "Sigmoid", "Relu"])
def test_an_operator_that_presses_an_output_into_a_range_is_seen_through_shapes(op):
    shape = np.array([-1, 2, 2], np.int64)
    nodes = [node("MatMul", ["x", "w"], ["scores"]), node(op, ["scores"], ["p"]), node("Reshape", ["p", "s"], ["y"])]
    model = Model.from_proto(build(nodes, {"x": ["n", 3]}, {"y": ["n", 2, 2]}, {"w": normal(3, 4), "s": shape}))
    assert squashed_by(model, "y") == ("" if op == "Relu" else op)
    assert squashed_by(model, "scores") == "" == squashed_by(model, "nowhere")
