"""How a detector's scores are read, places of boxes alone, and rows that are ranked by score."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node
from tests.toolkit.evaluation.guessing.test_guess import boxes, out, seen, softmax
from toolkit import Model
from toolkit.base.errors import RecipeError
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outputs import OutputComparison
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.guessing.judged import judged_by
from toolkit.evaluation.labels.label_fit import fitting_metrics
from toolkit.evaluation.metrics.boxes import MeanAveragePrecision
from toolkit.evaluation.metrics.options import options_for
from toolkit.evaluation.numerics.boxes import detections
from toolkit.evaluation.observation.observe import observe
from toolkit.evaluation.observation.observed import SeenOutput
from toolkit.evaluation.tasks import OutputPart, reader
from toolkit.report.findings import sentence
from toolkit.run.recipe.sections import BudgetSection
from toolkit.run.steps.accuracy import accuracy_of

DRAW = np.random.default_rng(5)


def queries(classes, empty, samples=12, count=5, gain=12.0):
    """Logits of queries, the class that each holds, and that class: ``empty`` where it holds none."""
    holds = DRAW.integers(0, classes, (samples, count))
    holds[DRAW.random((samples, count)) < 0.4] = empty
    logits = DRAW.standard_normal((samples, count, classes)) + gain * np.eye(classes)[holds]
    return logits.astype(np.float32), holds


def centred(samples=12, count=5):
    middle = DRAW.uniform(0.3, 0.7, (samples, count, 2))
    return np.concatenate([middle, DRAW.uniform(0.1, 0.4, (samples, count, 2))], axis=-1).astype(np.float32)


@pytest.mark.parametrize(("classes", "empty"), [(4, 3), (4, 0), (3, 2), (92, 91)])
@pytest.mark.parametrize("shares", [False, True])
def test_of_few_queries_the_class_of_no_object_is_told_from_the_others(classes, empty, shares):
    """Although most queries hold an object, and by a softmax, within the graph or after it."""
    logits, holds = queries(classes, empty)
    scores = softmax(logits) if shares else logits
    given = out("logits", scores.astype(np.float32), "Softmax" if shares else "Add")
    found = guess(seen(out("pred_boxes", centred(), "Sigmoid"), given))
    (part,) = found.parts
    assert part.task == "detection" and part.settings["background"] == empty
    assert part.settings.get("activation") == (None if shares else "softmax")
    told = sentence(reader(part).rule())
    assert f"class {empty} as «no object»" in told and ("by softmax" in told) is not shares
    values = [np.asarray(one.samples, np.float32) for one in (out("b", centred()), given)]
    real = [sorted(row[row != empty].tolist()) for row in holds]
    assert [
        sorted(one.classes.tolist()) for one in detections(values, {**part.settings, "format": "xyxy"}, 0.5)
    ] == real


@pytest.mark.parametrize("count", [5, 100])
def test_independent_classes_have_none_of_no_object(count):
    """Where nothing is, every logit is below 0 (focal loss)."""
    holds = DRAW.random((12, count)) < 0.4
    logits = (
        DRAW.standard_normal((12, count, 4)) - 5 + 9 * np.eye(4)[DRAW.integers(0, 4, (12, count))] * holds[..., None]
    )
    (part,) = guess(seen(out("pred_boxes", centred(12, count), "Sigmoid"), out("logits", logits, "Add"))).parts
    assert part.settings["activation"] == "sigmoid" and "background" not in part.settings
    assert "by sigmoid" in sentence(reader(part).rule())


@pytest.mark.parametrize("classes", [5, 92])
def test_a_class_that_most_queries_hold_is_no_object_though_all_other_logits_are_far_below_0(classes):
    """As those of DETR, which is trained by a softmax with Adam."""
    holds = DRAW.choice(classes, (40, 20), p=np.array([0.2 / (classes - 1)] * (classes - 1) + [0.8]))
    logits = (2 * DRAW.standard_normal((40, 20, classes)) - 10 + 17 * np.eye(classes)[holds]).astype(np.float32)
    (part,) = guess(seen(out("pred_boxes", centred(40, 20), "Sigmoid"), out("logits", logits, "Add"))).parts
    assert (part.settings["activation"], part.settings["background"]) == ("softmax", classes - 1)


@pytest.mark.parametrize("classes", [3, 10])
@pytest.mark.parametrize("common", [1.0, 2.0])
def test_independent_classes_are_told_apart_where_every_query_holds_an_object(classes, common):
    """By logits below 0 for all classes but one, though the last one is as frequent as a class of no object."""
    holds = DRAW.choice(classes, (40, 5), p=np.array([1.0] * (classes - 1) + [common]) / (classes - 1 + common))
    logits = DRAW.standard_normal((40, 5, classes)) - 5 + 8 * np.eye(classes)[holds]
    given = out("logits", logits.astype(np.float32), "Add")
    (part,) = guess(seen(out("pred_boxes", centred(40), "Sigmoid"), given)).parts
    assert part.settings["activation"] == "sigmoid" and "background" not in part.settings
    values = [np.asarray(one.samples, np.float32) for one in (out("b", centred(40)), given)]
    found = detections(values, {**part.settings, "format": "xyxy"}, 0.5)
    # none of the objects is left out for its class
    assert sum((one.classes == classes - 1).sum() for one in found) > 0.8 * (holds == classes - 1).sum()


KEPT = (5, 7, 3, 9, 6, 8, 4, 7)


def rows_of(width, shift=0):
    """What NonMaxSuppression chose of each sample: its number, class and box, or the boxes alone."""
    places = [DRAW.choice(100, count, replace=False) + shift for count in KEPT]
    if width == 1:
        return places
    return [np.stack([np.zeros(len(one), int), DRAW.integers(0, 3, len(one)), one], axis=1) for one in places]


@pytest.mark.parametrize("width", [1, 3])
def test_places_of_boxes_without_the_boxes_are_a_set_and_no_sequence(width):
    rows = rows_of(width)
    ops = frozenset({"NonMaxSuppression"}) if width == 3 else frozenset({"Gather"})
    picked = SeenOutput("picked", ("k", 3) if width == 3 else ("k",), rows, None, ops)
    model = seen(picked, ops=["NonMaxSuppression"])
    found = guess(model)
    (part,) = found.parts
    assert (found.task, found.sure, part.settings["layout"]) == ("detection", True, "indices")
    assert "the indices of the chosen boxes, not the boxes" in sentence(reader(part).rule())
    assert "places of boxes that NonMaxSuppression chose" in sentence(found.finding())
    answers = Answers(found.parts)

    def kept(others):
        (tally,) = answers.tallies([answers.rows({"picked": a}, {"picked": b}) for a, b in zip(rows, others)])
        return tally.kept

    assert kept(rows) == kept([one[::-1] for one in rows]) == 8
    assert kept([one[1:] for one in rows]) == kept([one + 1 for one in rows]) == 0
    assert kept([one + 1 if not number else one for number, one in enumerate(rows)]) == 7
    # there are no boxes to hold against labels
    label = [np.concatenate([boxes(1, 3)[0], np.zeros((3, 1))], axis=1).astype(np.float32)] * 8
    assert "map" not in {fit.metric for fit in fitting_metrics(model, found, label)}
    with pytest.raises(RecipeError, match="map needs boxes, but 'picked' holds indices of boxes"):
        MeanAveragePrecision(options_for("map", None, found.parts), None).update({}, {})


@pytest.mark.parametrize(("spread", "variances"), [(1.0, [0.1, 0.2]), (0.15, [1.0, 1.0])])
def test_offsets_from_anchors_that_the_model_does_not_hold_are_compared_anchor_by_anchor(spread, variances):
    """In units of SSD's variances or of the anchors: neither corners nor a centre and a size, which were noise."""
    offsets = (spread * DRAW.standard_normal((8, 100, 4))).astype(np.float32)
    scores = DRAW.uniform(0, 0.03, (8, 100, 6)).astype(np.float32)
    scores[:, ::25, 2] = DRAW.uniform(0.6, 0.9, (8, 4))
    offsets[:, 25] = offsets[:, 0]
    model = seen(out("bbox_regression", offsets, "Concat"), out("scores", scores, "Sigmoid"))
    found = guess(model)
    (part,) = found.parts
    assert part.task == "detection"
    assert (part.settings["format"], part.settings["variances"]) == ("offsets", variances)
    # offsets that are alike are boxes of two anchors
    assert [one.classes.tolist() for one in detections([offsets, scores], part.settings, 0.3)] == [[2] * 4] * 8
    assert "each anchor counts as a detection of its own" in sentence(reader(part).rule())
    answers = Answers(found.parts)

    def kept(boxes, values=scores):
        (tally,) = answers.tallies([answers.rows({"bbox_regression": offsets, "scores": scores},
                                                 {"bbox_regression": boxes, "scores": values})])  # fmt: skip
        return tally.kept

    size = np.float32(1 / variances[0])
    assert kept(offsets + 0.1 * size * np.float32([1, 1, 0, 0])) == kept(offsets) == 8
    assert kept(offsets + size * np.float32([1, 0, 0, 0])) == 0
    assert kept(offsets + np.float32(np.log(1.8) / variances[1]) * np.float32([0, 0, 1, 0])) == 8
    assert kept(offsets + np.float32(np.log(2.2) / variances[1]) * np.float32([0, 0, 0, 1])) == 0
    assert kept(offsets, np.roll(scores, 1, axis=1)) == 0
    label = [np.concatenate([boxes(1, 3)[0], np.zeros((3, 1))], axis=1).astype(np.float32)] * 8
    assert "map" not in {fit.metric for fit in fitting_metrics(model, found, label)}
    with pytest.raises(RecipeError, match="'bbox_regression' holds offsets from anchors"):
        MeanAveragePrecision(options_for("map", None, found.parts), None).update({}, {})


