"""Numbers beside chosen boxes: classes and places, which distinct values alone do not tell apart."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node
from toolkit import Model
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.numerics.boxes import detections
from toolkit.evaluation.observation.chosen_columns import chosen_column
from toolkit.evaluation.observation.observe import observe
from toolkit.graph.sessions.session import session

CLASSES, ANCHORS = 40, 60


def suppressing(numbers):
    """A model that gives the chosen boxes, and the numbers that the nodes compute as ``numbers``."""
    nodes = [
        node("NonMaxSuppression", ["boxes", "scores", "most", "iou", "least"], ["rows"]),
        node("Gather", ["rows", "two"], ["column"], axis=1),
        node("Squeeze", ["column", "axis"], ["chosen"]),
        node("Squeeze", ["boxes", "first"], ["all"]),
        node("Gather", ["all", "chosen"], ["kept"], axis=0),
        *numbers,
    ]
    constants = {
        "most": np.int64([2]), "iou": np.float32([0.5]), "least": np.float32([0.5]), "one": np.int64([1]), "two": np.int64([2]),
        "three": np.int64([3]), "axis": np.int64([1]), "first": np.int64([0]), "each": np.int64([1, 1, 1]),
        "both": np.int64([0, 1]), "many": np.int64([99]), "anchors": np.int64([ANCHORS]),
    }  # fmt: skip
    inputs = {"boxes": [1, ANCHORS, 4], "scores": [1, CLASSES, ANCHORS]}
    return Model.from_proto(build(nodes, inputs, {"kept": ["k", 4], "numbers": ["k"]}, constants, types={"numbers": 7}))


WAYS = {
    "by column": ([node("Gather", ["rows", "one"], ["c"], axis=1), node("Squeeze", ["c", "axis"], ["numbers"])], "class"),
    "by slice": (
        [node("Slice", ["rows", "one", "two", "axis"], ["c"]), node("Squeeze", ["c", "axis"], ["numbers"])], "class",
    ),
    "by split": (
        [node("Split", ["rows", "each"], ["s", "c", "p"], axis=1), node("Squeeze", ["c", "axis"], ["numbers"])], "class",
    ),
    "by the best class": (
        [node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0), node("Squeeze", ["best", "first"], ["labels"]),
         node("Gather", ["labels", "chosen"], ["numbers"], axis=0)], "class",
    ),
    "by the best class, of TopK": (
        [node("TopK", ["scores", "one"], ["most_likely", "best"], axis=1), node("Squeeze", ["best", "both"], ["labels"]),
         node("Gather", ["labels", "chosen"], ["numbers"], axis=0)], "class",
    ),
    "by column, the first of them": (
        [node("Gather", ["rows", "one"], ["c"], axis=1), node("Squeeze", ["c", "axis"], ["s"]),
         node("Slice", ["s", "first", "many", "first"], ["numbers"])], "class",
    ),
    "places among those before the likeliest were taken": (
        [node("ReduceMax", ["scores"], ["top"], axes=[0, 1], keepdims=0), node("TopK", ["top", "anchors"], ["t", "before"]),
         node("Gather", ["before", "chosen"], ["numbers"], axis=0)], "",
    ),
    "places": ([node("Identity", ["chosen"], ["numbers"])], "place"),
    "places by slice": (
        [node("Slice", ["rows", "two", "three", "axis"], ["c"]), node("Squeeze", ["c", "axis"], ["numbers"])], "place",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_classes_that_occur_once_a_sample_are_no_places(way):
    numbers, column = WAYS[way]
    model = suppressing(numbers)
    assert chosen_column(model, model.graph.outputs[1]) == column
    draw, batches, run = np.random.default_rng(1), [], session(model).run
    for count in (3, 4, 5, 2, 6, 3):
        low = 20.0 * np.arange(ANCHORS)[None, :, None] + np.zeros((1, ANCHORS, 2))
        boxes = np.concatenate([low, low + 10], axis=-1).astype(np.float32)
        scores = np.zeros((1, CLASSES, ANCHORS), np.float32)
        held = draw.choice(np.arange(8, CLASSES), count, replace=False)
        scores[0, held, draw.choice(np.arange(8, ANCHORS), count, replace=False)] = draw.uniform(0.6, 0.9, count)
        given = {"boxes": boxes, "scores": scores}
        made = run(given)
        assert sorted(made["numbers"]) == sorted(held) or column != "class"
        batches.append((given, made, 1))
    (part,) = guess(observe(model, batches)).parts
    assert part.task == "detection" and part.settings["chosen"] == ("classes" if column == "class" else "places")
    # a class that changes is another detection, a place that moves with its box is not
    values = [batches[0][1][name] for name in part.outputs]
    found = detections([value[None] for value in values], part.settings, 0.5)[0]
    assert set(found.classes) == (set(values[1]) if column == "class" else {0})
