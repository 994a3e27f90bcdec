"""The built-in metrics, in cases whose value is known by construction."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from toolkit.base.errors import DataError, RecipeError
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.labels.float_check import FloatCheck
from toolkit.evaluation.metric import MetricOptions
from toolkit.evaluation.metrics.by_name import answers_of, make_metric
from toolkit.evaluation.metrics.options import options_for
from toolkit.evaluation.metrics.table import METRICS, task_of
from toolkit.evaluation.metrics.text import edit_distance
from toolkit.evaluation.numerics.resampling import score_of
from toolkit.evaluation.tasks import TASKS, OutputPart
from toolkit.report.findings import sentence

RNG = np.random.default_rng(2)


def value(name, outputs, labels, **options):
    metric = make_metric(name, None, False, MetricOptions(**options))
    for i in range(0, len(labels), 4):
        metric.update({"y": outputs[i : i + 4]}, {"label": labels[i : i + 4]})
    return metric.value(), answers_of(metric)


def one_hot(classes, count):
    return np.eye(count, dtype=np.float32)[np.asarray(classes)]


def test_every_metric_is_listed_with_its_labels():
    for name, info in METRICS.items():
        assert info.task in TASKS and info.labels and info.measures and task_of(name) == info.task
        if not info.extra:
            assert make_metric(name).higher_is_better is info.higher_is_better
    with pytest.raises(RecipeError):
        make_metric("balanced")


def test_balanced_accuracy_f1_and_average_precision():
    labels = np.array([0] * 18 + [1] * 2)
    chosen = one_hot([0] * 20, 2)
    assert value("top1", chosen, labels) == (0.9, 20)
    assert value("balanced_accuracy", chosen, labels)[0] == 0.5
    assert value("f1", chosen, labels)[0] == pytest.approx((36 / 38) / 2)
    scores = np.array([[0.1, 0.9], [0.9, 0.8], [0.2, 0.1], [0.8, 0.3]], np.float32)
    sets = np.array([[0, 1], [1, 0], [0, 0], [1, 1]])
    assert value("average_precision", scores, sets)[0] == pytest.approx((1.0 + (1.0 + 2 / 3) / 2) / 2)


def test_a_teachers_probabilities_are_read_by_the_likeliest_class():
    scores, wanted = np.float32([[3, 1, 0], [0, 2, 1], [5, 4, 0], [0, 0, 9]]), [0, 1, 1, 2]
    teacher = (0.7 * one_hot(wanted, 3) + 0.1).astype(np.float32)
    assert value("top1", scores, teacher) == value("top1", scores, one_hot(wanted, 3)) == (0.75, 4)
    # what adds up to less is a set of labels, or no label
    with pytest.raises(DataError, match="probabilities that add up to 1"):
        value("top1", scores, teacher / 2)


def test_an_error_of_one_hot_labels_is_held_against_values_and_not_the_numbers_of_classes():
    labels = one_hot(np.arange(64) % 8, 8)
    check = FloatCheck("mse", None, MetricOptions())
    check.add({"y": np.full((64, 8), 0.125, np.float32)}, {"label": labels})
    assert check.spread == pytest.approx(7 / 64) and check.suspicion() is not None


def test_balanced_accuracy_of_sets_counts_what_is_answered_too_often():
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]])
    # the third class has no label; a model that answers every class finds all that there are, and rejects nothing
    assert value("balanced_accuracy", np.ones((4, 3), np.float32), sets, threshold=0.5)[0] == 0.5
    assert value("balanced_accuracy", np.zeros((4, 3), np.float32), sets, threshold=0.5)[0] == 0.5
    assert value("balanced_accuracy", sets.astype(np.float32), sets, threshold=0.5)[0] == 1.0
    scores = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 0, 1]], np.float32)
    # class 0: both found, one of two rejected; class 1: one of two found, one of two rejected
    assert value("balanced_accuracy", scores, sets, threshold=0.5)[0] == ((2 / 2 + 1 / 2) / 2 + (1 / 2 + 1 / 2) / 2) / 2
    # a class that all samples have has none to reject
    assert value("balanced_accuracy", scores[:, :1], np.ones((4, 1), int), threshold=0.5)[0] == 3 / 4
    every = np.array([[1, 0], [1, 1]])
    assert (
        value("balanced_accuracy", np.array([[1, 1], [0, 1]], np.float32), every, threshold=0.5)[0]
        == (1 / 2 + 1 / 2) / 2
    )


@pytest.mark.parametrize("first", [1, 0])
def test_average_precision_does_not_go_by_the_order_of_samples_with_equal_scores(first):
    labels = np.array([first] * 8 + [1 - first] * 8)
    # an engine that gives the same for every sample tells nothing, and as many of these have the label as not
    assert value("average_precision", np.zeros((16, 1), np.float32), labels)[0] == 0.5
    # the best score has one of each kind; 7 of the 14 with the other one have the label
    scores = np.zeros((16, 1), np.float32)
    scores[[0, 15]] = 1
    assert value("average_precision", scores, labels)[0] == pytest.approx((1 / 2 + 7 * 8 / 16) / 8)


@pytest.mark.parametrize("where", ["label", "elsewhere", "everywhere"])
@pytest.mark.parametrize("name", ["top1", "top5", "exact", "balanced_accuracy", "f1", "average_precision", "auc"])
def test_scores_that_are_nan_are_never_right(name, where):
    labels = np.arange(24) % 8
    scores = one_hot(labels, 8)
    assert value(name, scores, labels)[0] == 1.0
    own = one_hot(labels, 8) > 0
    scores[{"label": own, "elsewhere": ~own, "everywhere": own | ~own}[where]] = np.nan
    # precision at the last places of all, which the three with the label share, is not 0
    least = 3 / 24 if name == "average_precision" else 0.0
    assert value(name, scores, labels)[0] == pytest.approx(least)


@pytest.mark.parametrize(("name", "without_1", "without_0"), [
    ("top1", 0.5, 0.5), ("balanced_accuracy", 0.5, 0.5), ("f1", 0.0, 2 / 3), ("auc", 0.0, 0.0),
])  # fmt: skip
@pytest.mark.parametrize("threshold", [0.5, None])
def test_one_score_that_is_nan_is_that_of_the_other_label(name, without_1, without_0, threshold):
    labels = np.array([1, 0] * 4)
    for label, wanted in ((1, without_1), (0, without_0)):
        scores = np.where(labels == 1, np.float32(0.9), np.float32(0.1))
        scores[labels == label] = np.nan
        # without a threshold the scores that are left tell that these are probabilities
        known = 0.5 if name == "top1" else threshold
        assert value(name, scores[:, None], labels, threshold=known)[0] == pytest.approx(wanted)


@pytest.mark.parametrize("shape", [(8,), (8, 1), (8, 1, 1)])
@pytest.mark.parametrize("label_shape", [(8,), (8, 1)])
@pytest.mark.parametrize("kind", [np.int64, np.float32, bool])
def test_one_score_a_sample_is_that_of_label_1(shape, label_shape, kind):
    scores = np.float32([0.9, 0.8, 0.7, 0.6, 0.55, 0.4, 0.3, 0.1])
    labels = np.array([1, 1, 0, 1, 0, 0, 1, 0])
    given = scores.reshape(shape), labels.reshape(label_shape).astype(kind)
    assert value("top1", *given, threshold=0.5) == (5 / 8, 8)
    assert value("exact", *given, threshold=0.5) == (5 / 8, 8)
    assert value("top1", *given, threshold=0.58)[0] == 6 / 8
    assert value("balanced_accuracy", *given, threshold=0.5)[0] == (3 / 4 + 2 / 4) / 2
    # five are called 1, three of them rightly, and one of four is missed
    assert value("f1", *given, threshold=0.5)[0] == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert value("average_precision", *given)[0] == pytest.approx((1 + 1 + 3 / 4 + 4 / 7) / 4)
    # of the 16 pairs of a 1 and a 0: 0.3 stands below three of the zeros, 0.6 below one
    assert value("auc", *given)[0] == 12 / 16
    logits = np.log(scores / (1 - scores)).astype(np.float32).reshape(shape)
    for name in ("top1", "f1", "auc"):
        assert value(name, logits, given[1], threshold=0.0) == value(name, *given, threshold=0.5)


def test_labels_that_are_no_0_or_1_are_refused_of_one_score():
    with pytest.raises(DataError, match="the labels reach from 0 to 2"):
        value("top1", np.float32([[0.1], [0.2], [0.3]]), np.array([0, 1, 2]), threshold=0.5)
    with pytest.raises(DataError, match="the labels reach from 0 to 2"):
        value("auc", np.float32([[0.1], [0.2], [0.3]]), np.array([0, 1, 2]))


def test_the_area_under_the_curve_counts_ties_half_and_is_no_number_of_one_label():
    scores = np.float32([0.5, 0.5, 0.2, 0.2])
    assert value("auc", scores, np.array([1, 0, 1, 0]))[0] == 0.5
    assert value("auc", scores, np.array([1, 1, 0, 0]))[0] == 1.0
    assert math.isnan(value("auc", scores, np.array([1, 1, 1, 1]))[0])
    # of classes by their numbers each against the others: 3 of 3, 2 + 1 ties of 4, and 3 of 3 pairs
    many = np.float32([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.3, 0.3, 0.4], [0.6, 0.3, 0.1]])
    assert value("auc", many, np.array([0, 1, 2, 1]))[0] == pytest.approx((1 + 3.5 / 4 + 1) / 3)


def test_the_threshold_that_is_known_decides_what_a_set_of_labels_and_a_mask_hold():
    scores, sets = np.float32([[0.4, 0.9], [0.1, 0.4]]), np.array([[1, 1], [0, 1]])
    assert value("f1", scores, sets, threshold=0.3)[0] == 1.0
    assert value("f1", scores, sets)[0] == pytest.approx((0 + 2 / 3) / 2)
    maps, masks = np.full((1, 1, 2, 2), 0.4, np.float32), np.ones((1, 2, 2), np.int64)
    assert value("miou", maps, masks, threshold=0.3)[0] == 1.0
    assert value("miou", maps, masks)[0] == 0.0


def test_readings_and_edits():
    scores = one_hot([[0, 1, 1, 0, 2], [3, 3, 0, 3, 0]], 4)
    labels = np.array([[1, 2, -1], [3, 2, -1]])
    assert value("ctc_exact", scores, labels) == (0.5, 2)
    assert value("cer", scores, labels) == (0.25, 4)
    words = one_hot([[1, 0, 2, 0, 3, 1]], 4)
    assert value("wer", words, np.array([[1, 2, 3, 3]]), space=2)[0] == 0.5
    assert edit_distance("kitten", "sitting") == 3
    with pytest.raises(DataError):
        value("cer", scores, np.array([0.5, 0.5]))


def test_masks_images_and_errors():
    labels = np.zeros((4, 8, 8), np.int64)
    labels[:, :4] = 1
    labels[:, 0] = 255
    scores = np.moveaxis(one_hot(np.where(labels == 1, 1, 0) * (np.arange(8) < 6), 2), -1, 1)
    assert value("miou", scores, labels)[0] == pytest.approx((18 / 24 + 32 / 38) / 2)
    image = RNG.random((4, 1, 16, 16))
    assert value("psnr", image + 0.01, image)[0] == pytest.approx(40)
    assert value("ssim", image, image)[0] == pytest.approx(1.0)
    assert value("ssim", RNG.random(image.shape), image)[0] < 0.3
    assert value("mae", image + 0.5, image)[0] == pytest.approx(0.5)
    lines = image.reshape(len(image), -1)[:, :1]
    assert value("mse", lines + 0.5, lines[:, 0])[0] == pytest.approx(0.25)
    with pytest.raises(DataError, match="labels have shape"):
        value("mse", lines + 0.5, image)
    with pytest.raises(DataError, match="NaN or infinite") as refused:
        value("mse", lines, np.where(np.arange(len(lines)) == 2, np.nan, 0.0))
    assert refused.value.row == 2
    assert value("mse", image + 0.5, image)[0] == pytest.approx(0.25)


@pytest.mark.parametrize("unit", [1e-3, 1e-9, 1e-25])
@pytest.mark.parametrize("low", [0.0, -1.0])
def test_the_peak_of_a_tiny_unit_is_its_own(unit, low):
    """Metres of what is a few nanometres high: against a peak of 1 an output of noise alone had 120 dB."""
    label = RNG.uniform(low, 1, (8, 1, 16, 16))
    label[:, 0, 0, :2] = low, 1
    wrong = label + (1 - low) * RNG.choice([-0.1, 0.1], label.shape)
    assert value("psnr", unit * wrong, unit * label)[0] == pytest.approx(20)
    assert value("ssim", unit * wrong, unit * label)[0] == pytest.approx(value("ssim", wrong, label)[0])
    assert value("psnr", np.full((4, 1, 8, 8), 0.01), np.zeros((4, 1, 8, 8)))[0] == pytest.approx(40)


def test_a_volume_is_segmented_place_by_place():
    """Two classes of a volume [depth, height, width]: half of one of them is found, and nothing of the other lost."""
    label = np.zeros((1, 2, 3, 4), np.int64)
    label[0, 0] = 1
    scores = np.zeros((1, 2, 2, 3, 4), np.float32)
    scores[:, 1, 0, :, :2] = 1
    for given in (label, label[:, None]):
        assert value("miou", scores, given)[0] == pytest.approx((12 / 18 + 6 / 12) / 2)


@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_masks_that_overlap_are_held_against_labels_of_each(kind):
    """Of two masks of a picture one is half found, of 24 pixels with 6 that are left out, and one whole."""
    label = np.zeros((2, 2, 6, 8), kind)
    label[:, 0, :4], label[:, 1, 1:3] = 1, 1
    scores = np.where(label > 0, 2.0, -2.0).astype(np.float32)
    scores[:, 0, 2:4] = -3.0
    label[:, 0, 0, :6] = 255
    assert value("miou", scores, label)[0] == pytest.approx((10 / 26 + 1) / 2)
    assert value("miou", 1 / (1 + np.exp(-scores)), label)[0] == pytest.approx((10 / 26 + 1) / 2)


def test_scores_of_masks_that_are_nan_are_wrong_in_and_outside_of_them():
    """Of 16 pixels 4 are in the mask; an engine that returns NaN for the other 12, or for these 4, loses the rest."""
    label = np.zeros((1, 2, 4, 4), np.int64)
    label[:, :, :2, :2], label[:, 1, 2, 2] = 1, 1
    scores = np.where(label == 1, 5.0, -5.0).astype(np.float32)
    assert value("miou", scores, label, threshold=0.0)[0] == 1.0
    outside = np.where(label == 1, scores, np.nan)
    assert value("miou", outside, label, threshold=0.0)[0] == pytest.approx((4 / 16 + 5 / 16) / 2)
    assert value("miou", np.where(label == 1, np.nan, scores), label, threshold=0.0)[0] == 0.0


def test_one_hot_labels_of_pixels_are_classes_of_which_the_largest_score_counts():
    """A softmax over three classes seldom exceeds a half."""
    classes = np.arange(160).reshape(10, 4, 4) % 3
    label = np.moveaxis(one_hot(classes.reshape(-1), 3).reshape(10, 4, 4, 3), -1, 1).astype(np.int64)
    scores = np.where(label == 1, 0.4, 0.3).astype(np.float32)
    scores[0, :, 0] = scores[0, ::-1, 0]
    assert value("miou", scores, label)[0] == value("miou", scores, classes)[0]
    assert 0.9 < value("miou", scores, label)[0] < 1
    # one pixel in no mask, in the last batch, makes them masks that overlap: no score exceeds a half
    label[9, :, 0, 0] = 0
    assert value("miou", scores, label)[0] == 0
    # where every label is left out the pixel has no class
    label[9, :, 0, 0] = 255
    assert 0.9 < value("miou", scores, label)[0] < 1


@pytest.mark.parametrize("wrong", [0.5, 3, -1])
def test_labels_of_masks_are_0_or_1(wrong):
    label = np.zeros((1, 2, 4, 4), np.float32)
    label[0, 0, 0, 0] = wrong
    with pytest.raises(DataError, match="with 0 or 1 for each mask"):
        value("miou", np.ones((1, 2, 4, 4), np.float32), label)


def test_neighbours_ranks_and_likelihood():
    vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [1, 1]], np.float32)
    assert value("recall_at_1", vectors, np.array([0, 0, 1, 1, 2])) == (1.0, 4)
    assert value("recall_at_1", vectors, np.array([0, 1, 0, 1, 2]))[0] == 0.0
    assert value("spearman", np.arange(8.0)[:, None], np.arange(8.0) ** 2)[0] == pytest.approx(1.0)
    pairs = np.array([[1, 0], [1, 0], [1, 0], [1, 1], [1, 0], [0, 1]], np.float32)
    assert value("spearman", pairs, np.array([5.0, 5, 3, 3, 1, 1]))[0] == pytest.approx(1.0)
    logits = np.zeros((4, 3, 10), np.float32)
    assert value("perplexity", logits, np.array([[1, 2, -1]] * 4))[0] == pytest.approx(10.0)


@pytest.mark.parametrize("directions", [(("user", "item"), ("item", "user")), (("user", "item"),)], ids=["both", "one"])
@pytest.mark.parametrize("output", ["user", "item", None])
def test_neighbours_of_a_tower_are_the_other_towers_vectors(output, directions):
    """Each label is one sample's alone; the items of samples 0 and 1 are swapped, so theirs are another's."""
    parts = [OutputPart("embedding", names, {"batch_axis": 0}) for names in directions]
    users, items = np.eye(6, dtype=np.float32), np.eye(6, dtype=np.float32)
    items[:2] = items[1::-1]
    for task, found in (("recall_at_1", 4 / 6), ("recall_at_5", 1.0)):
        metric = make_metric(task, None, False, options_for(task, output, parts))
        for rows in (slice(0, 4), slice(4, 6)):
            metric.update({"user": users[rows], "item": items[rows]}, {"label": np.arange(6)[rows]})
        assert metric.value() == pytest.approx(found) and answers_of(metric) == 6


@pytest.mark.parametrize("output", ["user", "item", None])
@pytest.mark.parametrize("ruined", [False, True])
def test_scores_of_two_towers_are_correlated_with_the_cosine_of_both_towers_vectors(output, ruined):
    """A user's angle to the item grows as the score falls; users alone, in pairs of samples, know no score."""
    angles = np.array([0.3, 1.2, 0.1, 0.9, 0.6, 1.5])
    users = np.tile(np.float32([1, 0]), (6, 1))
    items = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    if ruined:
        items = np.tile(np.float32([0.5, 0.5]), (6, 1)) + 0.01 * items[::-1]
    parts = [OutputPart("embedding", names, {"batch_axis": 0}) for names in (("user", "item"), ("item", "user"))]
    metric = make_metric("spearman", None, False, options_for("spearman", output, parts))
    for rows in (slice(0, 3), slice(3, 6)):
        metric.update({"user": users[rows], "item": items[rows]}, {"label": -angles[rows]})
    score = score_of(metric, "spearman")
    assert score.value == pytest.approx(1 - 6 * 58 / 210 if ruined else 1.0)
    assert score.samples == 6 and len(score.left_out) == 6


