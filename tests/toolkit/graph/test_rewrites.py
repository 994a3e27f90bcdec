"""Rewrites of onnxruntime's that are left out, by what a session computes in their place."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, parser

from toolkit.graph.model import Model
from toolkit.graph.rewrites import wrong_rewrites
from toolkit.graph.sessions import session

_BETWEEN = {
    "none": "m = Identity (t)",
    "dropout": "m = Dropout (t)",
    "cast": "m = Cast <to = 1> (t)",
    "factor": "m = Mul (t, half)",
    "reshape": "s = Shape (t)\n m = Reshape (t, s)",
    "expand": "s = Constant <value_ints = [1]> ()\n m = Expand (t, s)",
    "slice": "a = Constant <value_ints = [0]> ()\n b = Constant <value_ints = [9999]> ()\n m = Slice (t, a, b)",
}


def _model(body: str, shape: str = "4, 4") -> onnx.ModelProto:
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[{shape}] x) => (float[N] y)
        <float[4] w = {{1, 2, 3, 4}}, float half = {{0.5}}> {{ {body} }}"""
    return parser.parse_model(text)


@pytest.mark.parametrize("between", _BETWEEN)
def test_transpose_times_vector_through_what_onnxruntime_takes_out(between: str) -> None:
    proto = _model(f"t = Transpose <perm = [1, 0]> (x)\n {_BETWEEN[between]}\n y = MatMul (m, w)")
    x = np.arange(16, dtype=np.float32).reshape(4, 4)

    made = session(Model.from_proto(proto)).run({"x": x})["y"]

    np.testing.assert_allclose(made, x.T @ np.array([1, 2, 3, 4], np.float32) * (0.5 if between == "factor" else 1))


def test_two_transposes_of_which_onnxruntime_makes_one() -> None:
    body = "t = Transpose <perm = [0, 3, 1, 2]> (x)\n m = Transpose <perm = [0, 2, 1, 3]> (t)\n y = MatMul (m, w)"
    proto = _model(body, "2, 4, 4, 4")
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [2, 4, 4]))
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype(np.float32)

    made = session(Model.from_proto(proto)).run({"x": x})["y"]

    np.testing.assert_allclose(made, x.transpose(0, 1, 3, 2) @ np.array([1, 2, 3, 4], np.float32), rtol=1e-5)


def test_matrices_leave_the_rewrite_on() -> None:
    proto = _model("t = Transpose <perm = [1, 0]> (x)\n m = Cast <to = 1> (square)\n y = MatMul (t, m)")
    proto.graph.initializer.append(helper.make_tensor("square", 1, [4, 4], [1.0] * 16))

    assert wrong_rewrites(proto) == []


def test_transpose_of_a_scalar() -> None:
    proto = _model("y = Transpose (x)", "4")
    proto.graph.node[0].attribute.append(helper.make_attribute("perm", [], attr_type=onnx.AttributeProto.INTS))

    assert wrong_rewrites(proto) == []
