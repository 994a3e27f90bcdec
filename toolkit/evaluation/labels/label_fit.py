"""Find the built-in metrics that fit the labels, by the labels' shapes and values and an output's task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.guessing.guess import STRICTEST, Guess, fitting
from toolkit.evaluation.guessing.parts import class_axis_of, one_sided, parts_for
from toolkit.evaluation.guessing.value_clues import no_classes
from toolkit.evaluation.metric import UNLABELLED, UNLABELLED_PIXEL, are_shares, non_unit_dims, one_hot
from toolkit.evaluation.numerics.boxes import boxes_known
from toolkit.evaluation.observation.observed import SeenModel, SeenOutput
from toolkit.evaluation.tasks import OutputPart

_BOX = 5
"""Numbers per labelled box: four coordinates and a class."""
_RARE = 0.2
"""If one of two labels is rarer than this, a constant answer is right so often that accuracy has little meaning."""
_PICTURE, _BRIGHT, _COLOURS = 3, 60, 256
"""Number of axes of a picture, and the exclusive limits for the brightest value of an 8-bit one."""
_MOST = 0.5
"""If at least this share of labels is in range, the others are mistakes; if less, it is another kind of label."""


@dataclass(frozen=True)
class FittingMetric:
    """A built-in metric and an output that fit the labels.

    Attributes:
        metric: the metric's name.
        output: the name of the output that it reads.
    """

    metric: str
    output: str


def fitting_metrics(seen: SeenModel, found: Guess, labels: Sequence[Array]) -> list[FittingMetric]:
    """The metrics that fit the labels, best first: those of an output's guessed task precede all others.

    If every label is a placeholder for "no label", no metric fits.

    Args:
        seen: the model with its outputs for a few samples.
        found: the guessed tasks of its outputs.
        labels: the labels of all samples, one array per sample without the batch axis; shapes may differ.
    """
    chosen: list[FittingMetric] = []
    # indices of boxes, or their offsets from unknown anchors, cannot be compared with labelled boxes
    read = [part for part in found.parts if part.task != "detection" or boxes_known(part.settings)]
    tasks = {one.name: [part.task for part in read if one.name in part.outputs] for one in seen.outputs}
    for guessed in (True, False):
        for one in (one for one in seen.outputs if one.samples):
            others = [task for task in STRICTEST if task in _WITHOUT_GUESS and task in fitting(one)]
            amounts = one.discrete and no_classes(one)
            for task in tasks[one.name] if guessed else others:
                if amounts and task in _OF_CLASSES:
                    # colours of a picture are not classes, whatever the labels' shape
                    continue
                for metric in _FITS[task](one, _settings(task, one, seen), labels):
                    fit = FittingMetric(metric, one.name)
                    chosen += [fit] if fit not in chosen else []
    return chosen


@dataclass(frozen=True)
class OutOfRangeLabel:
    """The first label that is out of range for an output's classes, although the labels otherwise are class numbers.

    Attributes:
        index: the index of the sample.
        value: the label.
        output: the name of the output.
        classes: the output's number of classes.
        low: the smallest of all labels.
        high: the largest of all labels.
    """

    index: int
    value: int
    output: str
    classes: int
    low: int
    high: int

    @property
    def from_another_start(self) -> bool:
        """Whether all labels would be in range if they were numbered from 0."""
        return self.low > 0 and self.high - self.low < self.classes


def out_of_range_label(seen: SeenModel, found: Guess, labels: Sequence[Array]) -> OutOfRangeLabel | None:
    """The first label out of range if the labels otherwise are an output's class numbers; else None.

    Labels are taken for class numbers if they would fit a metric once they were in range, and at least half of them are
    in range, or all would be if they were numbered from another start.
    """
    if not labels or not _whole(labels, -(1 << 31), 1 << 31):
        return None
    for one in (one for one in seen.outputs if one.samples and not one.discrete):
        guessed = [part.task for part in found.parts if one.name in part.outputs]
        if labels[0].dtype.kind == "f" and not _OF_CLASSES.issuperset(guessed):
            # float labels may be continuous values, which have no range
            continue
        for task in (task for task in dict.fromkeys((*guessed, *fitting(one))) if task in _OF_CLASSES):
            stray = _out_of_range(one, task, _settings(task, one, seen), labels)
            if stray is not None:
                return stray
    return None


def _out_of_range(
    output: SeenOutput, task: str, settings: Mapping[str, Any], labels: Sequence[Array]
) -> OutOfRangeLabel | None:
    """``out_of_range_label`` for one output and one task."""
    count = 2 if "threshold" in settings else output.shape[int(settings.get("axis", class_axis_of(output)))]
    ignored = {"ctc": -1, "segmentation": UNLABELLED_PIXEL, "sequence": UNLABELLED}.get(task, np.nan)
    flat = np.concatenate([one.reshape(-1) for one in labels])
    known = flat[flat != ignored]
    inside = (known >= 0) & (known < count)
    if inside.all() or len(np.unique(known)) < 2:
        return None
    in_range = [np.where(label == ignored, label, np.clip(label, 0, count - 1)) for label in labels]
    if not _FITS[task](output, settings, in_range):
        return None
    low, high = int(known.min()), int(known.max())
    if inside.mean() < _MOST and high - low >= count:
        return None
    wrong = [(label != ignored) & ((label < 0) | (label >= count)) for label in labels]
    index = next(number for number, marks in enumerate(wrong) if marks.any())
    return OutOfRangeLabel(index, int(labels[index][wrong[index]].flat[0]), output.name, count, low, high)


def classes_read(labels: Iterable[Array]) -> frozenset[int]:
    """The classes that occur in labels of CTC outputs, one array per sample; empty if the labels are something else.

    The last value of a row and its repetitions before the end may be padding, so they do not count there.
    """
    named: set[int] = set()
    for one in labels:
        if one.ndim != 1 or one.dtype.kind not in "iu":
            return frozenset()
        row = one[one >= 0]
        inside = np.flatnonzero(row != row[-1:])
        named.update(row[: inside[-1] + 1].tolist() if len(inside) else ())
    return frozenset(named)


def _settings(task: str, output: SeenOutput, seen: SeenModel) -> Mapping[str, Any]:
    return {} if task == "detection" else parts_for(task, output, seen)[0].settings


def _shape(labels: Sequence[Array]) -> tuple[int, ...] | None:
    """The common shape of all labels; None if they differ."""
    shapes = {one.shape for one in labels}
    return shapes.pop() if len(shapes) == 1 else None


def _whole(labels: Sequence[Array], low: int, high: float) -> bool:
    """Whether all labels are integers, possibly as floats, from ``low`` to below ``high``."""
    return all(
        one.dtype.kind in "biuf"
        and bool((np.isfinite(one) & (one == np.rint(one)) & (one >= low) & (one < high)).all())
        for one in labels
    )


def _classes(output: SeenOutput, settings: Mapping[str, Any], labels: Sequence[Array]) -> tuple[str, ...]:
    shape = _shape(labels)
    if output.discrete:
        one_each = shape is not None and non_unit_dims(shape) == non_unit_dims(output.shape) == ()
        same = one_each or (shape is not None and shape == output.shape)
        return ("top1",) if same and _whole(labels, 0, np.inf) else ()
    if settings.get("single"):
        return _one_score(output, settings, labels)
    count = output.shape[int(settings.get("axis", class_axis_of(output)))] if output.shape else 1
    if shape is not None and not non_unit_dims(shape) and count > 1 and _whole(labels, 0, count):
        return ("top1", "auc")
    if shape != (count,) or count < 2 or len(output.shape) != 1:
        return ()
    if _whole(labels, 0, 2):
        return _indicators(settings, labels)
    # a teacher's probabilities cannot be compared with logits by value, only by argmax
    return ("top1",) if are_shares(np.stack(labels)) and not output.sums_to_one(-1) else ()


def _indicators(settings: Mapping[str, Any], labels: Sequence[Array]) -> tuple[str, ...]:
    """The metrics for labels with 0 or 1 for each class; empty if no sample has a class."""
    if not any(one.any() for one in labels):
        return ()
    if "threshold" in settings:
        return ("f1",)
    # with mutually exclusive classes, each sample has exactly one
    return ("top1", "average_precision", "auc") if one_hot(np.stack(labels)) else ("average_precision",)


def _one_score(output: SeenOutput, settings: Mapping[str, Any], labels: Sequence[Array]) -> tuple[str, ...]:
    """Accuracy, then ROC AUC; the reverse if one label is rare or all scores are on one side of the threshold."""
    if not _two_sided(labels):
        return ()
    share = float(np.mean([bool(one.reshape(())) for one in labels]))
    part = OutputPart("classification", (output.name,), settings)
    rare = not _RARE <= share <= 1 - _RARE or one_sided(part, output) is not None
    return ("auc", "top1") if rare else ("top1", "auc")


def _two_sided(labels: Sequence[Array]) -> bool:
    """Whether each sample has one label, 0 or 1, and both occur."""
    return _there_or_not(labels) and len({bool(one.reshape(())) for one in labels}) == 2


def _there_or_not(labels: Sequence[Array]) -> bool:
    """Whether each sample has one label, 0 or 1; only one of them may occur."""
    return all(one.size == 1 for one in labels) and _whole(labels, 0, 2)


def _positions(output: SeenOutput, settings: Mapping[str, Any], labels: Sequence[Array]) -> tuple[str, ...]:
    """The metrics for labels per position: whole samples first, as per-position accuracy hides that each has errors."""
    known = {one.shape for one in output.samples}
    given = [one[one != UNLABELLED] for one in labels]
    if not any(one.size for one in given):
        return ()
    if output.discrete:
        return ("exact", "top1") if _as_seen({one.shape for one in labels}, known) and _whole(given, 0, np.inf) else ()
    return (
        ("exact", "top1")
        if _of_positions(output, settings, labels) and _whole(given, 0, _count(output, settings))
        else ()
    )


def _of_positions(output: SeenOutput, settings: Mapping[str, Any], labels: Sequence[Array]) -> bool:
    positions: set[tuple[int, ...]] = {(one.shape[-3 - int(settings["axis"])],) for one in output.samples}
    return _as_seen({one.shape for one in labels}, positions)


def _as_seen(shapes: set[tuple[int, ...]], known: set[tuple[int, ...]]) -> bool:
    """Whether labels have the shapes of an output's samples.

    Outputs are known for the first samples only. If their shapes differ, every one must also be that of a label:
    transcripts of different lengths coincide with some of an output's lengths by chance.

    Args:
        shapes: the shapes of all labels.
        known: the shapes of the output's known samples.
    """
    if len(known) > 1:
        return known <= shapes and {len(one) for one in shapes} == {len(one) for one in known}
    return shapes <= known


def _count(output: SeenOutput, settings: Mapping[str, Any]) -> int:
    return output.shape[int(settings["axis"])]


def _tokens(output: SeenOutput, settings: Mapping[str, Any], labels: Sequence[Array]) -> tuple[str, ...]:
    fits = not output.discrete and _of_positions(output, settings, labels) and any((one >= 0).any() for one in labels)
    return ("perplexity",) if fits and _whole(labels, -(1 << 31), _count(output, settings)) else ()


def _readings(output: SeenOutput, settings: Mapping[str, Any], labels: Sequence[Array]) -> tuple[str, ...]:
    """The metric for transcripts: rows of classes, padded with -1 at the end.

    Rows as long as the output has positions only count if some are padded; otherwise they are labels per position.
    """
    if output.discrete or not all(one.ndim == 1 and one.dtype.kind in "iu" for one in labels):
        return ()
    if not _whole(labels, -1, _count(output, settings)):
        return ()
    filled = any((one < 0).any() for one in labels)
    ended = all(bool((np.diff((one < 0).astype(np.int8)) >= 0).all()) for one in labels)
    return ("ctc_exact",) if ended and (filled or not _of_positions(output, settings, labels)) else ()


def _boxes(output: SeenOutput, settings: Mapping[str, Any], labels: Sequence[Array]) -> tuple[str, ...]:
    boxes = all(one.ndim == 2 and one.shape[1] == _BOX and one.dtype.kind in "fiu" for one in labels)
    return ("map",) if boxes and any((one[:, -1] >= 0).any() for one in labels) else ()


def _without(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    """A shape without one axis, counted from the end; the whole shape if it is None."""
    return shape if axis is None else (*shape[: len(shape) + axis], *shape[len(shape) + axis + 1 :])


def _overlapping(output: SeenOutput, labels: Sequence[Array]) -> bool:
    """Whether labels are 0 or 1, or 255, for each of an output's independent masks: those of a pixel are no one-hot."""
    if output.discrete or len(output.shape) < _PICTURE or output.shape[axis := class_axis_of(output)] < 2:
        return False
    if not {one.shape for one in labels} <= {one.shape for one in output.samples} or output.sums_to_one(axis):
        return False
    given = [one[one != UNLABELLED_PIXEL] for one in labels]
    exclusive = all(bool((one.sum(axis=axis) == 1).all()) for one in labels)
    return any(one.size for one in given) and _whole(given, 0, 2) and not exclusive


