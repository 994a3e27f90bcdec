"""Where a layer has its channels, through what comes after it: classes of positions lie there."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit import Model
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.observation.layer_channels import layer_channels
from toolkit.evaluation.observation.observe import observe
from toolkit.graph.sessions.session import session

WEIGHTS = {
    "w": normal(5, 5, 3),
    "v": normal(5, 5, 3, 3),
    "m": normal(5, 5),
    "b": normal(1),
    "last": np.int64([3]),
    "mid": np.int64([-2]),
}
CONV, WIDE, PRODUCT = (node("Conv", ["x", "w"], ["c"], pads=[1, 1]), node("Conv", ["x", "v"], ["c"], pads=[1] * 4),
                       node("MatMul", ["x", "m"], ["c"]))  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "rank", "axis"),
    [
        ([CONV, node("Identity", ["c"], ["y"])], 3, -2),
        ([CONV, node("Add", ["c", "b"], ["a"]), node("Softmax", ["a"], ["y"], axis=1)], 3, -2),
        ([CONV, node("Transpose", ["c"], ["y"], perm=[0, 2, 1])], 3, -1),
        ([WIDE, node("Squeeze", ["c", "last"], ["y"])], 4, -2),
        ([WIDE, node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]), node("Squeeze", ["t", "mid"], ["y"])], 4, -1),
        ([WIDE, node("Squeeze", ["c", "last"], ["s"]), node("Transpose", ["s"], ["y"], perm=[2, 0, 1])], 4, -1),
        ([WIDE, node("Sigmoid", ["c"], ["y"])], 4, -3),
        ([PRODUCT, node("Add", ["c", "b"], ["y"])], 3, -1),
        ([PRODUCT, node("Transpose", ["c"], ["y"], perm=[0, 2, 1])], 3, -2),
        ([PRODUCT, node("Transpose", ["c"], ["y"])], 3, None),
        ([PRODUCT, node("Squeeze", ["c", "last"], ["y"])], 4, None),
        ([CONV, node("Add", ["c", "x"], ["y"])], 3, None),
        ([node("MatMul", ["x", "x"], ["y"])], 3, None),
        ([node("Relu", ["x"], ["y"])], 3, None),
    ],
)
def test_channels_are_followed_through_what_comes_after_their_layer(nodes, rank, axis):
    shape = ["n", 5, 5, 1][:rank]
    read = {name for one in nodes for name in one.input}
    proto = build(nodes, {"x": shape}, {"y": None}, {name: value for name, value in WEIGHTS.items() if name in read})
    model = Model.from_proto(proto)
    assert layer_channels(model, model.graph.outputs[0]) == axis


@pytest.mark.parametrize("first", [True, False], ids=["channels first", "channels last"])
@pytest.mark.parametrize("smooth", [True, False], ids=["smooth features", "noise"])
def test_a_tagger_of_fixed_length_has_its_classes_where_its_layer_has_them(first, smooth):
    """As many tags as features, and an output that says nothing: neither extents nor names tell."""
    features, length = 16, 20
    last = (
        [node("Transpose", ["l"], ["output"], perm=[0, 2, 1])] if not first else [node("Identity", ["l"], ["output"])]
    )
    nodes = [
        node("Conv", ["x", "w"], ["h"], pads=[1, 1]),
        node("Relu", ["h"], ["r"]),
        node("Conv", ["r", "v"], ["l"]),
        *last,
    ]
    shape = ["n", features, length] if first else ["n", length, features]
    weights = {"w": normal(32, features, 3), "v": normal(features, 32, 1, seed=1)}
    model = Model.from_proto(build(nodes, {"x": ["n", features, length]}, {"output": shape}, weights))
    given = [normal(1, features, length, seed=i) for i in range(8)]
    given = [{"x": np.cumsum(one, axis=2, dtype=np.float32) if smooth else one} for one in given]
    loaded = session(model)
    found = guess(observe(model, [(one, loaded.run(one), 1) for one in given]))
    (part,) = [part for part in found.parts if part.task == "sequence"]
    assert part.settings["axis"] == (-2 if first else -1)