@pytest.mark.parametrize("blank", [0, 3])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_reading_with_nan_is_never_right_and_costs_an_edit_where_it_is(blank, where):
    """argmax takes NaN for the largest: of the class that a position has, or of the blank, it changed nothing."""
    line = [1, blank, 2]
    scores = one_hot([line] * 2, 4).astype(np.float32)
    label = np.array([[1, 2, -1]] * 2)
    for name, right in (("ctc_exact", 1.0), ("cer", 0.0)):
        assert value(name, scores, label, blank=blank)[0] == right
    scores[0, where, line[where]] = np.nan
    assert value("ctc_exact", scores, label, blank=blank)[0] == 0.5
    assert value("cer", scores, label, blank=blank)[0] == 1 / 4
    # nothing but NaN is no empty reading either
    scores[0] = np.nan
    empty = np.full((2, 3), -1)
    assert value("ctc_exact", scores[:1], empty[:1], blank=blank)[0] == 0.0
    assert value("cer", scores, label, blank=blank)[0] == 2 / 4


def test_mean_average_precision_is_cocos():
    pytest.importorskip("pycocotools")
    rows = np.array([[[10, 10, 50, 50, 0.9, 1], [60, 60, 90, 90, 0.8, 0]]], np.float32)
    part = json.dumps(OutputPart("detection", ("y",), {"layout": "rows", "threshold": 0.5}).to_json())
    labels = np.array([[[10, 10, 50, 50, 1], [60, 60, 90, 90, 0], [-1, -1, -1, -1, -1]]])
    assert value("map", rows, labels, layout=part) == (pytest.approx(1.0), 2)
    labels[0, 0, :4] += 10
    assert value("map50", rows, labels, layout=part)[0] == pytest.approx(0.5)


