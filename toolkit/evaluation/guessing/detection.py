"""Where a detector keeps boxes, scores and classes, read off shapes and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.guessing.chosen_boxes import chosen_boxes, chosen_indices
from toolkit.evaluation.numerics.boxes import best_scores, detections, otsu, row_boxes
from toolkit.evaluation.numerics.ranks import two_largest
from toolkit.evaluation.observation.observed import FAINT, SeenModel, SeenOutput
from toolkit.evaluation.tasks import OutputPart

_FEWEST = 5
_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
_SEEN, _SURE = 0.05, 0.3
_LEAST, _MOST = 0.1, 0.6
_CHOSEN = 0.5
"""Below 1, which every box counts that a model has chosen itself and gives without a score."""
_SIZED = 0.95
_MOST_PLACES = 0.6
_BELOW = 0.25
"""By what share of the best logit the mean of all classes must lie below 0 for independent classes."""
_FEW_WEAK = 0.2
"""So many weak detections, for one that is sure, are few."""


def detection_part(seen: SeenModel) -> OutputPart | None:
    """The outputs that hold detections, and how; None where none do.

    A state that the next step reads is one only if its name says so: a stream's cache may be four wide as well.
    """
    outputs = [one for one in seen.outputs if one.samples and (one.name not in seen.states or _called_boxes(one))]
    if seen.inputs and all(one.ndim < 2 for one in seen.inputs.values()):
        # boxes are found in pictures, in points or along signals of several channels, not in rows of characters
        return None
    for output in outputs:
        rows = _rows(output)
        if rows is not None:
            return _part((output,), rows)
    pairs = [found for boxes in outputs if (found := _apart(boxes, outputs, seen)) is not None]
    if pairs:
        # scores of four classes have the shape of boxes
        return _part(*_with_selected(*max(pairs, key=_signs_of_boxes), outputs))
    for output in outputs:
        joint = _joint(output, seen)
        if joint is not None:
            return _part((output,), joint)
    chosen = chosen_boxes(outputs, seen)
    if chosen is not None:
        given, how = chosen
        names = tuple(one.name for one in given)
        # boxes that rows name stay where they are
        ranked = [names[-1]] if how["chosen"] == "rows" else True
        settings = {**how, "batch_axis": given[0].batch_axis, "ranked": ranked, "threshold": _CHOSEN}
        return OutputPart("detection", names, settings)
    numbers = chosen_indices(outputs, seen)
    if numbers is not None:
        one, how = numbers
        settings = {**how, "batch_axis": one.batch_axis, "ranked": [one.name], "threshold": _CHOSEN}
        return OutputPart("detection", (one.name,), settings)
    return None


def _with_selected(
    chosen: tuple[SeenOutput, ...], settings: dict[str, Any], outputs: Sequence[SeenOutput]
) -> tuple[tuple[SeenOutput, ...], dict[str, Any]]:
    """The part with the output that says which boxes NonMaxSuppression chose, if any: by sample, class and box."""
    if len(chosen) != 2 or "axis" not in settings or settings.get("activation"):
        return chosen, settings
    boxes, scores = chosen
    most = (scores.shape[settings["axis"]], boxes.shape[-3 - settings["box_axis"]])
    for one in outputs:
        rows = [value for value in one.samples if value.ndim == 2 and value.shape[1] == 3]
        if not one.discrete or "NonMaxSuppression" not in one.ops or len(rows) != len(one.samples):
            continue
        whole = np.concatenate(rows)
        if not len(whole) or (whole.min() >= 0 and (whole[:, 1:].max(axis=0) < most).all()):
            return (boxes, scores, one), {**settings, "selected": True}
    return chosen, settings


def _part(outputs: Sequence[SeenOutput], settings: Mapping[str, Any]) -> OutputPart:
    known = {**settings, "batch_axis": outputs[0].batch_axis}
    names = tuple(one.name for one in outputs)
    if settings.get("selected"):
        known["ranked"] = [names[-1]]
    elif _ranked(outputs, known):
        known["ranked"] = True
    return OutputPart("detection", names, {**known, "threshold": _threshold(outputs, known)})


def _ranked(outputs: Sequence[SeenOutput], settings: Mapping[str, Any]) -> bool:
    """Whether a row's place is its rank by score, as after TopK and NonMaxSuppression: it moves with every score.

    NonMaxSuppression gives the rows of each class by themselves.
    """
    if settings["layout"] == "rows":
        return True
    samples = [[one.samples[number][None] for one in outputs] for number in range(len(outputs[0].samples))]
    steps = [np.diff(best_scores(sample, settings).reshape(-1)) for sample in samples]
    if len(outputs) == 3 and not all((one <= 0).all() for one in steps):
        steps = [step for sample in samples for step in _steps_of_classes(sample, settings)]
    return all((one <= 0).all() for one in steps) and sum(int((one < 0).sum()) for one in steps) >= _FEWEST


def _steps_of_classes(sample: Sequence[Array], settings: Mapping[str, Any]) -> list[Array]:
    """By class, how far the score changes from each row of it to the next one."""
    scores, (classes,) = best_scores(sample, settings).reshape(-1), row_boxes(sample, settings)[1]
    return [np.diff(scores[classes == one]) for one in np.unique(classes)]


def _threshold(outputs: Sequence[SeenOutput], settings: Mapping[str, Any]) -> float:
    """The score that separates objects from the float model's other detections; weak ones count too where they are few.

    An application with a lower threshold shows the weak ones too: where they are few, they are answers.
    """
    samples = [[one.samples[number][None] for one in outputs] for number in range(len(outputs[0].samples))]
    best = np.concatenate([best_scores(sample, settings).reshape(-1) for sample in samples] or [np.zeros(0)])
    top = float(best[np.isfinite(best)].max(initial=0.0))
    if top < _LEAST:
        return 0.5 * top if top >= FAINT else 0.25
    scores = np.concatenate([detections(sample, settings, _SEEN * top)[0].scores for sample in samples])
    sure = float(np.clip(otsu(scores), _LEAST, _MOST))
    weak = np.sort(scores[(scores >= _LEAST) & (scores < sure)])[::-1]
    allowed = int(_FEW_WEAK * (scores >= sure).sum())
    if len(weak) <= allowed:
        return _LEAST
    return float((weak[allowed] + (weak[allowed - 1] if allowed else sure)) / 2)


def _rows(output: SeenOutput) -> dict[str, Any] | None:
    """Rows of a box, a score and a class that are suppressed already, in one of the orders in use."""
    if output.discrete or not 2 <= len(output.shape) <= 3 or output.shape[-1] not in (6, 7):
        return None
    values = output.stacked(-1)
    orders = {6: ((0, 1, 2, 3, 4, 5), (2, 3, 4, 5, 1, 0), (0, 1, 2, 3, 5, 4)),
              7: ((1, 2, 3, 4, 6, 5), (3, 4, 5, 6, 2, 1))}[output.shape[-1]]  # fmt: skip
    for columns in orders:
        rows = values[:, columns]
        rows = rows[rows[:, 4] > 0]
        if len(rows) < 2 or rows[:, 4].max() > 1 + 1e-6:
            continue
        whole = np.abs(rows[:, 5] - np.rint(rows[:, 5])).max() < 1e-3 and rows[:, 5].min() >= -1e-3
        ordered = ((rows[:, 2] >= rows[:, 0]) & (rows[:, 3] >= rows[:, 1])).mean() > 0.95
        if whole and ordered and (rows[:, 2] > rows[:, 0]).any():
            return {"layout": "rows", "columns": list(columns)}
    return None


def _joint(output: SeenOutput, seen: SeenModel) -> dict[str, Any] | None:
    """Boxes and scores along one axis, before or after that of the anchors."""
    if output.discrete or len(output.shape) != 2 or min(output.shape) < _FEWEST:
        return None
    if output.sums_to_one(-1) or output.sums_to_one(-2):
        return None
    for axis in (-1, -2):
        anchors = output.shape[-3 - axis]
        if output.shape[axis] >= anchors and not output.fixed(axis):
            continue
        values = output.stacked(axis)
        boxes, scores = values[:, :4], values[:, 4:]
        if scores.size and scores.min() >= -1e-6 and scores.max() <= 1 + 1e-6 and _box_like(boxes, scores):
            settings = {"layout": "joint", "axis": axis, "objectness": _objectness(scores)}
            return {**settings, **_format(boxes, scores.max(axis=1), anchors, seen)}
    return None


def _box_like(boxes: Array, scores: Array) -> bool:
    """Whether four columns are on a different scale, or sizes that are never negative beside sparse scores."""
    spread, unit = np.abs(boxes).max(axis=0), float(np.abs(scores).max())
    if (spread > 1.5 * max(unit, 1.0)).sum() >= 2:
        return True
    sparse = np.median(scores.max(axis=1)) < 0.1 and unit > 0.2
    return bool(boxes.min() >= -0.5 and boxes.max() <= 1.5 and np.median(boxes) > 0.1 and sparse)


def _objectness(scores: Array) -> bool:
    """Whether the first score says that there is an object.

    Most anchors are empty by it, and a class is sure of itself where there is an object (classes exclude each other),
    or where there is none (where it was never trained).
    """
    if scores.shape[1] < 2:
        return False
    first, best = scores[:, 0], scores[:, 1:].max(axis=1) > _SURE
    empty = first < _SEEN
    there = first > max(0.5 * float(first.max()), _LEAST)
    return bool(empty.mean() > 0.5 and (best[empty].mean() > 0.5 or (there.any() and best[there].mean() > 0.5)))


def _format(boxes: Array, best: Array, anchors: int, seen: SeenModel) -> dict[str, Any]:
    if not len(boxes):
        # suppressed already, and nothing was found: such boxes are corners in every exporter's operators
        return {"format": "xyxy"}
    sure = boxes[best >= max(0.5 * float(best.max()), _SEEN)]
    sure = sure if len(sure) else boxes
    if (boxes[:, 2:] < -1e-3).mean() > 0.01:
        for size in seen.images:
            for strides in _STRIDES:
                if sum((size[0] // s) * (size[1] // s) for s in strides) == anchors:
                    return {"format": "grid", "size": list(size), "strides": list(strides)}
    corners = ((sure[:, 2] > sure[:, 0]) & (sure[:, 3] > sure[:, 1])).mean()
    return {"format": "xyxy" if corners > _SIZED else "cxcywh"}


def _apart(
    boxes: SeenOutput, outputs: Sequence[SeenOutput], seen: SeenModel
) -> tuple[tuple[SeenOutput, ...], dict[str, Any]] | None:
    """Boxes in a separate output, with scores, or scores and classes, of as many anchors."""
    axis = _box_axis(boxes)
    if axis is None:
        return None
    anchors = [extent for extent in boxes.shape if extent != 1 or len(boxes.shape) <= 2][-3 - axis]
    scores, labels = _scores_and_labels(boxes, outputs, anchors)
    if scores is None or not _of_each_box(scores, boxes, axis) or scores.largest_as(boxes):
        return None
    settings: dict[str, Any] = {"layout": "apart", "box_axis": axis}
    if len(scores.shape) == 2:
        labels = None
        settings["axis"] = -1 if scores.shape[0] == anchors else -2
        settings |= _activation(scores, settings["axis"])
    elif not scores.in_unit:
        settings["activation"] = "sigmoid"
    chosen = (boxes, scores) if labels is None else (boxes, scores, labels)
    rows = boxes.stacked(axis)
    best = best_scores([one.samples[0][None] for one in chosen], settings).reshape(-1)
    best = best if len(best) == len(rows) else np.ones(len(rows))
    return chosen, {**settings, **_format(rows, best, anchors, seen)}


def _box_axis(output: SeenOutput) -> int | None:
    """The axis of the four numbers of a box, -1 or -2; None where an output may not hold boxes and nothing else."""
    shape = tuple(extent for extent in output.shape if extent != 1 or len(output.shape) <= 2)
    if output.discrete or len(shape) != 2 or 4 not in shape:
        return None
    axis = -1 if shape[-1] == 4 else -2
    return None if output.sums_to_one(axis) else axis


def _scores_and_labels(
    boxes: SeenOutput, outputs: Sequence[SeenOutput], anchors: int
) -> tuple[SeenOutput | None, SeenOutput | None]:
    """The output with scores of as many anchors, preferably one for each class, and that with their classes."""
    others = [one for one in outputs if one is not boxes and anchors in one.shape and len(one.shape) <= 2]
    labels = next((one for one in others if len(one.shape) == 1 and _whole(one)), None)
    scored = [one for one in others if one is not labels and not one.discrete]
    scores = next((one for one in scored if len(one.shape) == 2), None) or next(iter(scored), None)
    return scores, labels


def _signs_of_boxes(found: tuple[tuple[SeenOutput, ...], dict[str, Any]]) -> tuple[bool, bool]:
    """Whether what was taken for boxes has sizes as boxes do, and whether its name says that it holds boxes."""
    (boxes, *_), settings = found
    sizes = boxes.stacked(settings["box_axis"])[:, 2:]
    sized = settings["format"] != "cxcywh" or bool((sizes > 0).all(axis=1).mean() > _SIZED)
    return sized, _called_boxes(boxes)


def _called_boxes(output: SeenOutput) -> bool:
    """Whether an output's name says that it holds boxes."""
    return any("box" in word for word in output.words)


