"""Boxes read from outputs of the layouts in use."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.evaluation.numerics.boxes import Detections, detections, grid, iou, matched, otsu


def test_intersection_over_union():
    first = np.array([[0, 0, 10, 10]], float)
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [5, 5, 5, 5]], float)
    assert iou(first, others)[0].tolist() == pytest.approx([1, 1 / 3, 0, 0])


def test_boxes_of_one_class_that_overlap_are_one():
    rows = np.array([[[5, 5, 10, 10, 0.9, 0.1], [5.5, 5, 10, 10, 0.8, 0.85], [50, 50, 10, 10, 0.2, 0.7]]])
    (found,) = detections([rows], {"layout": "joint", "axis": -1, "format": "cxcywh"}, 0.5)
    assert found.scores.tolist() == [0.9, 0.85, 0.7] and found.classes.tolist() == [0, 1, 1]
    assert found.boxes[0].tolist() == [0, 0, 10, 10]
    (swapped,) = detections([np.moveaxis(rows, 1, 2)], {"layout": "joint", "axis": -2, "format": "cxcywh"}, 0.5)
    assert np.array_equal(swapped.boxes, found.boxes)


def test_objectness_and_backgrounds_and_logits():
    rows = np.array([[[0, 0, 9, 9, 0.5, 0.9, 0.2], [20, 20, 29, 29, 0.01, 0.9, 0.9]]])
    (found,) = detections([rows], {"layout": "joint", "axis": -1, "objectness": True}, 0.3)
    assert found.scores.tolist() == [pytest.approx(0.45)] and found.classes.tolist() == [0]
    boxes, scores = np.array([[[0, 0, 9, 9], [20, 20, 29, 29]]]), np.array([[[4.0, 0, 0], [0, 0, 3.0]]])
    settings = {"layout": "apart", "activation": "softmax", "background": 0}
    (found,) = detections([boxes, scores], settings, 0.5)
    assert found.classes.tolist() == [2] and found.scores[0] == pytest.approx(0.909, abs=1e-3)
    named = [boxes, np.array([[0.9, 0.3]]), np.array([[7, 1]])]
    (found,) = detections(named, {"layout": "apart"}, 0.5)
    assert found.classes.tolist() == [7]


def test_cells_of_a_detector_without_anchors():
    cells, strides = grid((64, 32), (8, 16, 32))
    assert len(cells) == 8 * 4 + 4 * 2 + 2 and cells[5].tolist() == [1, 1] and strides[-1].tolist() == [32]
    raw = np.zeros((1, 42, 5))
    raw[0, 5] = [0.5, 0.5, np.log(2), 0, 0.9]
    settings = {"layout": "joint", "axis": -1, "format": "grid", "size": [64, 32], "strides": [8, 16, 32]}
    (found,) = detections([raw], settings, 0.5)
    assert found.boxes[0].tolist() == pytest.approx([4, 8, 20, 16])


def test_each_detection_has_its_match_to_itself():
    one = Detections(np.array([[0, 0, 10, 10], [0, 0, 10, 9]], float), np.array([0.9, 0.8]), np.array([1, 1]))
    assert matched(one, one.over(0.85)) == 1 and matched(one, one) == 2


def test_the_threshold_parts_two_groups():
    values = np.concatenate([np.linspace(0.05, 0.2, 50), np.linspace(0.7, 0.9, 10)])
    assert 0.2 < otsu(values) < 0.7 and otsu(np.array([0.3])) == 0.3


def test_a_detection_is_its_own_match_whatever_its_box():
    boxes = np.array([[0, 0, 4, 4], [6, 6, 5, 9], [3, 3, 3, 8], [2, 2, 2, 2]], np.float64)
    found = Detections(boxes, np.full(4, 0.9), np.arange(4))
    assert matched(found, found) == 4
    moved = Detections(boxes + 20, found.scores, found.classes)
    assert matched(found, moved) == 0
