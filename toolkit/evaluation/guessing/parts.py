"""How an output is read for a task: axes, thresholds, reference levels, and slices of channels of different scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.guessing.class_axes import blank_of, channel_axis, class_axis
from toolkit.evaluation.guessing.similarities import between_samples
from toolkit.evaluation.guessing.value_clues import has_several_peaks, peak_height
from toolkit.evaluation.numerics.intervals import variance_bound
from toolkit.evaluation.numerics.masks import valued
from toolkit.evaluation.observation.lengths import lengths_of
from toolkit.evaluation.observation.observed import FAINT, SeenModel, SeenOutput, quantized_settings
from toolkit.evaluation.tasks import STANDS_IN, OutputPart
from toolkit.evaluation.tasks.segmentation import SMALL

_UNLIKE = 8.0
"""Ratio of RMS from which on channels are compared separately: in a shared INT8 range the smaller ones would keep only
five of eight bits."""
_MOST_SLICES, _MOST_CHANNELS = 8, 1024
"""Most slices of an output that are judged separately, and the longest axis that is searched for them."""
_CONSTANT = 1e-3
"""Least standard deviation of a channel as a share of its RMS that counts: below, it is a constant."""
_FEWEST = 8
"""Fewest values that tell a standard deviation to within a factor of two (95 %, chi-squared); that of two values may be
far too small."""
_FEW_VALUES = 16
"""Up to so many values per sample, the SNR uses each one's variance over all samples: within a sample it is no reliable
signal power."""
_HALF, _UNSHARP = 0.5, 0.25
"""The usual threshold of a mask, and how close to it a value counts as undecided."""
_MOST_OUTSIDE, _SHARED = 0.5, 0.1
"""Least share of pixels outside all masks, and least share of the others in several masks, if masks are independent."""
_SOME = 8
"""With fewer scores, all of them may be on one side of the threshold by chance."""
_ROWS = 2
"""Number of axes of a sample with one row per position."""
_STEADY = 1e-12
"""Values are constant if their variance is less than this share of their mean square: about the square of eight float32
rounding steps (2^-23)."""


def parts_for(task: str, output: SeenOutput, seen: SeenModel) -> list[OutputPart]:
    """The parts of one output to be compared, with the settings that the task needs.

    Args:
        task: any task but detection, which reads several outputs together.
        seen: the model that it belongs to.

    Returns:
        One part in most cases; more if channels differ in scale, or if all scores are on one side of the threshold.
    """
    return [_with_lengths(_with_mask(part, output), output, seen) for part in _parts_for(task, output, seen)]


def _with_mask(part: OutputPart, output: SeenOutput) -> OutputPart:
    """The part with the settings of the input that masks positions, unless their axis is that of classes or slices."""
    mask = output.mask
    if mask is None or mask.axis in (part.settings.get("axis"), (part.channels or (None,))[0]):
        return part
    return replace(part, settings={**part.settings, **mask.settings})


def _with_lengths(part: OutputPart, output: SeenOutput, seen: SeenModel) -> OutputPart:
    """A part of CTC scores with the output that holds each sample's number of positions, if there is one."""
    if part.task != "ctc" or "mask" in part.settings or len(output.shape) != 2:
        return part
    positions = -3 - int(part.settings["axis"])
    lengths = lengths_of(output, positions, seen)
    settings = {"lengths": lengths, "positions": positions} if lengths is not None else {}
    return replace(part, settings={**part.settings, **settings})


def masked_positions(parts: Sequence[OutputPart], seen: SeenModel) -> list[Finding]:
    """Findings that positions of a part's output are ignored: masked by an input, or beyond the sample's length."""
    masks = {one.name: one.mask for one in seen.outputs if one.mask is not None}
    named: dict[str, list[str]] = {}
    for part in parts:
        if "mask" in part.settings:
            named.setdefault(str(part.settings["mask"]), []).extend(part.outputs)
    return [
        EvaluationCode.POSITIONS_OFF(
            input=name, off=masks[outputs[0]].off, outputs=list(dict.fromkeys(outputs)), share=masks[outputs[0]].share
        )
        for name, outputs in named.items()
    ] + [
        EvaluationCode.POSITIONS_BEYOND(lengths=str(part.settings["lengths"]), output=part.outputs[0])
        for part in parts
        if "lengths" in part.settings
    ]