def checked(name, outputs, labels):
    check = FloatCheck.of(name, None, MetricOptions())
    check.add({"y": outputs}, {"label": labels})
    return check.suspicion()


def found_boxes(reach, labels_reach):
    """What is said of a detector that is right throughout, whose labels may be in another unit."""
    pytest.importorskip("pycocotools")
    corners = np.sort(RNG.random((16, 3, 2, 2)), axis=2).reshape(16, 3, 4)
    kinds = RNG.integers(0, 2, (16, 3, 1))
    rows = np.concatenate([corners * reach, np.full((16, 3, 1), 0.9), kinds], axis=2).astype(np.float32)
    layout = json.dumps(OutputPart("detection", ("y",), {"layout": "rows", "threshold": 0.5}).to_json())
    check = FloatCheck.of("map", None, MetricOptions(layout=layout))
    check.add({"y": rows}, {"label": np.concatenate([corners * labels_reach, kinds], axis=2)})
    return check.suspicion()


@pytest.mark.parametrize(("reach", "labels"), [(1, 640), (640, 1)])
def test_boxes_whose_labels_are_in_another_unit_are_called_that(reach, labels):
    found = found_boxes(reach, labels)
    assert found.code is EvaluationCode.LABELS_IN_OTHER_UNIT
    assert found.values["labels"] / found.values["boxes"] == pytest.approx(labels / reach, rel=1e-5)
    assert sentence(found).endswith("Give the labels in the unit of the model's boxes.")
    assert found_boxes(reach, reach) is None


