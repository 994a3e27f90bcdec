"""Small models that the backends' tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests import conftest
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.graph.model import Model

HALF, FLOAT, INT8, FP8 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT8, TensorProto.FLOAT8E4M3FN


def tensor(name, values, kind=FLOAT):
    return numpy_helper.from_array(np.asarray(values).astype(helper.tensor_dtype_to_np_dtype(kind)), name)


def pair(name, kind=INT8, scale=HALF):
    """A Q/DQ pair on tensor ``name``: nodes ``name/Q`` and ``name/DQ``, output ``name_dq``; and its initializers."""
    scales = [f"{name}_s", f"{name}_z"]
    nodes = [
        helper.make_node("QuantizeLinear", [name, *scales], [f"{name}_q"], name=f"{name}/Q"),
        helper.make_node("DequantizeLinear", [f"{name}_q", *scales], [f"{name}_dq"], name=f"{name}/DQ"),
    ]
    return nodes, [tensor(f"{name}_s", 0.05, scale), tensor(f"{name}_z", 0, kind)]


def weights(name, shape, axis=0, kind=INT8, scale=HALF):
    """Stored quantized weights ``name`` and their DequantizeLinear ``name/DQ``, output ``name_dq``."""
    values = np.random.default_rng(0).integers(-100, 100, shape) / (1 if kind == INT8 else 10)
    size = (shape[axis],)
    node = helper.make_node(
        "DequantizeLinear", [name, f"{name}_s", f"{name}_z"], [f"{name}_dq"], name=f"{name}/DQ", axis=axis
    )
    zero = tensor(f"{name}_z", np.zeros(size), kind)
    return [node], [tensor(name, values, kind), tensor(f"{name}_s", np.full(size, 0.01), scale), zero]


def make(nodes, inputs, outputs, initializers=(), opset=21, ir=10):
    """A checked Model; inputs and outputs are ``{name: (element type, shape)}``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in outputs.items()],
        list(initializers),
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    onnx.checker.check_model(proto)
    return Model.from_proto(proto)


def node(op, inputs, outputs, name, **attributes):
    return helper.make_node(op, inputs, outputs, name=name, **attributes)


def save(model, folder: Path) -> Path:
    path = folder / "model.onnx"
    model.save(path)
    return path


def profile(name="only", **shapes):
    """A profile from ``input=(min, opt, max)``."""
    return ShapeProfile(name, {k: Extent(*v) for k, v in shapes.items()})


def profiles(*some):
    return Profiles(tuple(some))


def quantized_conv(kind=INT8, batch="batch"):
    """image -> Q/DQ -> conv (INT8 weights) -> relu -> y, float16 throughout."""
    q, qi = pair("x", kind)
    w, wi = weights("w", (8, 4, 3, 3), kind=kind)
    nodes = [*q, *w, node("Conv", ["x_dq", "w_dq"], ["c"], "conv"), node("Relu", ["c"], ["y"], "relu")]
    return make(nodes, {"x": (HALF, [batch, 4, 8, 8])}, {"y": (HALF, [batch, 8, 6, 6])}, [*qi, *wi])


def mnist_profiles():
    """Two profiles of the mnist network's input x, named a and b."""
    small, large = (1, 1, 28, 28), (16, 1, 28, 28)
    return profiles(profile("a", x=(small, small, large)), profile("b", x=(large, large, large)))


def recurrent(op, lengths):
    """Sigmoid ``s``, Relu ``a``, Transpose ``t``, a recurrent ``h`` of 5 steps, Relu ``y``; lengths of 3 sequences."""
    rows = {"LSTM": 4, "GRU": 3, "RNN": 1}[op] * 4
    own = conftest.node(op, ["t", "w", "r", "b", "lengths" if lengths else ""], ["h"], hidden_size=4)
    proto = conftest.build(
        [conftest.node("Sigmoid", ["x"], ["s"]), conftest.node("Relu", ["s"], ["a"]),
         conftest.node("Transpose", ["a"], ["t"], perm=[1, 0, 2]), own, conftest.node("Relu", ["h"], ["y"])],
        {"x": [3, 5, 6]}, {"y": None},
        {"w": conftest.normal(1, rows, 6), "r": conftest.normal(1, rows, 4), "b": conftest.normal(1, 2 * rows)},
    )  # fmt: skip
    if lengths:
        proto.graph.input.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, [3]))
    return Model.from_proto(proto)
