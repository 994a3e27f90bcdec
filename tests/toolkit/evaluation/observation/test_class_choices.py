"""Outputs beside what is made of them: scores by which a model chooses classes, and features that it computes with."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, run
from toolkit import Model
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.observation.observe import observe

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("after", "task"), [("GlobalAveragePool", "regression"), ("Softmax", "segmentation"), ("ArgMax", "segmentation")]
)
def test_maps_that_other_outputs_are_computed_from_are_features_unless_these_choose_by_them(after, task):
    """A hidden layer that is returned beside the scores made of it; logits of pixels beside their shares or classes."""
    nodes = [node("Conv", ["x", "w"], ["maps"], pads=[1, 1, 1, 1])]
    nodes += [node(after, ["maps"], ["y"], **({} if after == "GlobalAveragePool" else {"axis": 1}))]
    weights = {"w": RNG.standard_normal((7, 1, 3, 3)).astype(np.float32)}
    proto = build(
        nodes, {"x": ["n", 1, 16, 16]}, {"maps": None, "y": None}, weights, types={"y": 7 if after == "ArgMax" else 1}
    )
    given = RNG.standard_normal((20, 1, 16, 16)).astype(np.float32)
    values = dict(zip(("maps", "y"), run(Model.from_proto(proto), {"x": given}), strict=True))
    found = guess(observe(Model.from_proto(proto), [({"x": given}, values, 20)]))
    assert next(part.task for part in found.parts if part.outputs == ("maps",)) == task


def _shares(*after):
    return [node("Softmax", ["maps"], ["p"], axis=1), *after]


MADE_OF_MAPS = {
    "areas of classes": (_shares(node("GlobalAveragePool", ["p"], ["y"])), "segmentation"),
    "which classes there are": ([node("GlobalMaxPool", ["maps"], ["g"]), node("Sigmoid", ["g"], ["y"])], "segmentation"),
    "confidence": (_shares(node("ReduceMax", ["p"], ["y"], axes=[1], keepdims=0)), "segmentation"),
    "one class": (_shares(node("Slice", ["p", "one", "two", "one"], ["y"])), "segmentation"),
    "a larger map": ([node("Resize", ["maps", "", "scales"], ["y"], mode="linear")], "segmentation"),
    "maps that shares help to make": (
        _shares(node("Concat", ["p", "x"], ["both"], axis=1), node("Conv", ["both", "u"], ["y"], pads=[1, 1, 1, 1])), "segmentation",
    ),
    "scores of a hidden layer": (
        [node("Sigmoid", ["maps"], ["gate"]), node("Mul", ["maps", "gate"], ["silu"]),
         node("GlobalAveragePool", ["silu"], ["g"]), node("Flatten", ["g"], ["y"])], "regression",
    ),
    "a label of a hidden layer": (
        [node("GlobalAveragePool", ["maps"], ["g"]), node("Flatten", ["g"], ["f"]), node("MatMul", ["f", "v"], ["s"]),
         node("ArgMax", ["s"], ["y"], axis=1, keepdims=0)], "regression",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MADE_OF_MAPS)
def test_outputs_made_of_choices_among_channels_show_that_these_are_classes(what):
    """Areas, presence and confidences are chosen place by place; what a layer of weights or a mean makes is not."""
    after, task = MADE_OF_MAPS[what]
    weights = {"w": RNG.standard_normal((7, 1, 3, 3)).astype(np.float32), "v": RNG.standard_normal((7, 3)).astype(np.float32),
               "u": RNG.standard_normal((7, 8, 3, 3)).astype(np.float32), "one": np.int64([1]), "two": np.int64([2]), "scales": np.float32([1, 1, 2, 2])}  # fmt: skip
    nodes = [node("Conv", ["x", "w"], ["maps"], pads=[1, 1, 1, 1]), *after]
    types = {"y": 7 if after[-1].op_type == "ArgMax" else 1}
    model = Model.from_proto(build(nodes, {"x": ["n", 1, 16, 16]}, {"maps": None, "y": None}, weights, types=types))
    given = RNG.standard_normal((20, 1, 16, 16)).astype(np.float32)
    values = dict(zip(("maps", "y"), run(model, {"x": given}), strict=True))
    found = guess(observe(model, [({"x": given}, values, 20)]))
    assert next(part.task for part in found.parts if part.outputs == ("maps",)) == task


BESIDE_SCORES = {
    "confidence of the best": [node("Softmax", ["scores"], ["p"], axis=1), node("ReduceMax", ["p"], ["y"], axes=[1])],
    "the best itself": [node("ReduceMax", ["scores"], ["y"], axes=[1])],
    "energy": [node("ReduceLogSumExp", ["scores"], ["y"], axes=[1])],
    "mean of classes that are numbers": [
        node("Softmax", ["scores"], ["p"], axis=1),
        node("MatMul", ["p", "ages"], ["y"]),
    ],
}


@pytest.mark.parametrize("what", BESIDE_SCORES)
def test_scores_beside_what_their_best_or_shares_make_stay_scores(what):
    nodes = [node("Gemm", ["x", "w"], ["scores"]), *BESIDE_SCORES[what]]
    weights = {"w": RNG.standard_normal((8, 10)).astype(np.float32), "ages": np.arange(10, dtype=np.float32)[:, None]}
    model = Model.from_proto(build(nodes, {"x": ["n", 8]}, {"scores": None, "y": None}, weights))
    given = RNG.standard_normal((40, 8)).astype(np.float32)
    values = dict(zip(("scores", "y"), run(model, {"x": given}), strict=True))
    found = guess(observe(model, [({"x": given}, values, 40)]))
    assert [part.task for part in found.parts if part.outputs == ("scores",)] == ["classification"]


def test_a_map_of_one_channel_beside_its_largest_value_may_be_a_mask():
    """Where something is wrong, and how much: of one channel nothing is chosen, and a hidden layer has more."""
    nodes = [node("Conv", ["x", "w"], ["map"], pads=[1, 1, 1, 1]), node("GlobalMaxPool", ["map"], ["y"])]
    weights = {"w": RNG.standard_normal((1, 1, 3, 3)).astype(np.float32)}
    model = Model.from_proto(build(nodes, {"x": ["n", 1, 16, 16]}, {"map": None, "y": None}, weights))
    given = RNG.standard_normal((20, 1, 16, 16)).astype(np.float32)
    values = dict(zip(("map", "y"), run(model, {"x": given}), strict=True))
    found = guess(observe(model, [({"x": given}, values, 20)]))
    assert {part.task for part in found.parts if part.outputs == ("map",)} == {"segmentation", "regression"}
