"""Find a detector's boxes, scores and classes among a model's outputs by their shapes and values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.guessing.chosen_boxes import chosen_boxes, chosen_indices
from toolkit.evaluation.numerics.boxes import best_scores, detections, otsu, row_boxes
from toolkit.evaluation.numerics.ranks import two_largest
from toolkit.evaluation.observation.observed import FAINT, SeenModel, SeenOutput, quantized_settings
from toolkit.evaluation.tasks import OutputPart

_FEWEST = 5
"""Fewest numbers per anchor, a box and a score; also the fewest falling steps that show that rows are sorted."""
_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
"""Strides of feature maps that detectors use; their numbers of cells must add up to that of the anchors."""
_SEEN, _SURE = 0.05, 0.3
"""Scores below the first are background; class scores above the second are confident."""
_LEAST, _MOST = 0.1, 0.6
"""Limits of the score threshold that is derived from the model's scores."""
_CHOSEN = 0.5
"""Score threshold for boxes that a model has selected itself and returns without scores: each counts as 1."""
_SIZED = 0.95
"""Share of boxes or positions that must have a property; the rest may be noise."""
_MOST_PLACES = 0.6
"""Least share of positions at which "no object" must be the argmax if the classes look independent."""
_BELOW = 0.25
"""How far below 0 the mean logit of independent classes is at least, relative to the mean of the best logits."""
_VARIANCES, _UNIT = [0.1, 0.2], [1.0, 1.0]
"""Units of the offsets of an anchor's centre and log size: those of SSD, and none."""
_LOG_4 = math.log(4)
"""An object's anchor is less than its own size away and differs in size by less than a factor of 4: else offsets have
units."""
_FEW_WEAK = 0.2
"""Weak detections count as few up to this number per confident one."""