def _parts_for(task: str, output: SeenOutput, seen: SeenModel) -> list[OutputPart]:
    base: dict[str, Any] = {"batch_axis": output.batch_axis, **quantized_settings([output])}
    if task == "regression":
        return _regressions(output, seen, base)
    settings: dict[str, Any] = {}
    if not output.discrete:
        settings = _SETTINGS[task](output, seen) if task in _SETTINGS else {"axis": class_axis_of(output)}
    part = OutputPart(task, (output.name,), {**base, **settings})
    if one_sided(part, output) is None:
        return [part]
    # a score could lose all information without crossing the threshold, so its values are compared too
    return [part, *_regressions(output, seen, {**base, STANDS_IN: True})]


def one_sided(part: OutputPart, output: SeenOutput) -> Finding | None:
    """A finding that all scores of an output with one score per sample are on one side of the threshold, else None."""
    if part.task != "classification" or not part.settings.get("single") or len(output.samples) < _SOME:
        return None
    limit = float(part.settings["threshold"])
    over = int((output.flat > limit).sum())
    if 0 < over < output.flat.size or not output.flat.size:
        return None
    return EvaluationCode.ONE_SIDED(output=output.name, threshold=limit, above=over > 0, scores=output.flat.size)


def one_sided_among(parts: Sequence[OutputPart], seen: SeenModel) -> list[Finding]:
    """The ``one_sided`` findings of all parts."""
    by_name = {one.name: one for one in seen.outputs}
    found = [one_sided(part, by_name[part.outputs[0]]) for part in parts]
    return [one for one in found if one is not None]


def bins_among(parts: Sequence[OutputPart], seen: SeenModel) -> list[Finding]:
    """A finding that the classes of some outputs are bins of a quantity, such as an angle: adjacent scores correlate.

    Empty if there are none.
    """
    by_name = {one.name: one for one in seen.outputs}
    chosen = [(by_name[part.outputs[0]], part.settings["axis"]) for part in parts if _one_class(part)]
    names = [output.name for output, axis in chosen if not output.discrete and output.has_bands(axis)]
    return [EvaluationCode.CLASSES_ARE_BINS(outputs=names)] if names else []


def _one_class(part: OutputPart) -> bool:
    return part.task == "classification" and "axis" in part.settings and "threshold" not in part.settings


def class_axis_of(output: SeenOutput) -> int:
    """The axis of classes or features, counted from the end."""
    wide = [place for place, extent in enumerate(output.shape) if extent > 1]
    if len(output.shape) >= 3:
        return channel_axis(output) if len(wide) > 1 else (wide[0] - len(output.shape) if wide else -1)
    return class_axis(output) if len(output.shape) == 2 else -1


def _classification(output: SeenOutput, seen: SeenModel) -> dict[str, Any]:
    axis = _vector_axis(output)
    single = output.shape[axis] == 1 if output.shape else True
    if single or _labels(output, axis):
        one = {"single": True} if all(np.prod(each.shape) == 1 for each in output.samples) else {}
        return {"threshold": 0.5 if output.in_unit else 0.0, **one}
    return {"axis": axis}


def _embedding(output: SeenOutput, seen: SeenModel) -> dict[str, Any]:
    return {"axis": _vector_axis(output)}


def _vector_axis(output: SeenOutput) -> int:
    """The axis of classes or features of an output that may hold one vector per sample, counted from the end.

    It is the only axis longer than 1, unless the output holds one value per position: then each value is a vector.
    """
    wide = [place for place, extent in enumerate(output.shape) if extent > 1]
    one = len(wide) == 1 and not output.one_each
    return wide[0] - len(output.shape) if one else class_axis_of(output)


def _ctc(output: SeenOutput, seen: SeenModel) -> dict[str, Any]:
    axis = class_axis(output)
    return {"axis": axis, "blank": blank_of(output, axis, seen)[0]}


def _segmentation(output: SeenOutput, seen: SeenModel) -> dict[str, Any]:
    if len(output.shape) <= 2 or output.shape[axis := channel_axis(output)] == 1:
        return _threshold(output)
    # the axis is set in both cases: a metric whose labels are classes needs the argmax
    return {"axis": axis, **(_threshold(output) if _labels(output, axis) or _overlapping(output, axis) else {})}


def _labels(output: SeenOutput, axis: int) -> bool:
    """Whether the classes along an axis have independent probabilities (multi-label)."""
    return "Sigmoid" in output.ops and output.in_unit and not output.sums_to_one(axis)


def _overlapping(output: SeenOutput, axis: int) -> bool:
    """Whether logits along an axis are those of independent masks, such as nested ones, and not of exclusive classes.

    Then most pixels belong to no mask, so that all their logits are below 0, and others to several. The logits of
    exclusive classes are above 0 for the class of nearly every pixel, also for that of the background.
    """
    if output.in_unit or output.sums_to_one(axis):
        return False
    over = (output.stacked(axis) > 0).sum(axis=1)
    within = over[over > 0]
    return bool(len(within) and len(within) < _MOST_OUTSIDE * len(over) and (within > 1).mean() > _SHARED)


