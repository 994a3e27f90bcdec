"""Boxes and scores read from a detector's outputs: layouts, formats, overlap and suppression."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.numerics.softmax import softmax

OVERLAP = 0.5
_MOST = 300
_LARGEST = math.log(1000 / 16)
"""Log of the largest ratio of a box to its anchor, as in torchvision."""
_APART = 1e6
"""Distance between two anchors whose places are not known, so that boxes of different anchors do not overlap."""


@dataclass(frozen=True)
class Detections:
    """The detections in one sample, the best score first.

    Attributes:
        boxes: x1, y1, x2, y2, float64 [n, 4].
        scores: float64 [n].
        classes: int64 [n].
    """

    boxes: Array
    scores: Array
    classes: Array

    def over(self, least: float) -> Detections:
        """The detections with a score of at least ``least``."""
        keep = self.scores >= least
        return Detections(self.boxes[keep], self.scores[keep], self.classes[keep])


@dataclass(frozen=True)
class BoxLayout:
    """Where a detector's outputs hold boxes, scores and classes, and in which form.

    Attributes:
        layout: ``joint``: one output whose ``axis`` holds 4 box values, the objectness if there is one, then class
            scores; ``apart``: boxes, scores, and class numbers if the scores have no axis of classes; ``rows``: one
            output of rows after suppression: box, score, class; ``chosen``: boxes after suppression without scores,
            which all count as 1, and another output; ``indices``: indices of boxes that the model does not return, each
            treated as a distinct box.
        format: ``xyxy``, ``cxcywh``, ``grid`` (YOLOX's, relative to the cells of ``size`` with ``strides``) or
            ``offsets`` (from anchors that the model does not hold, in units of ``variances``).
        axis: the axis of scores, or of boxes and scores, counted from the end.
        box_axis: the axis of a box's four numbers, counted from the end.
        objectness: whether the first score of a joint output is the objectness.
        columns: of ``rows``, those of box, score and class; of ``indices``, those of class and index, or of the index.
        chosen: what the other output of chosen boxes holds: ``classes``, ``places`` among all boxes,
            NonMaxSuppression's ``rows`` that index boxes, or ``rows beside`` the boxes.
        activation: ``sigmoid`` or ``softmax`` if scores are logits, else empty.
        background: the class of no object; None if there is none.
        selected: whether the last output is NonMaxSuppression's for boxes and scores: rows of sample, class and box
            index for the whole batch.
        size: height and width of the grid's input in pixels.
        strides: pixels per cell of the grid, the finest first.
        variances: units of offsets, of centres and of sizes.
    """

    layout: Literal["joint", "apart", "rows", "chosen", "indices"]
    format: Literal["xyxy", "cxcywh", "grid", "offsets"] = "xyxy"
    axis: int = -1
    box_axis: int = -1
    objectness: bool = False
    columns: Sequence[int] = ()
    chosen: Literal["", "classes", "places", "rows", "rows beside"] = ""
    activation: Literal["", "sigmoid", "softmax"] = ""
    background: int | None = None
    selected: bool = False
    size: Sequence[int] = ()
    strides: Sequence[int] = ()
    variances: Sequence[float] = ()

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> BoxLayout:
        """The layout in the settings of an output's part, which also hold settings of other kinds."""
        names = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in settings.items() if name in names})


def boxes_known(settings: Mapping[str, Any]) -> bool:
    """Whether the boxes themselves are known, so that labelled boxes compare with them: no indices or offsets.

    Args:
        settings: the part's settings, see ``BoxLayout``.
    """
    form = BoxLayout.of(settings)
    return form.layout != "indices" and form.format != "offsets"


def detections(values: Sequence[Array], settings: Mapping[str, Any], least: float) -> list[Detections]:
    """Each sample's detections with a score of at least ``least``.

    Args:
        values: the part's outputs, each [batch, ...].
        settings: the part's settings, see ``BoxLayout``.
        least: the least score.
    """
    form = BoxLayout.of(settings)
    if form.layout == "rows":
        return [_row_detections(rows, least) for rows in _rows(values[0], form)]
    if form.layout == "chosen":
        return _chosen(values, form)
    if form.layout == "indices":
        return [_named_boxes(rows) for rows in _numbers_of(values[0], form.columns)]
    if form.selected:
        boxes, scores, _ = _apart(values[:2], form)
        chosen = np.asarray(values[2]).reshape(-1, 3).astype(np.int64)
        return [_selected(boxes[i], scores[i], chosen[chosen[:, 0] == i], least) for i in range(len(boxes))]
    boxes, scores, classes = _apart(values, form)
    found = []
    for number in range(len(boxes)):
        named = classes[number] if classes is not None else None
        found.append(_suppressed(boxes[number], scores[number], named, form, least))
    return found


