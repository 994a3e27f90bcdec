"""One value for each of several positions, which is no choice between classes, and vectors beside an axis of 1."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, run
from toolkit import Model
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.labels.label_fit import fitting_metrics
from toolkit.evaluation.observation.observe import observe

RNG = np.random.default_rng(0)


def layered(shape, given, *after, opset=17, **weights):
    """What is seen of a model that computes ``y`` of ``x``, a linear layer and what comes after it."""
    weights = {"v": RNG.standard_normal((given.shape[-1], 1)).astype(np.float32), **weights}
    nodes = [node("MatMul", ["x", "v"], ["m" if after else "y"]), *after]
    model = Model.from_proto(build(nodes, {"x": shape}, {"y": None}, weights, opset=opset))
    (made,) = run(model, {"x": given})
    return observe(model, [({"x": given}, {"y": made}, len(given) if isinstance(shape[0], str) else 1)])


@pytest.mark.parametrize("places", [24, 1])
def test_one_value_per_position_is_no_choice_between_classes(places):
    """A forecast of 24 hours, [n, 24, 1]: a row of one class would always keep its label."""
    looked = layered(["n", places, 8], RNG.standard_normal((40, places, 8)).astype(np.float32))
    found = guess(looked)
    assert [(part.task, part.outputs) for part in found.parts] == [("regression", ("y",))] and found.sure
    # to a metric of labels, 0 or 1 for each position, they are choices all the same
    labelled = guess(looked, "classification").parts[0]
    assert (labelled.task, labelled.settings["threshold"]) == ("classification", 0.0)


def test_classes_before_an_axis_of_1_that_a_pool_leaves_stay_classes():
    pool = node("GlobalAveragePool", ["c"], ["y"])
    nodes = [node("Conv", ["x", "w"], ["c"], pads=[1, 1]), pool]
    weights = {"w": RNG.standard_normal((10, 8, 3)).astype(np.float32)}
    model = Model.from_proto(build(nodes, {"x": ["n", 8, 24]}, {"y": ["n", 10, 1]}, weights))
    given = RNG.standard_normal((40, 8, 24)).astype(np.float32)
    (made,) = run(model, {"x": given})
    looked = observe(model, [({"x": given}, {"y": made}, 40)])
    found = guess(looked)
    assert [(part.task, part.settings["axis"]) for part in found.parts] == [("classification", -2), ("embedding", -2)]
    # a label a sample names one of ten
    labels = list(made.argmax(axis=1)[:, 0])
    assert "top1" in {one.metric for one in fitting_metrics(looked, guess(looked, "classification"), labels)}


ONE_EACH = {
    "relu": ([8, 1], [node("MatMul", ["x", "v"], ["m"]), node("Relu", ["m"], ["y"])], "regression"),
    "transposed weight": ([1, 8], [node("Transpose", ["v"], ["w"]), node("MatMul", ["x", "w"], ["y"])], "regression"),
    "weight of another type": ([8, 1], [node("Cast", ["v"], ["w"], to=1), node("MatMul", ["x", "w"], ["y"])], "regression"),
    "filter": (
        [1, 8, 3], [node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("Conv", ["t", "v"], ["y"], pads=[1, 1])],
        "regression",
    ),
    "filter, turned": (
        [1, 8, 3], [node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("Conv", ["t", "v"], ["c"], pads=[1, 1]),
                    node("Transpose", ["c"], ["y"], perm=[0, 2, 1])], "regression",
    ),
    "added to the last": (
        [8, 1], [node("MatMul", ["x", "v"], ["m"]), node("ReduceMean", ["x"], ["r"], axes=[2]), node("Add", ["m", "r"], ["y"])],
        "regression",
    ),
    "classes, each of a row": (
        [5, 8], [node("ReduceMean", ["x"], ["r"], axes=[1]), node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
                 node("MatMul", ["v", "t"], ["y"])], "classification",
    ),
    "classes with an axis more": (
        [8, 5], [node("ReduceMean", ["x"], ["r"], axes=[1], keepdims=0), node("MatMul", ["r", "v"], ["m"]),
                 node("Unsqueeze", ["m", "last"], ["y"])], "classification",
    ),
}  # fmt: skip


@pytest.mark.parametrize("places", [24, 400])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("way", ONE_EACH)
def test_a_layer_of_one_channel_gives_one_value_per_position(way, dynamic, places):
    """Whatever is done to each value after it, and whichever axis of 1 it has; a layer of several gives classes."""
    shape, nodes, task = ONE_EACH[way]
    weights = {"v": RNG.standard_normal(shape).astype(np.float32), "last": np.int64([2])}
    given = RNG.standard_normal((40, places, 8)).astype(np.float32)
    model = Model.from_proto(build(nodes, {"x": ["n", "t" if dynamic else places, 8]}, {"y": None}, weights))
    (made,) = run(model, {"x": given})
    found = guess(observe(model, [({"x": given}, {"y": made}, 40)]))
    assert [part.task for part in found.parts] == [task] and found.sure
    assert task == "regression" or found.parts[0].settings["axis"] == -2