@pytest.mark.parametrize(("shift", "wrong"), [(0, False), (1, True)])
def test_a_language_model_that_is_surer_of_wrong_tokens_than_chance_is_called_useless(shift, wrong):
    """Labels that are not shifted to the next token: perplexity is far above the number of tokens."""
    tokens = (np.arange(16 * 6).reshape(16, 6) * 7) % 11
    found = checked("perplexity", one_hot(tokens, 11) * 12, np.roll(tokens, shift, axis=1))
    assert (found is not None) is wrong
    assert not wrong or (found.code is EvaluationCode.FLOAT_MODEL_USELESS and found.values["useless"] == 11)


def test_labels_off_by_one_are_called_that():
    labels = RNG.integers(0, 9, 64)
    scores = one_hot(labels, 10) + RNG.random((64, 10)).astype(np.float32) * 0.1
    assert checked("top1", scores, labels) is None
    found = checked("top1", scores, labels + 1)
    assert found.code is EvaluationCode.LABELS_SHIFTED and found.values["offset"] == 1 and found.values["share"] == 1.0


def test_labels_of_one_score_that_are_swapped_are_called_that():
    labels = RNG.integers(0, 2, 64)
    scores = np.where(labels, 0.9, 0.1).astype(np.float32)[:, None]
    check = FloatCheck("top1", None, MetricOptions(threshold=0.5))
    check.add({"y": scores}, {"label": 1 - labels})
    assert check.suspicion().code is EvaluationCode.LABELS_SHIFTED
    assert sentence(check.suspicion()).endswith(
        "100.0 % with the labels 0 and 1 swapped: the labels call the other class 1."
    )
    right = FloatCheck("top1", None, MetricOptions(threshold=0.5))
    right.add({"y": scores}, {"label": labels})
    assert right.value() == 1.0 and right.suspicion() is None