def row_boxes(values: Sequence[Array], settings: Mapping[str, Any]) -> tuple[list[Array], list[Array]]:
    """Each sample's boxes as corners, float64 [rows, 4], and their classes, int64 [rows], in the order of the rows.

    Args:
        values: the part's outputs, each [batch, ...].
        settings: as for ``detections``.
    """
    form = BoxLayout.of(settings)
    if form.layout == "rows":
        rows = _rows(values[0], form)
        classes = rows[..., 5] if rows.shape[-1] > 5 else np.zeros(rows.shape[:2])
        boxes = rows[..., :4]
    elif form.layout == "chosen":
        boxes, classes = _boxes_of(values, form), np.asarray(values[1])
        of_rows = form.chosen.startswith("rows")
        classes = classes.reshape(*boxes.shape[:2], 3 if of_rows else 1)[..., 1 if of_rows else 0]
        classes = np.zeros(boxes.shape[:2]) if form.chosen == "places" else classes
    else:
        boxes, scores, named = _apart(values, form)
        classes = named if named is not None else _without_background(scores, form).argmax(axis=-1)
    usable = np.nan_to_num(boxes, nan=0.0, posinf=0.0, neginf=0.0)
    numbers = np.nan_to_num(np.asarray(classes, np.float64), nan=-1.0, posinf=-1.0, neginf=-1.0)
    return list(usable), list(np.rint(numbers).astype(np.int64))


def best_scores(values: Sequence[Array], settings: Mapping[str, Any]) -> Array:
    """The best class's score of every anchor or row, float64 [batch, anchors]."""
    form = BoxLayout.of(settings)
    if form.layout == "rows":
        return _rows(values[0], form)[..., 4]
    _, scores, _ = _apart(values[:2] if form.selected else values, form)
    return np.asarray(_without_background(scores, form).max(axis=-1))


def otsu(values: Array) -> float:
    """The threshold that best separates values into two groups: N. Otsu, IEEE Trans. SMC 9(1), 1979.

    Args:
        values: float64 [n], at least one.
    """
    ordered = np.sort(values)
    if len(ordered) < 2 or ordered[0] == ordered[-1]:
        return float(ordered[0])
    count = np.arange(1, len(ordered))
    low = np.cumsum(ordered)[:-1] / count
    high = (ordered.sum() - np.cumsum(ordered)[:-1]) / (len(ordered) - count)
    best = int(np.argmax(count * (len(ordered) - count) * np.square(high - low)))
    return float((ordered[best] + ordered[best + 1]) / 2)


def iou(first: Array, second: Array) -> Array:
    """Intersection over union of boxes, float64 [n, m], from [n, 4] and [m, 4] as x1, y1, x2, y2."""
    return _overlaps(first.T[:, :, None], second.T[:, None])


def _overlaps(first: Array, second: Array) -> Array:
    """Intersection over union of boxes, of arrays [4, ...] as x1, y1, x2, y2 that are broadcast against each other."""
    width = np.minimum(first[2], second[2]) - np.maximum(first[0], second[0])
    height = np.minimum(first[3], second[3]) - np.maximum(first[1], second[1])
    common = np.maximum(width, 0) * np.maximum(height, 0)
    union = _area(first) + _area(second) - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def _area(sides: Array) -> Array:
    return np.asarray(np.maximum(sides[2] - sides[0], 0) * np.maximum(sides[3] - sides[1], 0))