def test_all_anchors_that_score_high_are_compared_where_none_suppresses_another():
    """Of 600 confident anchors with offsets, scores that a percent of noise reorders are no lost detections."""
    offsets = (0.3 * DRAW.standard_normal((2, 1000, 4))).astype(np.float32)
    scores = np.full((2, 1000, 3), 0.01, np.float32)
    scores[:, :600, 1] = DRAW.uniform(0.7, 0.9, (2, 600))
    noisy = (scores * (1 + 0.01 * DRAW.standard_normal(scores.shape))).astype(np.float32)
    settings = {"layout": "apart", "format": "offsets", "variances": [1.0, 1.0], "threshold": 0.5}
    judge = reader(OutputPart("detection", ("boxes", "scores"), settings))
    assert [len(one.scores) for one in detections([offsets, scores], settings, 0.5)] == [600, 600]
    assert judge.compare([offsets, scores], [offsets, noisy])["level"].tolist() == [1.0, 1.0]
    lost = np.where(np.arange(1000)[:, None] < 60, 0.01, noisy).astype(np.float32)
    assert judge.compare([offsets, scores], [offsets, lost])["level"].tolist() == [pytest.approx(540 * 2 / 1140)] * 2


def test_a_vector_of_numbers_without_suppression_holds_no_places():
    rows = rows_of(1)
    assert guess(seen(SeenOutput("picked", ("k",), rows, None, frozenset({"Gather"})))).task == "sequence"