def _of_each_box(scores: SeenOutput, boxes: SeenOutput, axis: int) -> bool:
    """Whether every sample has four numbers a box, and scores of as many boxes."""
    pairs = zip(boxes.samples, scores.samples)
    return all(box.shape[axis] in (4, 1) and box.size // 4 in score.shape for box, score in pairs)


def _whole(output: SeenOutput) -> bool:
    """Whether an output holds whole numbers, as numbers of classes are."""
    values = output.flat
    return output.discrete or bool(len(values) and (values == np.rint(values)).all() and values.max() > 1)


def _activation(scores: SeenOutput, axis: int) -> dict[str, Any]:
    """How scores become shares, and which class is «no object».

    Classes that exclude each other need such a class, the first or the last: it is what most places hold, and with few
    queries at least its even share of them. Logits of such classes have one above 0 at nearly every place, where those
    of independent classes have one only where there is an object; where that is everywhere, see ``_independent``.
    """
    values = scores.stacked(axis)
    shares, classes = scores.sums_to_one(axis), values.shape[1]
    if scores.in_unit and not shares:
        return {}
    often = np.bincount(values.argmax(axis=1), minlength=classes) / max(len(values), 1)
    end = max((classes - 1, 0), key=lambda place: often[place])
    excluding = shares or bool(len(values) and (values.max(axis=1) > 0).mean() >= _SIZED)
    least = 1 / classes if shares or not _independent(values) else _MOST_PLACES
    usual = excluding and often[end] >= least
    background = {"background": end} if classes > 1 and usual else {}
    if scores.in_unit:
        return background
    return {"activation": "softmax", **background} if background else {"activation": "sigmoid"}


def _independent(logits: Array) -> bool:
    """Whether classes have logits as if each were decided by itself although every place holds one, [places, classes].

    Then all but the best are below 0, by much. A softmax knows differences alone: its gradient adds up to 0 over the
    classes, and so do logits trained by plain gradient descent. Adam lets them drift below 0 (DETR's do), so this
    counts only where less than ``_MOST_PLACES`` hold the end class. Of two classes nobody can tell.
    """
    if logits.shape[1] < 3 or not len(logits):
        return False
    second, best = two_largest(logits)
    return bool((second <= 0).mean() >= _SIZED and logits.mean() < -_BELOW * best.mean())
