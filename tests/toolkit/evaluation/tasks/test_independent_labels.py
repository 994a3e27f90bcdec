"""Independent labels and masks: sigmoids that add up to 1, logits of masks that overlap, masks of unlike sizes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal, run
from toolkit import Model
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.observation.observe import observe
from toolkit.evaluation.tasks import OutputPart, chooses_class, reader
from toolkit.report.findings import sentence

SHAPES = {"a sample": (40, 6), "a position": (40, 6, 12), "a place": (40, 6, 16, 16)}


def parts(op, shape, gain):
    """How the outputs of an operator are read whose scores are far apart: each sample has one class, at any place."""
    positions = (shape[0], *shape[2:])
    chosen = np.random.default_rng(0).integers(0, shape[1], positions)
    x = np.moveaxis(np.where(np.arange(shape[1]) == chosen[..., None], 1.0, -1.0), -1, 1)
    x = (x + normal(*shape, seed=1, scale=0.01)).astype(np.float32)
    sizes = ["n", *shape[1:]]
    nodes = [node("Mul", ["x", "gain"], ["z"]), node(op, ["z"], ["y"], **({"axis": 1} if op == "Softmax" else {}))]
    model = Model.from_proto(build(nodes, {"x": sizes}, {"y": sizes}, {"gain": np.float32(gain)}))
    (y,) = run(model, {"x": x})
    assert np.allclose(y.sum(axis=1), 1.0, atol=1e-2)
    found = guess(observe(model, [({"x": x}, {"y": y}, shape[0])])).parts
    # of a map of many channels nothing else tells that it holds no values, so that these are judged too
    assert found[0].task != "regression"
    return [part for part in found if part.task != "regression"]


@pytest.mark.parametrize("shape", SHAPES)
def test_sigmoids_that_add_up_to_1_hold_each_by_itself(shape):
    for part in parts("Sigmoid", SHAPES[shape], 12.0):
        assert part.settings["threshold"] == 0.5 and not chooses_class(part)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_softmax_of_the_same_scores_chooses_one(shape):
    for part in parts("Softmax", SHAPES[shape], 12.0):
        assert "threshold" not in part.settings and part.settings["axis"] == 1 - len(SHAPES[shape])


def logits_of(kind, samples=6, side=24, classes=3):
    """Logits [samples, classes, side, side] of masks that are nested, of masks apart, or of exclusive classes."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[:side, :side]
    far = np.stack([np.hypot(y - cy, x - cx) for cy, cx in random.uniform(8, 16, (samples, 2))])
    noise = 0.3 * random.standard_normal((samples, classes, side, side))
    if kind == "nested":
        return np.stack([radius - far for radius in (7.0, 5.0, 3.0)], axis=1) + noise
    areas = np.digitize(far, (3.0, 6.0))
    scores = 4.0 * (areas[:, None] == np.arange(classes)[:, None, None]) + noise
    # softmax is the same if all logits of a pixel move together, as they may in training
    return scores - {"exclusive": 4.0 / classes, "drifted": 2.5}[kind]


@pytest.mark.parametrize("kind", ["nested", "exclusive", "drifted"])
def test_logits_of_masks_that_overlap_are_masks_of_their_own(kind):
    """The argmax over nested masks is that of near ties, and means nothing."""
    y = logits_of(kind).astype(np.float32)
    sizes = ["n", *y.shape[1:]]
    model = Model.from_proto(build([node("Identity", ["x"], ["masks"])], {"x": sizes}, {"masks": sizes}))
    found = guess(observe(model, [({"x": y}, {"masks": y}, len(y))])).parts
    (part,) = [part for part in found if part.task == "segmentation"]
    assert part.settings["axis"] == -3
    assert part.settings.get("threshold") == (0.0 if kind == "nested" else None)


def test_each_of_several_masks_counts_however_large_the_others_are():
    scores = np.full((2, 3, 40, 40), -1.0, np.float32)
    scores[:, 0, :36], scores[:, 1, :4, :4], scores[0, 2, 9, :] = 1.0, 1.0, 1.0
    part = OutputPart("segmentation", ("masks",), {"batch_axis": 0, "axis": -3, "threshold": 0.0})
    task = reader(part)
    assert "the mean over channels, each a mask of its own" in sentence(task.rule())

    def levels(found):
        return task.compare([scores], [found])["level"]

    assert levels(scores).tolist() == [1.0, 1.0]
    lost = scores.copy()
    lost[:, 1] = -1.0
    # together, 16 of 1,456 pixels would be lost: an IoU of 0.989; the third mask of the second sample is empty
    assert levels(lost) == pytest.approx([2 / 3, 1 / 2])
    broken = scores.copy()
    broken[1, 2, 0, 0] = np.nan
    assert levels(broken).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("count", "kept"), [(3, False), (21, False), (40, False), (60, True)])
@pytest.mark.parametrize("several", [True, False])
def test_one_mask_or_class_of_many_that_is_lost_shows_though_the_mean_suffices(count, several, kept):
    """One of 21 leaves a mean of 0.952. In a crowd of 50 or more one may be lost, as of detections."""
    owner = np.repeat(np.arange(count), 16).reshape(1, 1, count, 16)
    scores = np.where(owner == np.arange(count)[None, :, None, None], 1.0, -1.0).astype(np.float32)
    scores = np.repeat(scores, 2, axis=0)
    settings = {"batch_axis": 0, "axis": -3, **({"threshold": 0.0} if several else {})}
    task = reader(OutputPart("segmentation", ("masks",), settings))
    assert task.compare([scores], [scores])["right"].tolist() == [1.0, 1.0]
    lost = scores.copy()
    lost[1, 1] = -2.0
    rows = task.compare([scores], [lost])
    assert rows["right"].tolist() == [1.0, float(kept)]
    assert (rows["level"] >= 0.95).tolist() == [True, kept]
    what = "masks" if several else "classes"
    assert f"at least 98.0 % of the {what} have an IoU of 0.5 or more" in sentence(task.rule())
