"""Whole numbers that are rounded amounts are values, and those that were chosen are classes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.conftest import build, node, normal
from toolkit import Model
from toolkit.evaluation.guess import guess
from toolkit.evaluation.observe import observe
from toolkit.graph.sessions import session

NUMBERS = {"low": np.float32(0), "high": np.float32(255), "scale": np.float32(30), "middle": np.float32(120),
           "twice": np.float32([1, 1, 2, 2]), "first": np.array([0], np.int64), "one": np.int64(1)}  # fmt: skip
GREY = [node("Conv", ["x", "w"], ["c"], pads=[1] * 4), node("Mul", ["c", "scale"], ["m"]), node("Add", ["m", "middle"], ["a"]),
        node("Clip", ["a", "low", "high"], ["l"])]  # fmt: skip
CLASSES = [node("Conv", ["x", "v"], ["c"], pads=[1] * 4), node("ArgMax", ["c"], ["i"], axis=1)]


def tasks_of(nodes: list[onnx.NodeProto], kind: int, size: int = 16) -> set[str]:
    weights = {"w": normal(1, 3, 3, 3), "v": normal(100, 3, 3, 3), **NUMBERS}
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
        ([node("Resize", ["l", "", "twice"], ["r"], mode="linear"), node("Cast", ["r"], ["y"], to=TensorProto.UINT8)], 32),
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