def compared(model, part, wanted, found):
    comparison = OutputComparison(model, answers=Answers([part]))
    comparison.add(wanted, found, None, 4)
    return comparison.result()


def test_rows_that_are_ranked_have_the_figures_of_the_rows_that_both_models_have():
    """Two that change places are compared each with itself; one that is lost the answers tell of."""
    model = Model.from_proto(build(
        [node("Identity", ["a"], ["boxes"]), node("Identity", ["b"], ["scores"])],
        {"a": ["n", 6, 4], "b": ["n", 6]}, {"boxes": ["n", 6, 4], "scores": ["n", 6]},
    ))  # fmt: skip
    low = 20.0 * np.arange(24).reshape(4, 6, 1) + np.zeros((4, 6, 2))
    values = np.concatenate([low, low + 10], axis=-1).astype(np.float32)
    scores = np.tile(np.linspace(0.9, 0.6, 6, dtype=np.float32), (4, 1))
    part = OutputPart("detection", ("boxes", "scores"), {"layout": "apart", "ranked": True, "threshold": 0.5})
    order = np.array([1, 0, 2, 3, 5, 4])
    other = {"boxes": values[:, order] + np.float32(0.25), "scores": scores.copy()}
    found = compared(model, part, {"boxes": values, "scores": scores}, other)
    assert list(found.beside) == ["boxes", "scores"]
    assert found.beside["boxes"].max_abs == found.outputs["boxes"].max_abs == 0.25
    power = float(np.square(values.astype(np.float64)).mean())
    assert found.beside["boxes"].sqnr_db == pytest.approx(10 * np.log10(power / 0.0625), abs=1e-3)
    # all samples are alike
    assert EvaluationCode.OUTPUT_STEADY in {note.code for note in found.notes}
    # the last is somewhere else
    lost = {"boxes": other["boxes"].copy(), "scores": other["scores"]}
    lost["boxes"][:, -1] += 5000
    found = compared(model, part, {"boxes": values, "scores": scores}, lost)
    assert found.beside["boxes"].max_abs == 0.25 and found.tallies[0].kept == 0
    assert found.outputs["boxes"].max_abs > 5000
    shown = accuracy_of(found, BudgetSection(min_sqnr_db=20.0))
    assert not shown.met and shown.outputs["boxes"].ranked and shown.outputs["boxes"].max_abs == 0.25
    # with nothing in common there is nothing to compare, and no limit is met
    found = compared(model, part, {"boxes": values, "scores": scores}, {"boxes": values + 5000, "scores": scores})
    assert found.beside == {}
    shown = accuracy_of(found, BudgetSection(min_sqnr_db=20.0))
    assert not shown.met and shown.outputs["boxes"].ranked and shown.outputs["boxes"].unknown


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("task", [None, "detection"])
def test_coefficients_of_masks_beside_boxes_are_values(task, shares):
    """Whether the recipe names the task or not, and whether the scores are shares or logits: at places without an object
    coefficients are anything, and no reading."""
    logits, _ = queries(4, 3, count=36)
    scores = softmax(logits) if shares else logits
    boxes = out("boxes", centred(12, 36), "Sigmoid")
    given = out("scores", scores.astype(np.float32), "Softmax" if shares else "Add")
    coefficients = np.tanh(DRAW.standard_normal((12, 36, 8))).astype(np.float32)
    coefficients[..., 7] += 1.5
    model = seen(boxes, given, out("mask_coefficients", coefficients, "Tanh"))
    found, _ = judged_by(model, task, None, None, {}, {})
    tasks = {name: part.task for part in found.parts for name in part.outputs}
    assert tasks == {"boxes": "detection", "scores": "detection", "mask_coefficients": "regression"}