def single(scores, labels, threshold, settled=False):
    check = FloatCheck("top1", None, MetricOptions(threshold=threshold), settled)
    check.add({"y": np.float32(scores)[:, None]}, {"label": np.array(labels)})
    return check


def test_scores_whose_classes_part_elsewhere_are_said_to_need_another_threshold():
    """Similarities between -1 and 1: pairs of unlike things lie between 0 and 0.4, where 0 was only guessed."""
    labels = [0, 1] * 32
    scores = np.where(labels, 0.8, np.linspace(-0.4, 0.4, 64))
    found = single(scores, labels, 0.0).suspicion()
    assert found.code is EvaluationCode.OTHER_THRESHOLD
    assert found.values["share"] == 1.0 and 0.38 < found.values["better"] < 0.8 and found.values["threshold"] == 0
    assert sentence(found).startswith(
        "The float model's own top1 is 0.75 on 64 samples with scores above 0 as class 1,"
    )
    assert "100.0 % of the labels fit scores above 0.594: set [evaluation] threshold" in sentence(found)
    # who has set it knows it
    assert single(scores, labels, 0.0, settled=True).suspicion() is None
    assert single(scores, labels, 0.5).suspicion() is None


@pytest.mark.parametrize("often", [20, 40])
def test_a_threshold_that_gives_one_answer_alone_is_not_advised(often):
    """Of scores that say nothing, one above all of them is right for every label of class 0."""
    labels = (np.arange(400) % often == 0).astype(int)
    scores = np.random.default_rng(3).normal(0, 1, 400)
    found = single(scores, labels, 0.0).suspicion()
    assert found.code is EvaluationCode.FLOAT_MODEL_USELESS
    assert single(-np.abs(scores), labels, -0.5).suspicion().code is EvaluationCode.FLOAT_MODEL_USELESS
    # where scores tell the few of class 1, the line between them is
    told = single(np.where(labels, 3.0, scores.clip(max=2.9)), labels, 0.0).suspicion()
    assert told.code is EvaluationCode.OTHER_THRESHOLD and told.values["share"] == 1.0


