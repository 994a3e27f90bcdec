"""Operators that ONNX defines as functions, in operator sets in which onnxruntime does not write them out."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests.conftest import OLD_ONNXRUNTIME, build, node, normal
from toolkit.graph.model import Model
from toolkit.graph.ort_forms.kernels import written_out
from toolkit.graph.sessions.session import session


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


def cast_like(name):
    """x times 1.5, as torch's exporter casts a number to the type of what it is multiplied with."""
    return [
        node("Constant", [], [f"{name}_k"], f"{name}_k", value_float=1.5),
        node("CastLike", [f"{name}_k", "x"], [f"{name}_c"], f"{name}_c"),
        node("Mul", ["x", f"{name}_c"], [name], f"{name}_m"),
    ]


@pytest.mark.skipif(OLD_ONNXRUNTIME, reason="it knows no opset 24")
@pytest.mark.parametrize("opset", [23, 24, 25])
@pytest.mark.parametrize("inside", [False, True])
def test_a_constant_that_is_cast_like_another_tensor(opset, inside):
    """The function of CastLike hangs on types, and the inliner knows none of what a node makes."""
    nodes = cast_like("y")
    if inside:
        body = helper.make_graph(cast_like("o"), "body", [], [helper.make_tensor_value_info("o", 1, [2, 3])])
        nodes = [node("Constant", [], ["yes"], "yes", value=numpy_helper.from_array(np.array(True)))]
        nodes += [node("If", ["yes"], ["y"], "if", then_branch=body, else_branch=body)]
    proto = build([*nodes, node("Swish", ["y"], ["z"], "s")] if opset > 23 else nodes, {"x": [2, 3]},
                  {"z" if opset > 23 else "y": [2, 3]}, opset=opset)  # fmt: skip
    x = normal(2, 3)
    (found,) = session(Model.from_proto(proto)).run({"x": x}).values()
    wanted = 1.5 * x
    np.testing.assert_allclose(found, wanted / (1 + np.exp(-wanted)) if opset > 23 else wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(OLD_ONNXRUNTIME, reason="it knows no opset 25")
def test_what_hangs_on_a_plugins_type_is_left_as_it_is():
    nodes = [
        node("Mystery", ["x"], ["p"], "p", domain="acme"), node("CastLike", ["x", "p"], ["c"], "c"),
        node("Swish", ["x"], ["y"], "s"),
    ]  # fmt: skip
    tensors = [helper.make_tensor_value_info(name, 1, [2, 3]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", tensors[:1], tensors[1:])
    opsets = [helper.make_opsetid("", 25), helper.make_opsetid("acme", 1)]
    left = [one.op_type for one in written_out(helper.make_model(graph, opset_imports=opsets)).graph.node]
    assert "CastLike" in left and "Swish" not in left
