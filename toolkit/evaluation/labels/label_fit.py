"""The built-in metrics that labels fit, by their layout, their values, and the task of an output."""

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
from toolkit.evaluation.observation.observed import SeenModel, SeenOutput
from toolkit.evaluation.tasks import OutputPart

_BOX = 5
_RARE = 0.2
"""Below this share of either label, always giving the other one is right so often that accuracy tells little."""
_PICTURE, _BRIGHT, _COLOURS = 3, 60, 256
"""Axes of a picture, and what the brightest of its 8 bits is above and below."""
_MOST = 0.5
"""The share of labels in range from which on the others are mistakes, not labels of another kind."""


@dataclass(frozen=True)
class FittingMetric:
    """A built-in metric that labels and an output fit.

    Attributes:
        metric: its name.
        output: the output that it looks at.
    """

    metric: str
    output: str


def fitting_metrics(seen: SeenModel, found: Guess, labels: Sequence[Array]) -> list[FittingMetric]:
    """The metrics that labels fit, the best first: those of the task that an output is taken to be for come first.

    Labels that stand for none throughout fit no metric: none would say anything.

    Args:
        seen: the model with what it gave on a few samples.
        found: what its outputs are taken to be for.
        labels: one array a sample, without the batch axis, all of them; samples may differ in shape.
    """
    chosen: list[FittingMetric] = []
    # places of boxes alone tell no box
    read = [part for part in found.parts if part.settings.get("layout") != "indices"]
    tasks = {one.name: [part.task for part in read if one.name in part.outputs] for one in seen.outputs}
    for guessed in (True, False):
        for one in (one for one in seen.outputs if one.samples):
            others = [task for task in STRICTEST if task in _WITHOUT_GUESS and task in fitting(one)]
            amounts = one.discrete and no_classes(one)
            for task in tasks[one.name] if guessed else others:
                if amounts and task in _OF_CLASSES:
                    # a picture's colours are no classes, however the labels are laid out
                    continue
                for metric in _FITS[task](one, _settings(task, one, seen), labels):
                    fit = FittingMetric(metric, one.name)
                    chosen += [fit] if fit not in chosen else []
    return chosen


@dataclass(frozen=True)
class OutOfRangeLabel:
    """The first label that is no class of an output, although the labels are laid out as numbers of its classes.

    Attributes:
        index: of the sample.
        value: what it is.
        output: the output.
        classes: how many classes it has.
        low: the smallest of all labels.
        high: the largest.
    """

    index: int
    value: int
    output: str
    classes: int
    low: int
    high: int

    @property
    def from_another_start(self) -> bool:
        """Whether all labels would be classes if they were numbered from 0."""
        return self.low > 0 and self.high - self.low < self.classes


def out_of_range_label(seen: SeenModel, found: Guess, labels: Sequence[Array]) -> OutOfRangeLabel | None:
    """A label out of range, of labels that would be an output's classes but for that; None where they are not.

    Labels are taken for classes where they would fit a metric if they were in range, and most are in range or all of
    them would be if they were numbered from another start.
    """
    if not labels or not _whole(labels, -(1 << 31), 1 << 31):
        return None
    for one in (one for one in seen.outputs if one.samples and not one.discrete):
        guessed = [part.task for part in found.parts if one.name in part.outputs]
        if labels[0].dtype.kind == "f" and not _OF_CLASSES.issuperset(guessed):
            # floats may be values: then they are not classes out of range
            continue
        for task in (task for task in dict.fromkeys((*guessed, *fitting(one))) if task in _OF_CLASSES):
            stray = _out_of_range(one, task, _settings(task, one, seen), labels)
            if stray is not None:
                return stray
    return None


def _out_of_range(
    output: SeenOutput, task: str, settings: Mapping[str, Any], labels: Sequence[Array]
) -> OutOfRangeLabel | None:
    """``out_of_range_label`` for one output that is read as a task's."""
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
    """The classes that labels of readings name, one array a sample; none where they are no readings.

    What only ends rows may have been put there to fill them up: a class is named where another follows.
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
    """The shape that all labels have; None where they differ."""
    shapes = {one.shape for one in labels}
    return shapes.pop() if len(shapes) == 1 else None


def _whole(labels: Sequence[Array], low: int, high: float) -> bool:
    """Whether all labels are whole numbers from ``low`` to below ``high``."""
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
    # scores before a softmax need not have the values of a teacher's probabilities, only their order
    return ("top1",) if are_shares(np.stack(labels)) and not output.sums_to_one(-1) else ()


def _indicators(settings: Mapping[str, Any], labels: Sequence[Array]) -> tuple[str, ...]:
    """The metrics of labels that say 0 or 1 for each class; none where no sample has a class."""
    if not any(one.any() for one in labels):
        return ()
    if "threshold" in settings:
        return ("f1",)
    # of classes that exclude each other each sample has one
    return ("top1", "average_precision", "auc") if one_hot(np.stack(labels)) else ("average_precision",)


def _one_score(output: SeenOutput, settings: Mapping[str, Any], labels: Sequence[Array]) -> tuple[str, ...]:
    """Accuracy before the area under the ROC curve, or after it where a label is rare or an answer is never given."""
    if not _two_sided(labels):
        return ()
    share = float(np.mean([bool(one.reshape(())) for one in labels]))
    part = OutputPart("classification", (output.name,), settings)
    rare = not _RARE <= share <= 1 - _RARE or one_sided(part, output) is not None
    return ("auc", "top1") if rare else ("top1", "auc")


def _two_sided(labels: Sequence[Array]) -> bool:
    """Whether there is one label a sample, and these are 0 and 1."""
    return _there_or_not(labels) and len({bool(one.reshape(())) for one in labels}) == 2


def _there_or_not(labels: Sequence[Array]) -> bool:
    """Whether there is one label a sample, 0 or 1; none of the samples may have the one or the other."""
    return all(one.size == 1 for one in labels) and _whole(labels, 0, 2)


def _positions(output: SeenOutput, settings: Mapping[str, Any], labels: Sequence[Array]) -> tuple[str, ...]:
    """Samples as a whole count before single positions, which hide that every sample has a wrong one."""
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

    Only the first samples were seen. Where these are of unlike shapes, each must be a label's: readings of unlike
    lengths have some of the lengths that an output has by chance.
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
    """Classes and then nothing but -1; as many as positions only where some are filled up."""
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
    """A shape without one of its axes, counted from the end."""
    return shape if axis is None else (*shape[: len(shape) + axis], *shape[len(shape) + axis + 1 :])


def _mask(output: SeenOutput, settings: Mapping[str, Any], labels: Sequence[Array]) -> tuple[str, ...]:
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
    """Classes that several samples have, or scores of pairs."""
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
    # axes of length 1 may lack; but whole numbers of a picture's places without its channel may be classes
    apart = [one for one in labels if one.shape not in known]
    fits = all(non_unit_dims(one.shape) in loose and (one.size == 1 or one.dtype.kind == "f") for one in apart)
    # what is there or not is no value, and a logit is no distance from it
    if not fits or _there_or_not(labels):
        return ()
    return ("psnr", "mse") if _shows_picture(output, settings) else ("mse",)


def _shows_picture(output: SeenOutput, settings: Mapping[str, Any]) -> bool:
    """Whether an output is a picture, of floats or of 8 bits, of what an input image shows: an enlarged one, say."""
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
"""Tasks whose labels say enough, also of an output that is taken for something else."""
_OF_CLASSES = frozenset({"classification", "sequence", "ctc", "segmentation"})
"""Tasks whose labels are the numbers of an output's classes."""