def _threshold(output: SeenOutput) -> dict[str, float]:
    """The threshold of a mask and, if it is not the usual one, the least share of pixels of masks to be compared.

    The threshold is 0 for logits and 0.5 for probabilities. Masks smaller than ``segmentation.SMALL`` are not compared,
    so a map whose masks are all smaller could lose them and count as unchanged. If few values are near 0.5, its masks
    are distinct and all of them are compared, however small; otherwise the mean is the threshold. If all probabilities
    of a sigmoid are negligible, there is no mask, and the threshold stays 0.5.
    """
    if not output.in_unit:
        return {"threshold": 0.0}
    over = float((output.flat > _HALF).mean())
    if SMALL <= over <= 1 - SMALL or ("Sigmoid" in output.ops and output.bounds[1] < FAINT):
        return {"threshold": _HALF}
    if 0 < over < SMALL and float((np.abs(output.flat - _HALF) < _UNSHARP).mean()) <= over:
        return {"threshold": _HALF, "small": 0.0}
    return {"threshold": float(output.flat.mean())}


def _generation(output: SeenOutput, seen: SeenModel) -> dict[str, Any]:
    # scores of a transducer are [frames, tokens, vocabulary]
    return {"axis": class_axis_of(output) if len(output.shape) <= _ROWS else -1}


_SETTINGS = {
    "classification": _classification, "embedding": _embedding, "ctc": _ctc, "segmentation": _segmentation,
    "generation": _generation,
}  # fmt: skip


def _regressions(output: SeenOutput, seen: SeenModel, base: dict[str, Any]) -> list[OutputPart]:
    if output.empty:
        return [OutputPart("regression", (output.name,), {**base, "mean": 0.0, "variance": 0.0})]
    answers = len(output.shape) == 3 and output.name not in seen.states
    if answers and (height := peak_height(output, axis := channel_axis(output))) is not None:
        several = {"several": True} if has_several_peaks(output, axis, height) else {}
        return [OutputPart("regression", (output.name,), {**base, "axis": axis, "height": height, **several})]
    between = between_samples(output, seen)
    if between is not None:
        settings = {**base, "mean": float(between.mean()), "variance": float(between.var()), "few": True, "pairs": True}
        return [OutputPart("regression", (output.name,), settings)]
    axis, slices = _slices(output)
    found = []
    for first, last in slices:
        whole = len(slices) == 1
        counts = output.mask is not None and (whole or output.mask.axis != axis)
        values = [np.asarray(one, np.float64) for one in (output.counted if counts else output.samples)]
        size = output.samples[0].size
        if not whole:
            values = [np.take(one, range(first, last + 1), axis=axis) for one in values]
            size = size // output.shape[axis] * (last + 1 - first)
        mean, variance = _centre(_numbers(values), output)
        settings = {**base, "mean": mean, "variance": variance}
        if size <= _FEW_VALUES:
            each = _variance_of_each(values, variance, mean)
            settings |= {"few": True} if each is None else {"few": True, "each": True, "variance": each}
        if whole and _image(output, seen):
            low, high = output.bounds
            settings["peak"] = high - low
        # the axis is counted from the end, so that it holds with and without a batch axis
        channels = None if whole else (axis, first, last)
        found.append(OutputPart("regression", (output.name,), settings, channels))
    return found


def _centre(values: np.ndarray[Any, Any], output: SeenOutput) -> tuple[float, float]:
    """The centre of the float model's values and their mean square about it, the signal power for SQNR.

    These are mean and variance. For constant values the centre is 0 and the power their mean square, or that of the
    whole output if they are zeros.
    """
    if not values.size:
        return 0.0, 0.0
    mean, variance = float(values.mean()), float(values.var())
    if variance > _STEADY * mean**2:
        return mean, variance
    whole = _numbers(output.samples)
    return 0.0, mean**2 or (float(np.square(whole).mean()) if whole.size else 0.0)


def _variance_of_each(values: Sequence[np.ndarray[Any, Any]], variance: float, mean: float) -> float | None:
    """The mean variance of each value over samples, which says more than that of all: values may differ in offset.

    Args:
        values: the samples.
        variance: that of all values.
        mean: the mean of all values.

    Returns:
        None if samples are few, differ in shape, are constant or hold NaN.
    """
    if len({one.shape for one in values}) != 1 or len(values) < _FEWEST:
        return None
    found = float(np.stack(values).var(axis=0).mean()) if all(np.isfinite(one).all() for one in values) else 0.0
    return found if found > _STEADY * (mean**2 + variance) else None