def _mask(output: SeenOutput, settings: Mapping[str, Any], labels: Sequence[Array]) -> tuple[str, ...]:
    if _overlapping(output, labels):
        return ("miou",)
    single = "threshold" in settings
    if output.discrete:
        axis, count = None, 1 << 31
    elif len(output.shape) == 2:
        axis, count = None, 2
    else:
        axis = class_axis_of(output)
        count = 2 if single else output.shape[axis]
    spatial = {_without(one.shape, axis) for one in output.samples}
    wanted = {tuple(extent for extent in one if extent > 1 or len(one) == 2) for one in spatial}
    shapes = {one.shape[1:] if one.ndim > 2 and one.shape[0] == 1 else one.shape for one in labels}
    if not _as_seen(shapes, wanted) or not all(one.dtype.kind in "iub" for one in labels):
        return ()
    given = [one[one != UNLABELLED_PIXEL] for one in labels]
    return ("miou",) if any(one.size for one in given) and _whole(given, 0, count) else ()


def _neighbours(output: SeenOutput, settings: Mapping[str, Any], labels: Sequence[Array]) -> tuple[str, ...]:
    """The metrics for embeddings: recall with classes that several samples share, Spearman with scores of pairs."""
    shape = _shape(labels)
    if shape is None or non_unit_dims(shape) or output.discrete:
        return ()
    values = np.asarray([one.reshape(()) for one in labels], np.float64)
    distinct = len(np.unique(values))
    if _whole(labels, -(1 << 31), 1 << 31):
        return ("recall_at_1",) if 1 < distinct < len(values) else ()
    return ("spearman",) if distinct > 1 and np.isfinite(values).all() else ()


