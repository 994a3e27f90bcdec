"""Small models with If, Loop and Scan, with scalar inputs, and with states that are fed back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import build, node, normal
from toolkit.base.types import Array

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def subgraph(
    nodes: Sequence[onnx.NodeProto],
    outputs: Mapping[str, Sequence[object] | None],
    inputs: Mapping[str, Sequence[object] | None] | None = None,
    weights: Mapping[str, Array] | None = None,
    types: Mapping[str, int] | None = None,
) -> onnx.GraphProto:
    """A branch or a body; what it reads besides comes from around it."""
    types = types or {}
    return helper.make_graph(
        list(nodes), "sub",
        [helper.make_tensor_value_info(n, types.get(n, FLOAT), s) for n, s in (inputs or {}).items()],
        [helper.make_tensor_value_info(n, types.get(n, FLOAT), s) for n, s in outputs.items()],
        [numpy_helper.from_array(v, n) for n, v in (weights or {}).items()],
    )  # fmt: skip


def switch(
    name: str, condition: str, outputs: Sequence[str], then: onnx.GraphProto, other: onnx.GraphProto
) -> onnx.NodeProto:
    """An If."""
    return node("If", [condition], outputs, name, then_branch=then, else_branch=other)


def constant(name: str, value: Array) -> onnx.NodeProto:
    """A Constant node."""
    return node("Constant", [], [name], value=numpy_helper.from_array(value))


def nested(outer: bool, inner: bool | None = None) -> onnx.ModelProto:
    """An If of two outputs whose branches end in an If of two outputs, as torch.jit exports with a condition on rank.

    The outer condition is computed from a constant. So is the inner one where ``inner`` says which; else it is whether
    the input has one row. Both outer branches use the same names inside. The output ``w`` is a result given twice.
    """

    def branch(tag: str, sign: float) -> onnx.GraphProto:
        condition = [constant("is", np.array(bool(inner)))] if inner is not None else [
            node("Shape", ["x"], ["s"], f"{tag}_shape"), constant("zero", np.array([0])), constant("one", np.array([1])),
            node("Gather", ["s", "zero"], ["rows"], f"{tag}_gather"), node("Equal", ["rows", "one"], ["is"], f"{tag}_equal"),
        ]  # fmt: skip
        for one in condition:
            one.name = f"{tag}_{one.name}"
        low = subgraph(
            [node("Mul", ["h", "k"], ["p"], f"{tag}_p"), node("Neg", ["p"], ["q"], f"{tag}_q")], {"p": None, "q": None}
        )
        high = subgraph(
            [node("Abs", ["h"], ["p"], f"{tag}_p2"), node("Identity", ["k"], ["q"], f"{tag}_q2")],
            {"p": None, "q": None},
        )
        return subgraph(
            [
                node("Mul", ["x", "k"], ["h"], f"{tag}_h"), *condition,
                switch(f"{tag}_inner", "is", ["u", "v"], low, high),
            ],
            {"u": None, "v": None}, weights={"k": np.array([sign], np.float32)},
        )  # fmt: skip

    return build(
        [
            node("Relu", ["x"], ["r"]), node("Greater", ["c", "limit"], ["yes"]),
            switch("outer", "yes", ["a", "b"], branch("then", 2.0), branch("else", -3.0)),
            node("Add", ["a", "r"], ["y"]), node("Add", ["y", "b"], ["z"]),
            switch("twice", "yes", ["w", "w2"],
                   subgraph([node("Exp", ["r"], ["e"])], {"e": None, "e_again": None}, weights={"e_again": np.ones(1, np.float32)}),
                   subgraph([node("Neg", ["r"], ["n"]), node("Abs", ["r"], ["m"])], {"n": None, "m": None})),
            node("Mul", ["w", "w2"], ["product"]),
        ],
        {"x": ["n", 4]}, {"y": None, "z": None, "w": None, "product": None},
        {"c": np.array(1.0 if outer else 0.0, np.float32), "limit": np.array(0.5, np.float32)},
    )  # fmt: skip


def layers_in_branches(rate: int = INT64) -> onnx.ModelProto:
    """A convolution, then an If on a scalar input ``rate`` with Conv, MatMul and LSTM in its branches; two layers after.

    The branches read tensors and weights from around them. Inputs: ``x`` [n, 3, 16], ``rate`` a scalar of the type
    given; outputs ``y`` [n, 5], ``z`` [n, 8, 16].
    """
    number = helper.tensor_dtype_to_np_dtype(rate)
    lstm = {"wx": normal(1, 16, 8, seed=7, scale=0.3), "wr": normal(1, 16, 4, seed=8, scale=0.3)}
    fast = subgraph(
        [
            node("Conv", ["r", "w1"], ["t1"], "fast_conv", pads=[1, 1]), node("Transpose", ["t1"], ["t2"], "fast_t", perm=[2, 0, 1]),
            node("LSTM", ["t2", "wx", "wr"], ["", "t3"], "fast_lstm", hidden_size=4),
            node("Squeeze", ["t3", "first"], ["t4"], "fast_s"), node("Identity", ["t1"], ["t5"], "fast_i"),
        ],
        {"t4": None, "t5": None}, weights={"w1": normal(8, 8, 3, seed=6, scale=0.2), **lstm, "first": np.array([0])},
    )  # fmt: skip
    slow = subgraph(
        [
            node("ReduceMean", ["r"], ["m"], "slow_mean", axes=[2], keepdims=0), node("MatMul", ["m", "shared"], ["t4"], "slow_matmul"),
            node("Mul", ["r", "half"], ["t5"], "slow_half"),
        ],
        {"t4": None, "t5": None}, weights={"half": np.array(0.5, np.float32)},
    )  # fmt: skip
    return build(
        [
            node("Conv", ["x", "w0"], ["c"], "conv", pads=[1, 1]), node("Relu", ["c"], ["r"], "relu"),
            node("Cast", ["rate"], ["number"], to=FLOAT), node("Greater", ["number", "zero"], ["is_fast"]),
            switch("choice", "is_fast", ["t", "z"], fast, slow), node("MatMul", ["t", "w2"], ["y"], "head"),
        ],
        {"x": ["n", 3, 16], "rate": []}, {"y": ["n", 5], "z": ["n", 8, 16]},
        {"w0": normal(8, 3, 3, seed=5, scale=0.4), "shared": normal(8, 4, seed=9, scale=0.3), "w2": normal(4, 5, seed=10),
         "zero": np.array(0, np.float32)},
        types={"rate": helper.np_dtype_to_tensor_dtype(np.dtype(number))},
    )  # fmt: skip


def conv_in_loop(condition: bool = True) -> onnx.ModelProto:
    """Three passes of a convolution with weights from around the Loop; a constant sum is in its body.

    ``condition`` says whether the Loop is given the one to begin with, which ONNX lets it leave out.
    """
    body = subgraph(
        [
            node("Add", ["one", "one"], ["two"], "body_two"), node("Conv", ["carried", "w"], ["moved"], "body_conv", pads=[1, 1]),
            node("Div", ["moved", "two"], ["next"], "body_div"), node("Identity", ["go"], ["go_on"], "body_go"),
        ],
        {"go_on": [], "next": ["n", 4, 8]}, {"i": [], "go": [], "carried": ["n", 4, 8]}, {"one": np.array(1, np.float32)},
        types={"i": INT64, "go": BOOL, "go_on": BOOL},
    )  # fmt: skip
    return build(
        [
            node("Conv", ["x", "w"], ["first"], "conv", pads=[1, 1]),
            node("Loop", ["three", "true" if condition else "", "first"], ["y"], "loop", body=body),
        ],
        {"x": ["n", 4, 8]}, {"y": ["n", 4, 8]},
        {"w": normal(4, 4, 3, seed=1, scale=0.4), "three": np.array(3), "true": np.array(True)},
    )  # fmt: skip


def scan() -> onnx.ModelProto:
    """A recurrence written as a Scan: a state of [n, 4] over steps of [n, 6], with a MatMul for each of them."""
    body = subgraph(
        [
            node("MatMul", ["step", "wi"], ["a"], "step_in"), node("MatMul", ["state", "wh"], ["b"], "step_state"),
            node("Add", ["a", "b"], ["s"], "step_add"), node("Tanh", ["s"], ["state_out"], "step_tanh"),
            node("Identity", ["state_out"], ["seen"], "step_seen"),
        ],
        {"state_out": ["n", 4], "seen": ["n", 4]}, {"state": ["n", 4], "step": ["n", 6]},
        {"wh": normal(4, 4, seed=3, scale=0.4)},
    )  # fmt: skip
    return build(
        [
            node("MatMul", ["x", "w"], ["h"], "before"), node("Scan", ["state0", "h"], ["state1", "y"], "scan", body=body, num_scan_inputs=1),
        ],
        {"x": [5, "n", 6], "state0": ["n", 4]}, {"y": [5, "n", 4], "state1": ["n", 4]},
        {"w": normal(6, 6, seed=1, scale=0.4), "wi": normal(6, 4, seed=2, scale=0.4)},
    )  # fmt: skip


def with_state() -> onnx.ModelProto:
    """A step of a recurrent network: ``x`` [n, 32], ``state`` [2, n, 6] that is fed back, ``sr`` a scalar; as Silero's VAD."""
    weights = {"w0": normal(8, 1, 4, seed=1, scale=0.4), "w": normal(1, 24, 8, seed=2, scale=0.4), "r": normal(1, 24, 6, seed=3, scale=0.4),
               "head": normal(6, 1, seed=4)}  # fmt: skip
    numbers = {"middle": np.array([1]), "first": np.array([0]), "halves": np.array([1, 1]), "thousand": np.array(1000)}
    return build(
        [
            node("Unsqueeze", ["x", "middle"], ["xu"]), node("Conv", ["xu", "w0"], ["c"], "conv", strides=[4]), node("Relu", ["c"], ["a"]),
            node("Transpose", ["a"], ["t"], perm=[2, 0, 1]), node("Split", ["state", "halves"], ["h0", "c0"], axis=0),
            node("LSTM", ["t", "w", "r", "", "", "h0", "c0"], ["", "hn", "cn"], "lstm", hidden_size=6),
            node("Concat", ["hn", "cn"], ["stateN"], axis=0), node("Squeeze", ["hn", "first"], ["h"]),
            node("MatMul", ["h", "head"], ["m"], "head"), node("Div", ["sr", "thousand"], ["k"]), node("Cast", ["k"], ["kf"], to=FLOAT),
            node("Div", ["m", "kf"], ["d"]), node("Sigmoid", ["d"], ["y"]),
        ],
        {"x": ["n", 32], "state": [2, "n", 6], "sr": []}, {"y": ["n", 1], "stateN": [2, "n", 6]}, {**weights, **numbers},
        types={"sr": INT64},
    )  # fmt: skip
