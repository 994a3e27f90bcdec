"""Operators that ONNX defines as functions, in operator sets in which onnxruntime does not write them out."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import OLD_ONNXRUNTIME, build, node, normal
from toolkit.graph.kernels import written_out
from toolkit.graph.model import Model
from toolkit.graph.sessions import session


@pytest.mark.skipif(OLD_ONNXRUNTIME, reason="it knows no opset 25")
@pytest.mark.parametrize("settings", [{}, {"alpha": 1.5}])
def test_swish_runs_at_opset_25(settings):
    proto = build([node("Swish", ["x"], ["y"], "s", **settings)], {"x": [2, 3]}, {"y": [2, 3]}, opset=25)
    x = normal(2, 3)
    expected = x / (1 + np.exp(-settings.get("alpha", 1.0) * x))
    assert np.allclose(session(Model.from_proto(proto)).run({"x": x})["y"], expected, atol=1e-6)


def test_what_has_a_kernel_stays():
    proto = build([node("Relu", ["x"], ["y"], "r")], {"x": [2]}, {"y": [2]}, opset=25)
    assert written_out(proto) is proto