@pytest.mark.parametrize(("judged", "noted"), [(("y",), []), (("y", "version"), ["version"])])
def test_only_an_output_that_is_judged_asks_for_other_samples_where_it_is_always_the_same(judged, noted):
    nodes = [node("Identity", ["a"], ["y"]), node("Identity", ["b"], ["version"])]
    model = Model.from_proto(build(nodes, {"a": ["n", 3], "b": ["n", 1]}, {"y": ["n", 3], "version": ["n", 1]}))
    given = {"y": DRAW.standard_normal((4, 3)).astype(np.float32), "version": np.full((4, 1), 2, np.float32)}
    comparison = OutputComparison(model, answers=Answers([OutputPart("regression", (name,)) for name in judged]))
    comparison.add(given, {name: value + np.float32(0.01) for name, value in given.items()}, None, 4)
    notes = [note.values["output"] for note in comparison.result().notes if note.code is EvaluationCode.OUTPUT_STEADY]
    assert notes == noted


@pytest.mark.parametrize("shape", ["nb4", "nb41", "n1b4", "nb14", "n4b", "n4b1", "n41b", "n14b"])
def test_boxes_are_read_wherever_axes_of_extent_1_are(shape):
    """Boxes of 12 samples, 20 each, beside scores of 3 classes."""
    given, scores = centred(12, 20), DRAW.random((12, 20, 3), np.float32)
    scores[DRAW.random((12, 20)) < 0.9] *= 0.01
    plain = given if shape.index("b") < shape.index("4") else given.transpose(0, 2, 1)
    laid = plain.reshape([{"n": 12, "b": 20, "4": 4, "1": 1}[axis] for axis in shape])
    (part,) = guess(seen(out("pred_boxes", laid, "Concat"), out("scores", scores, "Sigmoid"))).parts
    assert part.task == "detection" and part.outputs == ("pred_boxes", "scores")
    found = detections([laid, scores], part.settings, 0.5)
    wanted = detections([given, scores], {**part.settings, "box_axis": -1}, 0.5)
    assert sum(len(one.scores) for one in wanted) > 10
    assert all(np.array_equal(a.boxes, b.boxes) for a, b in zip(found, wanted, strict=True))


