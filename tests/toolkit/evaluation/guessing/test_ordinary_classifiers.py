"""Classifiers that values of other kinds must not be read into, however few samples are seen."""

from __future__ import annotations

import numpy as np
import pytest

from tests.toolkit.evaluation.guessing.test_guess import out, seen, softmax
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.guessing.value_clues import unlike_scales


def logits(samples, classes, seed=0):
    """Class scores, each sample's own class 8 above the others."""
    draw = np.random.default_rng(seed)
    values = draw.normal(0, 1.5, (samples, classes)) + draw.normal(0, 1, classes)
    values[np.arange(samples), draw.integers(0, classes, samples)] += 8
    return values


def tasks(values, *ops):
    return {part.task for part in guess(seen(out("output", values, *ops))).parts}


@pytest.mark.parametrize("classes", [37, 100, 1000, 21841])
@pytest.mark.parametrize("samples", [1, 2, 3, 4, 6, 8, 32])
def test_class_scores_of_few_samples_do_not_differ_in_scale(samples, classes):
    """Of a thousand standard deviations of four samples, the largest is always some 30 times the smallest."""
    assert tasks(logits(samples, classes), "Gemm") == {"classification"}


@pytest.mark.parametrize("samples", [8, 64])
def test_classes_that_training_never_showed_do_not_differ_in_scale(samples):
    values = logits(samples, 1001)
    values[:, 0] = -3 + 0.001 * values[:, 0]
    assert tasks(values, "Gemm") == {"classification"}


def test_scales_differ_where_the_same_channels_are_loud_among_all_samples():
    units = np.array([1, 10, 0.1, 1000, 0.1, 6])
    values = np.random.default_rng(6).standard_normal((24, 6)) * units
    assert unlike_scales(out("output", values, "Gemm"), -1)
    assert not unlike_scales(out("output", values[:7], "Gemm"), -1)
    values[5, 0] = np.inf
    assert unlike_scales(out("output", values, "Gemm"), -1)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("op", ["Softmax", "Sigmoid"])
def test_probabilities_of_a_classifier_that_is_sure_are_no_directions(op, classes):
    """(1, 0) has the length 1."""
    draw = np.random.default_rng(3)
    sure = 20.0 * np.eye(classes)[draw.integers(0, classes, 16)]
    values = softmax(sure) if op == "Softmax" else 1 / (1 + np.exp(10 - sure))
    assert np.allclose(np.linalg.norm(values, axis=1), 1, atol=1e-3)
    assert tasks(values, op) == {"classification"}


@pytest.mark.parametrize(
    ("name", "op", "task"),
    [("logits", "Gemm", "classification"), ("output", "Softmax", "classification"), ("output", "LogSoftmax", "classification"),
     ("output", "Sigmoid", "classification"), ("embedding", "Gemm", "embedding"), ("wave", "Gemm", "regression")],
)  # fmt: skip
def test_bins_of_a_quantity_are_classes_though_neighbours_vary_together(name, op, task):
    """Ages or pitches in 96 bins: the scores of two neighbouring bins are alike, as two samples of a signal are."""
    draw, bins = np.random.default_rng(3), np.arange(96)
    scores = 3 - np.square(bins - draw.uniform(10, 86, (16, 1))) / 90 + draw.normal(0, 0.1, (16, 96))
    values = {"Softmax": softmax(scores), "LogSoftmax": np.log(softmax(scores)), "Sigmoid": 1 / (1 + np.exp(-scores))}
    found = {part.task for part in guess(seen(out(name, values.get(op, scores), op))).parts}
    assert task in found and ("regression" in found) is (task == "regression")


def test_samples_that_are_nearly_alike_make_no_landmarks_of_a_thousand_classes():
    """Calibrated on noise, a classifier gives nearly the same scores for all samples."""
    draw = np.random.default_rng(3)
    values = draw.normal(0, 2, 1000) + draw.normal(0, 0.2, (16, 1000))
    assert tasks(values, "Gemm") == {"classification"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("classes", [10, 96, 1000])
def test_scores_of_minus_infinity_are_classes(classes, everywhere):
    """Of classes that are masked, and of those that a sample cannot have."""
    values = logits(16, classes)
    if everywhere:
        values[:, 4] = -np.inf
    else:
        values[np.random.default_rng(5).random(values.shape) < 0.1] = -np.inf
    assert "regression" not in tasks(values, "Gemm")
    assert "classification" in tasks(values, "Gemm")
