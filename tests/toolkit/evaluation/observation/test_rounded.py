"""Whole numbers that are rounded amounts are values, and those that were chosen are classes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.conftest import build, node, normal
from toolkit import Model
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.observation.observe import observe
from toolkit.evaluation.observation.rounded import _digits, quantized
from toolkit.graph.sessions.session import session

NUMBERS = {"low": np.float32(0), "high": np.float32(255), "scale": np.float32(30), "middle": np.float32(120),
           "twice": np.float32([1, 1, 2, 2]), "first": np.array([0], np.int64), "one": np.int64(1), "ten": np.int64(10),
           "digits": np.float32([1, 5, 25]).reshape(1, 3, 1, 1), "two": np.float32(2), "channels": np.array([1], np.int64),
           "grey": np.float32([0.0722, 0.2126, 0.7152]).reshape(1, 3, 1, 1)}  # fmt: skip
GREY = [node("Conv", ["x", "w"], ["c"], pads=[1] * 4), node("Mul", ["c", "scale"], ["m"]), node("Add", ["m", "middle"], ["a"]),
        node("Clip", ["a", "low", "high"], ["l"])]  # fmt: skip
CLASSES = [node("Conv", ["x", "v"], ["c"], pads=[1] * 4), node("ArgMax", ["c"], ["i"], axis=1)]


def tasks_of(nodes: list[onnx.NodeProto], kind: int, size: int = 16) -> set[str]:
    weights = {"w": normal(1, 3, 3, 3), "v": normal(100, 3, 3, 3), "v1": normal(10, 3, 3, 3), "v2": normal(10, 3, 3, 3, seed=1),
               "z": normal(3, 3, 3, 3), **NUMBERS}  # fmt: skip
    used = {name for one in nodes for name in one.input}
    given = {name: value for name, value in weights.items() if name in used}
    proto = build(nodes, {"x": ["n", 3, 16, 16]}, {"y": ["n", 1, size, size]}, given)
    proto.graph.output[0].type.tensor_type.elem_type = kind
    model, runs = Model.from_proto(proto), []
    for seed in range(4):
        feed = {"x": normal(1, 3, 16, 16, seed=seed)}
        runs.append((feed, dict(session(model).run(feed)), 1))
    assert len(np.unique([run[1]["y"] for run in runs])) > 64
    return {part.task for part in guess(observe(model, runs)).parts}


@pytest.mark.parametrize(
    ("tail", "size"),
    [
        ([node("Round", ["l"], ["r"]), node("Cast", ["r"], ["y"], to=TensorProto.UINT8)], 16),
        ([node("Cast", ["l"], ["y"], to=TensorProto.UINT8)], 16),
        (
            [
                node("Resize", ["l", "", "twice"], ["r"], mode="linear"),
                node("Cast", ["r"], ["y"], to=TensorProto.UINT8),
            ],
            32,
        ),
    ],
    ids=["rounded", "truncated", "enlarged"],
)
def test_the_grey_levels_of_a_picture_are_values(tail: list[onnx.NodeProto], size: int) -> None:
    assert tasks_of([*GREY, *tail], TensorProto.UINT8, size) == {"regression"}


@pytest.mark.parametrize(
    ("tail", "size"),
    [
        ([node("Cast", ["i"], ["y"], to=TensorProto.UINT8)], 16),
        ([node("Add", ["i", "one"], ["a"]), node("Cast", ["a"], ["y"], to=TensorProto.UINT8)], 16),
        ([node("Cast", ["i"], ["f"], to=TensorProto.FLOAT), node("Resize", ["f", "", "twice"], ["r"], mode="nearest"),
          node("Cast", ["r"], ["y"], to=TensorProto.UINT8)], 32),
    ],
    ids=["chosen", "counted from 1", "enlarged"],
)  # fmt: skip
def test_a_map_of_many_classes_is_a_mask(tail: list[onnx.NodeProto], size: int) -> None:
    assert tasks_of([*CLASSES, *tail], TensorProto.UINT8, size) == {"segmentation"}


LEVELS = [node("Conv", ["x", "z"], ["c"], pads=[1] * 4), node("Tanh", ["c"], ["t"]), node("Mul", ["t", "two"], ["m"]),
          node("Round", ["m"], ["l"]), node("Add", ["l", "two"], ["a"]), node("Mul", ["a", "digits"], ["d"])]  # fmt: skip


@pytest.mark.parametrize(
    "code",
    [
        [node("Conv", ["x", "v1"], ["c"], pads=[1] * 4), node("ArgMax", ["c"], ["i"], axis=1),
         node("Conv", ["x", "v2"], ["d"], pads=[1] * 4), node("ArgMax", ["d"], ["j"], axis=1),
         node("Mul", ["i", "ten"], ["t"]), node("Add", ["t", "j"], ["a"]), node("Cast", ["a"], ["y"], to=TensorProto.INT32)],
        [*LEVELS, node("ReduceSum", ["d", "channels"], ["n"]), node("Cast", ["n"], ["y"], to=TensorProto.INT32)],
    ],
    ids=["two classes", "levels of several channels (FSQ, arXiv 2309.15505)"],
)  # fmt: skip
def test_a_code_of_several_digits_is_no_amount(code: list[onnx.NodeProto]) -> None:
    assert tasks_of(code, TensorProto.INT32) == {"segmentation"}


COLOURS = [node("Conv", ["x", "z"], ["c"], pads=[1] * 4), node("Mul", ["c", "scale"], ["m"]), node("Add", ["m", "middle"], ["a"]),
           node("Clip", ["a", "low", "high"], ["l"]), node("Round", ["l"], ["r"])]  # fmt: skip


@pytest.mark.parametrize(
    "mix",
    [
        [node("Mul", ["r", "grey"], ["g"]), node("ReduceSum", ["g", "channels"], ["s"])],
        [node("Conv", ["x", "w"], ["e"], pads=[1] * 4), node("Round", ["e"], ["f"]), node("ReduceSum", ["r", "channels"], ["g"]),
         node("Add", ["g", "f"], ["s"])],
    ],
    ids=["a grey of rounded colours (BT.709)", "a rounded rest on top"],
)  # fmt: skip
def test_rounded_amounts_that_are_added_up_are_amounts(mix: list[onnx.NodeProto]) -> None:
    ends = [node("Clip", ["s", "low", "high"], ["t"]), node("Cast", ["t"], ["y"], to=TensorProto.UINT8)]
    assert tasks_of([*COLOURS, *mix, *ends], TensorProto.UINT8) == {"regression"}


@pytest.mark.parametrize(
    "mix",
    [
        [node("Sigmoid", ["c"], ["o"]), node("Mul", ["c", "o"], ["p"])],
        [node("Greater", ["c", "two"], ["b"]), node("Cast", ["b"], ["o"], to=TensorProto.FLOAT), node("Sub", ["c", "o"], ["p"])],
        [node("ReduceMean", ["x"], ["o"], axes=[1]), node("Add", ["c", "o"], ["p"])],
    ],
    ids=["gated", "a mask off", "added to the input"],
)  # fmt: skip
def test_amounts_stay_amounts_when_they_are_mixed(mix: list[onnx.NodeProto]) -> None:
    grey = [
        node("Mul", ["p", "scale"], ["m"]),
        node("Add", ["m", "middle"], ["a"]),
        node("Clip", ["a", "low", "high"], ["l"]),
    ]
    nodes = [GREY[0], *mix, *grey, node("Cast", ["l"], ["y"], to=TensorProto.UINT8)]
    assert tasks_of(nodes, TensorProto.UINT8) == {"regression"}


@pytest.mark.parametrize(
    ("weights", "digits"),
    [([1, 10, 100], True), ([25, 1, 5], True), ([1, 1], False), ([0.0722, 0.2126, 0.7152], False), ([1, np.inf], False),
     ([1, np.nan], False), ([1e-320, 1e308], False), ([], False)],
)  # fmt: skip
def test_weights_of_digits_are_multiples_and_numbers(weights: list[float], digits: bool) -> None:
    assert _digits([float(one) for one in weights]) is digits


@pytest.mark.parametrize("last", [[], [node("Reshape", ["q", "flat"], ["y"])]], ids=["plain", "reshaped"])
def test_quantized_scores_are_judged_as_scores(last: list[onnx.NodeProto]) -> None:
    out = "q" if last else "y"
    nodes = [
        node("Gemm", ["x", "w"], ["s"]),
        node("Softmax", ["s"], ["p"]),
        node("QuantizeLinear", ["p", "step", "zero"], [out]),
    ]
    weights = {"w": normal(8, 6), "step": np.float32(1 / 16), "zero": np.uint8(0)}
    proto = build([*nodes, *last], {"x": ["n", 8]}, {"y": ["n", 6]}, {**weights, **({"flat": np.array([-1, 6])} if last else {})},
                  types={"y": TensorProto.UINT8})  # fmt: skip
    model = Model.from_proto(proto)
    runs = [(feed, dict(session(model).run(feed)), 1) for feed in ({"x": normal(1, 8, seed=seed)} for seed in range(8))]
    assert len(np.unique([run[1]["y"] for run in runs])) < 20
    (part,) = guess(observe(model, runs)).parts
    assert part.task == "classification" and part.settings["quantized"] == [[1 / 16, 0]]
    wanted, close, other = (
        np.array([row], np.uint8) for row in ([1, 9, 2, 3, 0, 1], [2, 8, 2, 3, 1, 0], [9, 1, 2, 3, 0, 1])
    )
    for found, kept in ((close, 1), (other, 0)):
        assert Answers([part]).rows({"y": wanted}, {"y": found})[0]["right"].tolist() == [kept]


def test_an_omitted_zero_point_is_0() -> None:
    weights = {"w": normal(8, 6), "step": np.float32(1 / 16)}
    nodes = [node("Gemm", ["x", "w"], ["s"]), node("QuantizeLinear", ["s", "step", ""], ["y"])]
    model = Model.from_proto(build(nodes, {"x": ["n", 8]}, {"y": ["n", 6]}, weights, types={"y": TensorProto.UINT8}))
    assert quantized(model, model.graph.outputs[0]) == (1 / 16, 0.0)