def _numbers(values: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return valued(np.concatenate([np.asarray(one, np.float64).reshape(-1) for one in values]))


def _image(output: SeenOutput, seen: SeenModel) -> bool:
    """Whether the output is a picture for viewing: one or three channels with values in a usual range of pixels."""
    from toolkit.evaluation.guessing.clues import clues_to

    return any(clue.what == "pixels" for clue in clues_to(output, seen))


def _slices(output: SeenOutput) -> tuple[int, list[tuple[int, int]]]:
    """The axis of channels, counted from the end, and its runs (first, last) of similar RMS and standard deviation.

    By RMS alone if there are too few values for the latter; with few, the smaller deviation may be larger (95 %).
    Among several axes, the one whose runs differ most at their borders is chosen: between kinds of values the magnitude
    jumps, whereas along positions it changes gradually. One run (0, 0) on axis -1 stands for the whole output.
    """
    likely = _channel_axes(output)
    best, found = 1.0, (-1, [(0, 0)])
    for axis in (*likely, *(one for one in range(-len(output.shape), 0) if one not in likely and output.fixed(one))):
        extent = output.shape[axis]
        if not 2 <= extent <= _MOST_CHANNELS or any(one.shape[axis] != extent for one in output.samples):
            continue
        rows = np.where(np.isfinite(rows := output.stacked(axis)), rows, 0)
        size = np.sqrt(np.square(rows).mean(axis=0))
        empty = size <= 1e-12 * size.max()
        size = np.maximum(size, 1e-12 * max(float(size.max()), 1e-30))
        spread = np.maximum(rows.std(axis=0), _CONSTANT * size) if len(rows) >= _FEWEST else size
        size = np.stack([size, spread], axis=1)
        slack = np.array([1.0, variance_bound(max(len(rows), _FEWEST)) ** 0.5])
        runs = _few_runs(size, slack)
        if len(runs) == 1:
            continue
        jump = _jump(size, runs, slack)
        # the empty border of a picture is not another kind of value
        if jump > best and (axis in likely or (jump > _UNLIKE and not empty.any())):
            best, found = jump, (axis, runs)
    return found


def _channel_axes(output: SeenOutput) -> list[int]:
    """The likely axes of channels, counted from the end: one for a picture, else those of fixed declared extent."""
    if len(output.shape) == 3:
        return [channel_axis(output)]
    return [axis for axis in range(-len(output.shape), 0) if output.fixed(axis)]


def _jump(size: np.ndarray[Any, Any], runs: Sequence[tuple[int, int]], slack: np.ndarray[Any, Any]) -> float:
    """The smallest ratio of magnitudes between the last channel of a run and the first of the next one.

    Args:
        size: RMS and standard deviation of each channel, [channels, 2].
        runs: the runs.
        slack: the factors by which ratios of either may be too large, [2].
    """
    pairs = [size[first - 1 : first + 1] for first, _ in runs[1:]]
    return min(float((pair.max(axis=0) / pair.min(axis=0) / slack).max()) for pair in pairs)


def _few_runs(size: np.ndarray[Any, Any], slack: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """``_runs`` with the ratio ``_UNLIKE``, doubled until there are at most ``_MOST_SLICES`` runs.

    Rare classes alone can form many runs; boxes next to them differ by more than either varies within itself, and stay
    separate at a larger ratio. If the runs are not that far apart, as with uneven channels of one kind, there is one.
    Arguments as for ``_jump``.
    """
    unlike = _UNLIKE
    while len(runs := _runs(size, unlike * slack)) > _MOST_SLICES:
        unlike *= 2
    apart = unlike == _UNLIKE or len(runs) == 1 or _jump(size, runs, slack) > unlike
    return runs if apart else [(0, len(size) - 1)]


def _runs(size: np.ndarray[Any, Any], unlike: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """Runs (first, last) of adjacent channels whose magnitudes are within the ratios ``unlike``, [2]."""
    runs: list[tuple[int, int]] = []
    start = 0
    for place in range(1, len(size) + 1):
        if place == len(size) or not _like(size[start : place + 1], unlike):
            runs.append((start, place - 1))
            start = place
    return runs


def _like(size: np.ndarray[Any, Any], unlike: np.ndarray[Any, Any]) -> bool:
    return bool((size.max(axis=0) <= unlike * size.min(axis=0)).all())