def matched(found: Detections, among: Detections) -> int:
    """The number of ``found`` matched one-to-one with ``among``, by class and an IoU of at least 0.5.

    A box with swapped corners counts as the box between them, and one without area matches only an equal box, so a
    detection always matches itself.
    """
    if not len(found.scores) or not len(among.scores):
        return 0
    first, second = (np.sort(one.boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4) for one in (found, among))
    fits = iou(first, second)
    fits[(first[:, None] == second[None]).all(axis=-1)] = 1.0
    fits[found.classes[:, None] != among.classes[None]] = 0.0
    count = 0
    for row in fits:
        best = int(row.argmax())
        if row[best] >= OVERLAP:
            count += 1
            fits[:, best] = 0.0
    return count


def corners(boxes: Array, form: BoxLayout) -> Array:
    """Boxes as x1, y1, x2, y2, float64 [..., anchors, 4].

    Offsets are those of R-CNN (R. Girshick et al., CVPR 2014, appendix C), with the variances of SSD. Since the anchors
    are not known, each counts as a unit square that is far from all others.
    """
    if form.format == "xyxy":
        return boxes
    centre, size = boxes[..., :2], boxes[..., 2:]
    if form.format == "offsets":
        first, second = form.variances
        size = np.exp(np.clip(size * second, -20, _LARGEST))
        centre = centre * first + _APART * np.arange(boxes.shape[-2])[:, None]
    if form.format == "grid":
        cells, strides = grid(form.size, form.strides)
        centre, size = (centre + cells) * strides, np.exp(np.clip(size, -20, 20)) * strides
    return np.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def grid(size: Sequence[int], strides: Sequence[int]) -> tuple[Array, Array]:
    """The grid cells of an anchor-free detector (YOLOX): x and y [anchors, 2], and strides [anchors, 1].

    Args:
        size: height and width of the input in pixels.
        strides: pixels per cell, the finest first.
    """
    cells, steps = [], []
    for stride in strides:
        y, x = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        steps.append(np.full((cells[-1].shape[0], 1), float(stride)))
    return np.concatenate(cells).astype(np.float64), np.concatenate(steps)


def _apart(values: Sequence[Array], form: BoxLayout) -> tuple[Array, Array, Array | None]:
    """Boxes [batch, anchors, 4], scores [batch, anchors, classes], and class numbers if the model returns them."""
    first = np.asarray(values[0], np.float64)
    if form.layout == "joint":
        rows = np.moveaxis(first, form.axis, -1)
        rows = rows.reshape(len(rows), -1, rows.shape[-1])
        boxes, scores = rows[..., :4], rows[..., 4:]
        if form.objectness:
            scores = scores[..., :1] * scores[..., 1:] if scores.shape[-1] > 1 else scores
        return corners(boxes, form), _activated(scores, form), None
    boxes = np.moveaxis(first, form.box_axis, -1)
    boxes = boxes.reshape(len(boxes), -1, 4)
    scores = np.asarray(values[1], np.float64)
    if len(values) > 2:
        return (corners(boxes, form), _activated(scores.reshape(len(scores), -1, 1), form),
                np.rint(np.asarray(values[2], np.float64)).astype(np.int64).reshape(len(scores), -1))  # fmt: skip
    if scores.ndim == 2:
        scores = scores[..., None]
    scores = np.moveaxis(scores, form.axis, -1)
    # without boxes numpy cannot infer the number of scores per box
    each = -1 if scores.size else scores.shape[-1]
    return corners(boxes, form), _activated(scores.reshape(len(scores), boxes.shape[1], each), form), None


def _activated(scores: Array, form: BoxLayout) -> Array:
    if form.activation == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-np.clip(scores, -60, 60))))
    if form.activation == "softmax":
        return softmax(scores)
    return scores


def _without_background(scores: Array, form: BoxLayout) -> Array:
    if form.background is None:
        return scores
    kept = scores.copy()
    kept[..., form.background] = -np.inf
    return kept


