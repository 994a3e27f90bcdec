"""Models that take several samples at once, on an axis that has no name."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, run
from toolkit import Model
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.observation.observe import observe

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("mixes", "samples"), [(False, 40), (True, 1)])
def test_rows_of_a_batch_that_has_no_name_are_samples_where_the_model_keeps_them_apart(mixes, samples):
    """An export for 40 molecules at once: 40 answers, and no choice of one of 40 classes."""
    nodes = [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "v"], ["m"])]
    nodes += [node("ReduceMean", ["m"], ["mean"], axes=[0]), node("Sub", ["m", "mean" if mixes else "one"], ["y"])]
    weights = {"v": RNG.standard_normal((48, 5)).astype(np.float32), "one": np.ones(1, np.float32)}
    model = Model.from_proto(build(nodes, {"x": [40, 6, 8]}, {"y": [40, 5]}, weights, opset=13))
    given = RNG.standard_normal((40, 6, 8)).astype(np.float32)
    (made,) = run(model, {"x": given})
    looked = observe(model, [({"x": given}, {"y": made}, 1)])
    assert len(looked.outputs[0].samples) == samples
    assert guess(looked).parts[0].task == ("sequence" if mixes else "classification")


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_positions_that_a_recurrent_layer_reads_one_after_the_other_are_one_sample(direction):
    """Also from the last to the first, where another first row changes no other one."""
    nodes = [node("LSTM", ["x", "w", "r"], ["h"], hidden_size=6, direction=direction), node("Squeeze", ["h", "one"], ["s"]),
             node("MatMul", ["s", "v"], ["y"])]  # fmt: skip
    draw = {"w": (1, 24, 8), "r": (1, 24, 6), "v": (6, 5)}
    weights = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in draw.items()}
    model = Model.from_proto(build(nodes, {"x": [40, 1, 8]}, {"y": [40, 1, 5]}, {**weights, "one": np.int64([1])}))
    given = {"x": RNG.standard_normal((40, 1, 8)).astype(np.float32)}
    looked = observe(model, [(given, dict(zip(("y",), run(model, given), strict=True)), 1)])
    assert len(looked.outputs[0].samples) == 1