def clicks(samples=400, knows=1.0, rare=0.25, seed=0):
    """Labels of which few are 1, and a model's probability of that: seldom above a half, as of clicks or frauds."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(samples) < rare).astype(int)
    return labels, 1 / (1 + np.exp(-(knows * labels + rng.normal(0, 1, samples) - 3)))


def of_two(scores, labels):
    return checked_of("top1", np.stack([1 - scores, scores], axis=1), labels)


def checked_of(name, scores, labels):
    check = FloatCheck(name, None, MetricOptions(threshold=0.5))
    check.add({"y": np.float32(scores)}, {"label": labels})
    return check


@pytest.mark.parametrize("read", [lambda scores, labels: single(scores, labels, 0.5), of_two], ids=["one", "two"])
def test_a_model_that_seldom_answers_the_rare_class_is_judged_by_the_order_of_its_scores(read):
    labels, scores = clicks()
    check, often = read(scores, labels), 1 - labels.mean()
    assert check.value() < often + 0.03 and check.suspicion() is None
    found = check.says_little()
    area = np.mean(scores[labels == 1][:, None] > scores[labels == 0][None])
    assert found.values["useless"] == often and found.values["area"] == pytest.approx(area, abs=1e-6) and area > 0.7
    assert 'metric = "auc" judges them, top1 says little here' in sentence(found)
    # scores that know nothing, or a model that answers the rare class throughout, as with the wrong input
    for wrong in (read(clicks(knows=0.0)[1], labels), read(scores + 0.5, labels)):
        assert wrong.says_little() is None and wrong.suspicion() is not None
    # a better model is right more often: its share of right answers says enough
    labels, scores = clicks(knows=6.0)
    assert read(scores, labels).says_little() is None and read(scores, labels).suspicion() is None


def test_what_is_hardly_better_among_equally_many_labels_is_useless_whatever_its_order_says():
    labels = np.arange(64) % 2
    check = of_two(0.3 + 0.1 * labels + RNG.normal(0, 0.01, 64), labels)
    assert check.value() == 0.5 and check.says_little() is None
    assert check.suspicion().code is EvaluationCode.FLOAT_MODEL_USELESS


@pytest.mark.parametrize("seed", range(20))
def test_an_area_by_chance_is_called_useless_and_one_of_a_model_that_knows_is_not(seed):
    labels, nothing = clicks(100, 0.0, seed=seed)
    _, something = clicks(100, 1.5, seed=seed)
    areas = [checked_of("auc", one[:, None], labels) for one in (nothing, something)]
    have = labels.sum()
    error = np.sqrt(101 / (12 * have * (100 - have)))
    for area in areas:
        assert (area.suspicion() is not None) == (area.value() <= 0.5 + 2 * error)
    assert areas[1].suspicion() is None


@pytest.mark.parametrize("seed", range(20))
def test_a_threshold_is_not_doubted_where_another_is_better_by_chance(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 64)
    scores = labels - 0.5 + rng.normal(0, 0.4, 64)
    assert single(scores, labels, 0.0).suspicion() is None


@pytest.mark.parametrize(("labels", "wrong"), [([0, 1] * 16, False), ([1, 0] * 16, True)])
def test_an_area_of_chance_or_less_is_called_useless(labels, wrong):
    check = FloatCheck("auc", None, MetricOptions(threshold=0.5))
    check.add({"y": np.tile(np.float32([0.1, 0.3]), 16)[:, None]}, {"label": np.array(labels)})
    found = check.suspicion()
    assert (found is not None) is wrong
    assert not wrong or (found.code is EvaluationCode.FLOAT_MODEL_USELESS and found.values["useless"] == 0.5)
    assert check.silence() is None


def test_labels_of_one_kind_leave_an_area_without_a_value():
    check = FloatCheck("auc", None, MetricOptions(threshold=0.5))
    check.add({"y": np.tile(np.float32([0.1, 0.3]), 16)[:, None]}, {"label": np.ones(32, int)})
    assert check.value() is None and check.suspicion() is None and "both samples with it" in check.silence()
    # one of the other kind is enough
    check.add({"y": np.float32([[0.2]])}, {"label": np.zeros(1, int)})
    assert check.value() == 0.5 and check.silence() is None


def test_a_float_model_that_gives_nan_is_not_right_nor_are_labels_wrong_by_that():
    """Its argmax is class 0, as are most of the labels here, and all but one class after those of class 1."""
    for labels in (np.zeros(32, int), np.r_[np.zeros(30, int), 1, 1], np.ones(32, int)):
        check = FloatCheck("top1", None, MetricOptions())
        check.add({"y": np.full((32, 4), np.nan, np.float32)}, {"label": labels})
        assert check.value() == check.skill() == 0.0
        found = check.suspicion()
        assert found is None or (found.code is EvaluationCode.FLOAT_MODEL_USELESS and found.values["value"] == 0.0)
    half = one_hot(RNG.integers(0, 4, 32), 4)
    labels = half.argmax(axis=1)
    half[::2] = np.nan
    check = FloatCheck("top1", None, MetricOptions())
    check.add({"y": half}, {"label": labels})
    assert check.value() == 0.5 and 0.1 < check.skill() < 0.5


def test_labels_in_another_order_are_called_that():
    labels = RNG.integers(0, 10, 64)
    found = checked("top1", one_hot(RNG.permutation(10)[labels], 10), labels)
    assert found.code is EvaluationCode.LABELS_RENAMED and found.values["share"] > 0.9
    assert sentence(found).endswith("the labels are in another order than the model's classes.")


def test_labels_that_join_classes_are_called_that():
    answers = RNG.integers(0, 6, 64)
    found = checked("top1", one_hot(answers, 6), np.where(answers > 2, 5, 3))
    assert found.code is EvaluationCode.LABELS_RENAMED and found.values["share"] == 1.0
    assert sentence(found).endswith("each label stands for several of the model's classes.")


@pytest.mark.parametrize(("right", "wrong"), [(0.17, True), (0.9, False)])
def test_one_label_for_all_samples_is_told_by_any_answer_and_is_no_other_numbering(right, wrong):
    answers = np.where(np.arange(60) < 60 * right, 0, RNG.integers(1, 6, 60))
    found = checked("top1", one_hot(answers, 6), np.zeros(60, int))
    assert (found is not None) is wrong
    assert not wrong or (found.code is EvaluationCode.FLOAT_MODEL_USELESS and found.values["useless"] == 1 / 6)


def test_a_float_model_that_guesses_is_called_that():
    labels = RNG.integers(0, 10, 64)
    found = checked("top1", RNG.random((64, 10)).astype(np.float32), labels)
    assert found.code is EvaluationCode.FLOAT_MODEL_USELESS
    image = RNG.standard_normal((32, 8))
    assert checked("mse", image * 0.1, image) is None
    assert checked("mse", image + 5, image).code is EvaluationCode.FLOAT_MODEL_USELESS
    assert math.isclose(checked("mse", image + 5, image).values["useless"], image.var(axis=0).mean())


@pytest.mark.parametrize(("name", "useless"), [("mse", 4.0), ("mae", 2.0)])
def test_what_channels_of_a_label_differ_by_needs_no_model(name, useless):
    """Temperatures around 20 and pressures around 1000: the error of a constant an element is what is useless."""
    label = np.array([20.0, 1000.0]) + 2 * np.where(np.arange(32) % 2, 1, -1)[:, None]
    wrong = label[::-1]
    found = checked(name, wrong, label)
    assert found.code is EvaluationCode.FLOAT_MODEL_USELESS and math.isclose(found.values["useless"], useless)
    assert checked(name, label + 0.5, label) is None


def test_a_weak_model_is_no_wrong_one():
    labels = RNG.integers(0, 5, 64)
    scores = RNG.random((64, 5)) + 0.6 * one_hot(labels, 5)
    assert checked("top1", scores.astype(np.float32), labels) is None
    assert FloatCheck.of("mine:Metric", None, MetricOptions()) is FloatCheck.of(None, None, MetricOptions()) is None


def test_positions_without_a_label_are_left_out():
    """Torch's losses and Hugging Face's collators write -100 there: whatever the model says of them is no answer."""
    labels = np.array([[1, 0, -100], [2, -100, -100], [0, 1, 2], [-100, -100, -100]])
    told = np.where(labels < 0, 2, labels)
    told[2, 1] = 2
    scores = one_hot(told, 3)
    for outputs in (scores, told):
        assert value("top1", outputs, labels) == (5 / 6, 6)
        assert value("exact", outputs, labels) == (2 / 3, 3)
    assert value("top5", scores, labels) == (1.0, 6)
    # many samples, all right where there are labels
    many = np.tile(labels[:2], (20, 1))
    check = FloatCheck("exact", None, MetricOptions())
    check.add({"y": one_hot(np.where(many < 0, 2, many), 3)}, {"label": many})
    assert check.value() == 1.0 and check.suspicion() is None


@pytest.mark.parametrize(
    ("outputs", "label"), [(np.eye(3)[None], [[1, -1, 0]]), (np.eye(3), [0, 1, -100]), (np.ones((3, 1)), [0, 1, -100])]
)
def test_other_numbers_below_0_and_a_sample_without_its_only_label_are_refused(outputs, label):
    for name in ("top1", "f1") if outputs.ndim == 2 else ("top1", "exact"):
        with pytest.raises(DataError, match="umber the classes from 0"):
            make_metric(name, None, False, MetricOptions(threshold=0.5)).update(
                {"y": outputs.astype(np.float32)}, {"label": np.array(label)}
            )


@pytest.mark.parametrize(("made", "label"), [((4, 4), (4,)), ((1, 4), (4,)), ((1,), ())])
def test_mse_never_broadcasts_a_label(made, label):
    metric = make_metric("mse", None, False, MetricOptions())
    with pytest.raises(DataError, match="Give a label of the output's shape"):
        metric.update({"y": np.zeros(made)}, {"label": np.ones(label)})


@pytest.mark.parametrize(("name", "made", "label"), [
    ("miou", (4,), (4, 6, 6)), ("miou", (4, 5), (4, 6, 6)), ("cer", (4,), (4, 7)), ("exact", (), (4, 7)),
    ("spearman", (), (4,)), ("recall_at_1", (), (4,)), ("mse", (), (1,)),
])  # fmt: skip
def test_an_output_without_what_a_metric_reads_is_a_fault_of_the_data_and_no_crash(name, made, label):
    """A score or a count beside the output that is read has no axis for the metric, and is held against labels too."""
    metric = make_metric(name, None, False, MetricOptions())
    with pytest.raises(DataError, match=r"abels have shape"):
        metric.update({"y": np.ones(made, np.float32)}, {"label": np.ones(label, np.int64)})


@pytest.mark.parametrize("classes", [1, 3])
def test_pixels_of_nan_are_of_no_class(classes):
    """As background, and as the class with the highest score, they were right wherever that was the label."""
    labels = np.zeros((4, 6, 6), np.int64)
    labels[:, :2] = classes > 1
    scores = np.random.default_rng(0).random((4, classes, 6, 6), np.float32)
    if classes > 1:
        np.put_along_axis(scores, labels[:, None], 9.0, axis=1)
    else:
        scores = np.where(labels[:, None] > 0, 9.0, -9.0).astype(np.float32)
    assert value("miou", scores, labels)[0] == 1.0
    scores[:, 0, 3:] = np.nan
    assert value("miou", scores, labels)[0] < 0.67


def test_a_model_that_is_right_throughout_is_not_called_useless_for_few_labels():
    """Of many samples five positions have a label, four of one class: even the best of models gives no more."""
    label = np.full((64, 5), -100)
    label[-1] = [1, 1, 2, 1, 1]
    scores = np.random.default_rng(0).normal(size=(64, 5, 4)).astype(np.float32)
    scores[-1, np.arange(5), label[-1]] = 9
    check = FloatCheck("top1", None, MetricOptions())
    check.add({"y": scores}, {"label": label})
    assert check.value() == 1.0 and check.samples == 64 and check.suspicion() is None
    # a hundred such samples tell
    for wrong in (0, 60):
        many = FloatCheck("top1", None, MetricOptions())
        given = np.repeat(scores[-1:], 100, axis=0)
        given[:wrong] = np.roll(given[:wrong], 1, axis=-1)
        many.add({"y": given}, {"label": np.repeat(label[-1:], 100, axis=0)})
        assert (many.suspicion() is not None) is bool(wrong)


@pytest.mark.parametrize(("width", "towers", "units"), [(1, False, 64), (8, True, 64), (8, False, 32)])
def test_a_rank_correlation_is_useless_below_two_standard_errors_of_its_pairs(width, towers, units, monkeypatch):
    """Of two towers or of single values each sample counts: half of them made a limit of 0.35 of one of 0.25."""
    check = FloatCheck("spearman", "y", MetricOptions("y", among="z" if towers else None))
    names, draw = ("y", "z") if towers else ("y",), np.random.default_rng(5)
    check.add({name: draw.normal(size=(64, width)) for name in names}, {"label": draw.normal(size=64)})
    for value, useless in ((1.9 / units**0.5, True), (2.1 / units**0.5, False)):
        monkeypatch.setattr(check._metric, "value", lambda value=value: value)
        assert (check.suspicion() is not None) is useless


def test_metrics_read_quantized_outputs_as_the_floats_they_stand_for():
    wanted = RNG.integers(0, 3, 20)
    scores = np.where(one_hot(wanted, 3) > 0, 40, 7).astype(np.uint8)
    scores[:5] = np.roll(scores[:5], 1, axis=1)
    part = OutputPart("classification", ("y",), {"batch_axis": 0, "axis": -1, "quantized": [[1 / 16, 5.0]]})
    metric = make_metric("top1", None, False, options_for("top1", None, [part]))
    metric.update({"y": scores}, {"label": wanted})
    assert metric.value() == 0.75
    one = replace(part, settings={"batch_axis": 0, "threshold": 0.5, "single": True, "quantized": [[1 / 16, 5.0]]})
    metric = make_metric("top1", None, False, options_for("top1", None, [one]))
    # 13 stands for 0.5, which is not above the threshold
    metric.update({"y": np.uint8([[12], [13], [14], [255]])}, {"label": np.array([0, 0, 1, 1])})
    assert metric.value() == 1.0