def detection_part(seen: SeenModel) -> OutputPart | None:
    """The part made of the outputs that hold detections, with the settings to read them; None if there are none.

    A state for the next step only counts if its name contains "box": a cache may have an extent of four too.
    """
    outputs = [one for one in seen.outputs if one.samples and (one.name not in seen.states or _called_boxes(one))]
    if seen.inputs and all(one.ndim < 2 for one in seen.inputs.values()):
        # detectors read pictures, points or multichannel signals, not a row of characters or numbers
        return None
    for output in outputs:
        rows = _rows(output)
        if rows is not None:
            return _part((output,), rows)
    pairs = [found for boxes in outputs if (found := _apart(boxes, outputs, seen)) is not None]
    if pairs:
        # scores of four classes have the shape of boxes, so the best pair is taken, not the first
        return _part(*_with_selected(*max(pairs, key=_signs_of_boxes), outputs))
    for output in outputs:
        joint = _joint(output, seen)
        if joint is not None:
            return _part((output,), joint)
    chosen = chosen_boxes(outputs, seen)
    if chosen is not None:
        given, how = chosen
        names = tuple(one.name for one in given)
        # boxes that rows index keep their order
        ranked = [names[-1]] if how["chosen"] == "rows" else True
        # rows that index boxes are those of the whole batch
        own = given[:1] if how["chosen"] == "rows" else given
        settings = {**how, **_batch_axes(own), "ranked": ranked, "threshold": _CHOSEN}
        settings |= quantized_settings(given)
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
    """Outputs and settings, extended by the output of NonMaxSuppression's rows (sample, class, box) if there is one."""
    if len(chosen) != 2 or "axis" not in settings or settings.get("activation"):
        return chosen, settings
    boxes, scores = chosen
    most = (scores.shape[settings["axis"]], math.prod(boxes.shape) // 4)
    for one in outputs:
        rows = [value for value in one.samples if value.ndim == 2 and value.shape[1] == 3]
        if not one.discrete or "NonMaxSuppression" not in one.ops or len(rows) != len(one.samples):
            continue
        whole = np.concatenate(rows)
        if not len(whole) or (whole.min() >= 0 and (whole[:, 1:].max(axis=0) < most).all()):
            return (boxes, scores, one), {**settings, "selected": True}
    return chosen, settings


def _part(outputs: Sequence[SeenOutput], settings: Mapping[str, Any]) -> OutputPart:
    known = {**settings, **_batch_axes(outputs[:-1] if settings.get("selected") else outputs)}
    known |= quantized_settings(outputs)
    names = tuple(one.name for one in outputs)
    if settings.get("selected"):
        known["ranked"] = [names[-1]]
    elif _ranked(outputs, known):
        known["ranked"] = True
    return OutputPart("detection", names, {**known, "threshold": _threshold(outputs, known)})


def _batch_axes(outputs: Sequence[SeenOutput]) -> dict[str, Any]:
    """The settings for the outputs' axes of samples, which differ if a model of one image drops that of some outputs.

    If one of them has none, samples must be run one by one: ``batch_axis`` is then None.
    """
    axes = [one.batch_axis for one in outputs]
    if len(set(axes)) == 1:
        return {"batch_axis": axes[0]}
    return {"batch_axis": None if None in axes else axes[0], "batch_axes": axes}


def _ranked(outputs: Sequence[SeenOutput], settings: Mapping[str, Any]) -> bool:
    """Whether rows are sorted by score, as after TopK or NonMaxSuppression, so that their order changes with scores.

    NonMaxSuppression sorts the rows of each class separately.
    """
    if settings["layout"] == "rows":
        return True
    samples = [[one.samples[number][None] for one in outputs] for number in range(len(outputs[0].samples))]
    steps = [np.diff(best_scores(sample, settings).reshape(-1)) for sample in samples]
    if len(outputs) == 3 and not all((one <= 0).all() for one in steps):
        steps = [step for sample in samples for step in _steps_of_classes(sample, settings)]
    return all((one <= 0).all() for one in steps) and sum(int((one < 0).sum()) for one in steps) >= _FEWEST


def _steps_of_classes(sample: Sequence[Array], settings: Mapping[str, Any]) -> list[Array]:
    """The differences of score between successive rows of one class, an array for each class."""
    scores, (classes,) = best_scores(sample, settings).reshape(-1), row_boxes(sample, settings)[1]
    return [np.diff(scores[classes == one]) for one in np.unique(classes)]


def _threshold(outputs: Sequence[SeenOutput], settings: Mapping[str, Any]) -> float:
    """The score threshold that separates objects from the float model's background detections.

    It is Otsu's threshold, within ``_LEAST`` and ``_MOST``, or lower: down to where weak detections are no longer few
    (``_FEW_WEAK``), since an application with a lower threshold would show those.
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
    """Settings for rows of box, score and class, after suppression, in one of the usual column orders; else None."""
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
    """Settings for an output with boxes and scores along one axis, on either side of that of the anchors; else None."""
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
    """Whether four columns are boxes: on a larger scale than the scores, or within the picture beside sparse scores."""
    spread, unit = np.abs(boxes).max(axis=0), float(np.abs(scores).max())
    if (spread > 1.5 * max(unit, 1.0)).sum() >= 2:
        return True
    sparse = np.median(scores.max(axis=1)) < 0.1 and unit > 0.2
    return bool(boxes.min() >= -0.5 and boxes.max() <= 1.5 and np.median(boxes) > 0.1 and sparse)


def _objectness(scores: Array) -> bool:
    """Whether the first score is the objectness (whether there is an object) rather than that of a class.

    By objectness most anchors are empty. Class scores are confident where there is an object, if classes exclude each
    other, or where there is none, because they were not trained there.
    """
    if scores.shape[1] < 2:
        return False
    first, best = scores[:, 0], scores[:, 1:].max(axis=1) > _SURE
    empty = first < _SEEN
    there = first > max(0.5 * float(first.max()), _LEAST)
    return bool(empty.mean() > 0.5 and (best[empty].mean() > 0.5 or (there.any() and best[there].mean() > 0.5)))


def _format(boxes: Array, best: Array, anchors: int, seen: SeenModel) -> dict[str, Any]:
    if not len(boxes):
        # no detections after suppression; all exporters' suppression operators return corners
        return {"format": "xyxy"}
    sure = boxes[best >= max(0.5 * float(best.max()), _SEEN)]
    sure = sure if len(sure) else boxes
    if (boxes[:, 2:] < -1e-3).mean() > 0.01:
        for size in seen.images:
            for strides in _STRIDES:
                if sum((size[0] // s) * (size[1] // s) for s in strides) == anchors:
                    return {"format": "grid", "size": list(size), "strides": list(strides)}
    if ((sure[:, 2] > sure[:, 0]) & (sure[:, 3] > sure[:, 1])).mean() > _SIZED:
        return {"format": "xyxy"}
    if (sure[:, 2:] > 0).all(axis=1).mean() > _SIZED:
        return {"format": "cxcywh"}
    shift, stretch = (float(np.percentile(np.abs(part), 95)) for part in (sure[:, :2], sure[:, 2:]))
    return {"format": "offsets", "variances": _VARIANCES if max(shift, stretch / _LOG_4) > 1 else _UNIT}


def _apart(
    boxes: SeenOutput, outputs: Sequence[SeenOutput], seen: SeenModel
) -> tuple[tuple[SeenOutput, ...], dict[str, Any]] | None:
    """Outputs and settings for boxes in an output of their own, with scores (and classes) in others; else None."""
    axes = _box_axes(boxes)
    if axes is None:
        return None
    axis, anchors = axes[0], boxes.shape[axes[1]]
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
    samples = ([one.samples[number][None] for one in chosen] for number in range(len(boxes.samples)))
    best = np.concatenate([best_scores(sample, settings).reshape(-1) for sample in samples])
    best = best if len(best) == len(rows) else np.ones(len(rows))
    return chosen, {**settings, **_format(rows, best, anchors, seen)}


def _box_axes(output: SeenOutput) -> tuple[int, int] | None:
    """The axis of a box's four numbers and that of the boxes, both negative; None if it cannot hold boxes alone.

    Further axes may have an extent of 1, wherever they are: ``[boxes, 1, 4]`` and ``[4, boxes, 1]``.
    """
    rank = len(output.shape)
    axes = [place - rank for place, extent in enumerate(output.shape) if extent != 1 or rank <= 2]
    if output.discrete or len(axes) != 2:
        return None
    for axis, other in (axes[::-1], axes):
        if output.shape[axis] == 4:
            return None if output.sums_to_one(axis) else (axis, other)
    return None


def _scores_and_labels(
    boxes: SeenOutput, outputs: Sequence[SeenOutput], anchors: int
) -> tuple[SeenOutput | None, SeenOutput | None]:
    """The output with the anchors' scores, preferably one per class, and the output with their class numbers."""
    beside = [one for one in outputs if one is not boxes and len(one.samples) == len(boxes.samples)]
    others = [one for one in beside if anchors in one.shape and len(one.shape) <= 2]
    labels = next((one for one in others if len(one.shape) == 1 and _whole(one)), None)
    scored = [one for one in others if one is not labels and not one.discrete]
    scores = next((one for one in scored if len(one.shape) == 2), None) or next(iter(scored), None)
    return scores, labels


def _signs_of_boxes(found: tuple[tuple[SeenOutput, ...], dict[str, Any]]) -> tuple[bool, bool]:
    """Evidence that an output holds boxes: whether nearly all sizes are positive, and whether its name says so."""
    (boxes, *_), settings = found
    sizes = boxes.stacked(settings["box_axis"])[:, 2:]
    sized = settings["format"] != "cxcywh" or bool((sizes > 0).all(axis=1).mean() > _SIZED)
    return sized, _called_boxes(boxes)


def _called_boxes(output: SeenOutput) -> bool:
    """Whether an output's name contains "box"."""
    return any("box" in word for word in output.words)


def _of_each_box(scores: SeenOutput, boxes: SeenOutput, axis: int) -> bool:
    """Whether every sample has four numbers per box and as many scores as boxes."""
    pairs = zip(boxes.samples, scores.samples)
    return all(box.shape[axis] == 4 and box.size // 4 in score.shape for box, score in pairs)


def _whole(output: SeenOutput) -> bool:
    """Whether an output holds integers, possibly as floats, as class numbers are."""
    values = output.flat
    return output.discrete or bool(len(values) and (values == np.rint(values)).all() and values.max() > 1)


def _activation(scores: SeenOutput, axis: int) -> dict[str, Any]:
    """The settings for turning scores into probabilities, and for the "no object" class, if there is one.

    Classes that exclude each other need such a class, the first or the last. It is the argmax at most positions; with
    few queries, at its even share of them at least. Logits of such classes have a value above 0 at nearly every
    position, those of independent classes only where there is an object. If every position has one, ``_independent``
    decides.
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
    """Whether logits [positions, classes] are those of independent classes although each position has an object.

    Then all but the best are far below 0. Softmax depends on differences only: its gradient sums to 0 over the classes,
    and so do logits trained by plain gradient descent. Adam lets them drift below 0 (as in DETR), so the caller uses
    this only if fewer than ``_MOST_PLACES`` of the positions have the end class. Two classes do not suffice to tell.
    """
    if logits.shape[1] < 3 or not len(logits):
        return False
    second, best = two_largest(logits)
    return bool((second <= 0).mean() >= _SIZED and logits.mean() < -_BELOW * best.mean())