def test_four_values_and_a_number_per_sample_are_no_boxes():
    """``[N, 4, 1]`` beside ``[N, 8]``."""
    values = DRAW.standard_normal((12, 4, 1)).astype(np.float32)
    found = guess(seen(out("a", values, "Abs"), out("b", DRAW.random((12, 8), np.float32), "Flatten")))
    assert {part.task for part in found.parts}.isdisjoint({"detection"})


def one_image(kept, form, classes):
    """A detector of one image that returns the boxes with or without an axis of samples, the scores in ``form``.

    Returns what ``observe`` sees of 12 images, and each image's outputs.
    """
    count, runs = 40, []
    extents = {"N": count, "C": classes, "1": 1}
    shapes = {"boxes": [1, count, 4] if kept else [count, 4], "scores": [extents[one] for one in form]}
    made = [node("Conv", ["x", "w"], ["c"]), node("Sigmoid", ["c"], ["p"]),
            node("Reshape", ["c", "b"], ["boxes"]), node("Reshape", ["p", "s"], ["scores"])]  # fmt: skip
    for _ in range(12):
        corner, hot = DRAW.uniform(0, 20, (count, 2)), DRAW.random(count) < 0.2
        boxes = np.concatenate([corner, corner + DRAW.uniform(2, 10, (count, 2))], axis=1).astype(np.float32)
        scores = DRAW.uniform(0, 0.04, (count, classes)).astype(np.float32)
        scores[hot, DRAW.integers(0, classes, count)[hot]] = DRAW.uniform(0.6, 0.95, hot.sum())
        scores = scores if "C" in form else scores.max(axis=1, keepdims=True)
        turned = scores.T if form == "CN" else scores
        runs.append({"boxes": boxes.reshape(shapes["boxes"]), "scores": turned.reshape(shapes["scores"])})
    weights = {"w": np.ones((4, 3, 1, 1), np.float32), **{key: np.ones(len(shapes[one]), np.int64)
               for key, one in (("b", "boxes"), ("s", "scores"))}}  # fmt: skip
    model = Model.from_proto(build(made, {"x": [1, 3, 8, 8]}, shapes, weights))
    image = {"x": np.zeros((1, 3, 8, 8), np.float32)}
    return observe(model, [(image, run, 1) for run in runs]), runs


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("form", ["N", "NC", "CN", "1N", "1NC", "N1"])
@pytest.mark.parametrize("kept", [True, False])
def test_boxes_and_scores_of_one_image_are_detections_whichever_drops_the_axis_of_samples(kept, form, classes):
    model, runs = one_image(kept, form, classes)
    (part,) = guess(model).parts
    assert (part.task, part.outputs, part.settings["layout"]) == ("detection", ("boxes", "scores"), "apart")
    (wanted,) = detections(reader(part).samples(runs[0]), part.settings, 0.5)
    scores = runs[0]["scores"].reshape(classes if form == "CN" else 40, -1)
    scores = scores.T if form == "CN" else scores
    hot = np.flatnonzero(scores.max(axis=1) > 0.5)
    # a few boxes of one class overlap, so suppression leaves fewer
    assert 0 < len(wanted.scores) <= len(hot) and set(wanted.scores) <= set(scores.max(axis=1).astype(np.float64))
    lost = {**runs[0], "boxes": runs[0]["boxes"] + 100}
    answers = Answers([part])
    (tally,) = answers.tallies([answers.rows(one, one) for one in runs[1:]] + [answers.rows(runs[0], lost)])
    assert (tally.kept, tally.answers) == (11, 12)
    mixed = len({one.batch_axis for one in model.outputs}) > 1
    assert answers.batch(8) == (1 if any(one.batch_axis is None for one in model.outputs) else 8)
    assert ("batch_axes" in part.settings) is mixed