def _alike(output: SeenOutput, settings: Mapping[str, Any], labels: Sequence[Array]) -> tuple[str, ...]:
    if (output.discrete and not no_classes(output)) or not all(one.dtype.kind in "biuf" for one in labels):
        return ()
    known = {one.shape for one in output.samples}
    loose = {non_unit_dims(shape) for shape in known}
    # axes of length 1 may be missing; but integers per pixel without a channel axis may be classes
    apart = [one for one in labels if one.shape not in known]
    fits = all(non_unit_dims(one.shape) in loose and (one.size == 1 or one.dtype.kind == "f") for one in apart)
    # labels 0 and 1 are classes, from which a logit's distance has no meaning
    if not fits or _there_or_not(labels) or (_overlapping(output, labels) and not output.in_unit):
        return ()
    return ("psnr", "mse") if _shows_picture(output, settings) else ("mse",)


def _shows_picture(output: SeenOutput, settings: Mapping[str, Any]) -> bool:
    """Whether an output is a picture, in floats or 8 bits, with an input image's content, such as an enlarged one."""
    low, high = output.bounds
    of_8_bits = output.discrete and low >= 0 and _BRIGHT < high < _COLOURS and bool({1, 3} & set(output.shape[::2]))
    return output.shows_input and ("peak" in settings or (of_8_bits and len(output.shape) == _PICTURE))


_FITS: dict[str, Callable[[SeenOutput, Mapping[str, Any], Sequence[Array]], tuple[str, ...]]] = {
    "classification": _classes,
    "sequence": _positions,
    "ctc": _readings,
    "detection": _boxes,
    "segmentation": _mask,
    "embedding": _neighbours,
    "regression": _alike,
    "generation": _tokens,
}
_WITHOUT_GUESS = frozenset({"classification", "sequence", "ctc", "segmentation", "regression"})
"""Tasks whose labels are distinctive enough to fit an output that is guessed to have another task."""
_OF_CLASSES = frozenset({"classification", "sequence", "ctc", "segmentation"})
"""Tasks whose labels are class numbers of an output."""
