"""Models that take several samples at once, on an axis that has no name."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, run
from toolkit import Model
from toolkit.evaluation.guess import guess
from toolkit.evaluation.observed import observe

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