def _suppressed(boxes: Array, scores: Array, named: Array | None, form: BoxLayout, least: float) -> Detections:
    """One sample's detections after non-maximum suppression per class."""
    scores = _without_background(scores, form)
    scores = np.where(np.isfinite(boxes).all(axis=-1, keepdims=True), np.nan_to_num(scores, nan=-np.inf), -np.inf)
    anchors, classes = np.nonzero(scores >= least)
    values = scores[anchors, classes]
    order = np.argsort(-values, kind="stable")[: 10 * _MOST]
    anchors, classes, values = anchors[order], classes[order], values[order]
    if named is not None:
        classes = named[anchors]
    if form.format == "offsets":
        # no anchor suppresses another, and many of one object score high: the limit is on objects
        return Detections(boxes[anchors], values, classes)
    kept: list[int] = []
    alive, sides = np.ones(len(anchors), bool), np.ascontiguousarray(boxes[anchors].T)
    for place in range(len(anchors)):
        if not alive[place] or len(kept) >= _MOST:
            continue
        kept.append(place)
        same = alive & (classes == classes[place])
        same[: place + 1] = False
        others = np.nonzero(same)[0]
        if len(others):
            alive[others[_overlaps(sides[:, place, None], sides[:, others]) > OVERLAP]] = False
    return Detections(boxes[anchors[kept]], values[kept], classes[kept])


def _rows(value: Array, form: BoxLayout) -> Array:
    """Rows after suppression as box, score and class, float64 [batch, rows, 6]; ``columns``: where these six are."""
    rows = np.asarray(value, np.float64)
    rows = rows.reshape(len(rows), -1, rows.shape[-1])
    return rows[..., list(form.columns)] if form.columns else rows


def _selected(boxes: Array, scores: Array, rows: Array, least: float) -> Detections:
    """One sample's detections, as selected by the model's NonMaxSuppression."""
    values = np.nan_to_num(scores[rows[:, 2], rows[:, 1]], nan=-np.inf)
    order = np.argsort(-values, kind="stable")
    rows = rows[order[values[order] >= least]]
    return Detections(boxes[rows[:, 2]], scores[rows[:, 2], rows[:, 1]], rows[:, 1])


def _chosen(values: Sequence[Array], form: BoxLayout) -> list[Detections]:
    """Each sample's boxes as selected by the model, without scores."""
    boxes = _boxes_of(values, form)
    numbers, how = np.asarray(values[1]).astype(np.int64), form.chosen
    found = []
    for place, own in enumerate(boxes):
        if how.startswith("rows"):
            rows = numbers.reshape(-1, 3)
            # one list has the rows of the whole batch, unless it is a single sample
            rows = rows[rows[:, 0] == place] if how == "rows" and len(boxes) > 1 else rows
            own, classes = own[rows[:, 2]] if how == "rows" else own, rows[:, 1]
        else:
            named = numbers.reshape(boxes.shape[:2])[place]
            classes = named if how == "classes" else np.zeros(len(own), np.int64)
        # padding has no valid class or box
        kept = (classes >= 0) & np.isfinite(own).all(axis=1) & (own != 0).any(axis=1)
        found.append(Detections(own[kept], np.ones(int(kept.sum())), classes[kept]))
    return found


def _boxes_of(values: Sequence[Array], form: BoxLayout) -> Array:
    """The first output as corners, float64 [batch, boxes, 4]."""
    boxes = np.moveaxis(np.asarray(values[0], np.float64), form.box_axis, -1)
    return corners(boxes.reshape(len(boxes), -1, 4), form)


def _numbers_of(value: Array, columns: Sequence[int]) -> list[Array]:
    """Class and index of each chosen box by sample, each int64 [boxes, 2]."""
    width = 1 if len(columns) == 1 else 3
    found = [np.asarray(one).reshape(-1, width)[:, list(columns)].astype(np.int64) for one in value]
    return [one if width > 1 else np.concatenate([np.zeros_like(one), one], axis=1) for one in found]


def _named_boxes(rows: Array) -> Detections:
    """Distinct boxes in place of indices: boxes of two indices do not overlap."""
    # padding has no valid index
    rows = rows[(rows >= 0).all(axis=1)]
    left = 2.0 * rows[:, 1]
    return Detections(np.stack([left, 0 * left, left + 1, 0 * left + 1], axis=1), np.ones(len(rows)), rows[:, 0])


def _row_detections(rows: Array, least: float) -> Detections:
    scores = np.nan_to_num(rows[:, 4], nan=-np.inf)
    order = np.argsort(-scores, kind="stable")
    order = order[(scores[order] >= least) & np.isfinite(rows[order]).all(axis=1)]
    classes = rows[order, 5] if rows.shape[1] > 5 else np.zeros(len(order))
    return Detections(rows[order, :4], scores[order], np.rint(classes).astype(np.int64))
