"""Clues to the task of an output with height and width."""

from __future__ import annotations

import re

import numpy as np

from toolkit.evaluation.guessing.class_axes import channel_axis, channel_axis_last
from toolkit.evaluation.guessing.clue import LINEAR, PAR, SHARES, Clue, computed_with, of_values
from toolkit.evaluation.guessing.rivalry import has_winners
from toolkit.evaluation.guessing.value_clues import are_boxes, no_classes, peak_height, unlike_scales
from toolkit.evaluation.observation.observed import SeenModel, SeenOutput

_ENLARGE = frozenset({"Resize", "Upsample", "ConvTranspose"})
_LIMITED = SHARES | {"Sigmoid", "HardSigmoid", "Clip"}
_SEQUENCE = 2
"""Number of axes of a sequence of vectors: positions and features."""
_TWO_SIDED, _NO_PICTURE, _HALF = 0.9, 0.25, 0.5
"""Least share of a mask's values within 0.1 of 0 or 1; weight of a usual range of pixels if the map does not resemble
the input image, since many other maps have such a range; and the value above which a mask without an upper limit would
reach somewhere."""
_TIMES = frozenset({"t", "time", "timestep", "timesteps", "sigma", "noise", "step"})
"""Words in the name of a diffusion model's input for the noise level."""
_CENTRED, _NORMAL = 0.2, 2.0
"""Limits for standard normal noise: its mean's largest distance from 0, in standard deviations, and the largest factor
between its standard deviation and 1."""


def pictures(output: SeenOutput, seen: SeenModel) -> list[Clue]:
    """Clues from an output with height, width and channels: masks, pictures, scores of a transducer, other values."""
    if len(output.shape) != 3 or sum(extent > 1 for extent in output.shape) < 2:
        return []
    if output.discrete and no_classes(output):
        return [Clue("regression", "shape", 1.0, "map"), *of_values("levels", 1.0)]
    if output.discrete:
        return [Clue("segmentation", "values", 2.0, "integers"), Clue("segmentation", "shape", 1.0, "picture")]
    if operators := _of_transducer(output, seen):
        return [Clue("generation", "shape", 2.5, "transducer"), Clue("generation", "operator", 0.75, operators[0])]
    return map_clues(output, seen, channel_axis(output))


def _of_transducer(output: SeenOutput, seen: SeenModel) -> list[str]:
    """The operators that produce a transducer's token scores [frames, tokens, vocabulary]; empty for other outputs.

    In a transducer, one input has the length of the tokens, or one less because a start token precedes them. Another
    input is a signal or an encoder's features with as many frames as the output, or more if the model has its own
    encoder. No input has both extents.
    """
    frames, tokens, _ = output.shape
    if seen.images or output.varies(-1):
        return []
    given = {name: one for name, one in seen.inputs.items() if name not in seen.pasts and name not in seen.states}
    lengths = (tokens,), (tokens - 1,)
    numbers = {name for name, one in given.items() if one.dtype.kind in "iu" and one.shape in lengths}
    signals = {name: one.shape for name, one in given.items() if one.dtype.kind == "f" and 1 <= one.ndim <= _SEQUENCE}
    apart = any(frames in signals[a] and tokens in signals[b] for a in signals for b in signals if a != b)
    if not (apart or (numbers and signals)) or any(set(one) == {frames, tokens} for one in signals.values()):
        return []
    return sorted(output.ops & SHARES) or sorted(output.ops & LINEAR)


def is_picture(output: SeenOutput, seen: SeenModel) -> bool:
    """Whether height and width are those of an input image, or an integer fraction or multiple of them."""
    height, width = output.shape[-2:] if channel_axis_last(output) else output.shape[:2]
    return any(_scaled(height, h) and _scaled(width, w) for h, w in seen.images)


def _scaled(own: int, other: int) -> bool:
    return own >= 8 and other >= 8 and (own % other == 0 or other % own == 0)


def map_clues(output: SeenOutput, seen: SeenModel, axis: int | None) -> list[Clue]:
    """Clues from the floats of a map of height and width.

    Args:
        seen: the model that it belongs to.
        axis: the axis of the channels, counted from the end; None if there is none.
    """
    found = [Clue("regression", "shape", 1.0, "map")]
    kind = _kind_of_channels(output, axis) if axis is not None and not output.ops & SHARES else ""
    if kind:
        return [*found, Clue("regression", "values", 2.0, kind)]
    channels, placed = output.shape[axis] if axis is not None else 1, is_picture(output, seen)
    plain = axis is not None and channels > 1 and not output.ops & SHARES and not output.in_unit
    if axis is not None and plain and computed_with(output, seen, axis):
        # features that are returned next to outputs computed from them
        return [*found, *of_values("computed with", 2.5)]
    if not output.in_unit and _noise_like(output, seen):
        found.append(Clue("regression", "values", 2.5, "noise"))
    found += [*_probabilities(output, axis, channels), *_levels(output, channels, placed)]
    return [*found, *_placed(output, axis, channels)] if placed else found


def _kind_of_channels(output: SeenOutput, axis: int) -> str:
    """The kind of values in a map's channels: ``peaks``, ``unlike scales`` or ``boxes``; empty if none of these."""
    if peak_height(output, axis) is not None:
        return "peaks"
    if unlike_scales(output, axis):
        return "unlike scales"
    return "boxes" if are_boxes(output, axis) else ""


def _probabilities(output: SeenOutput, axis: int | None, channels: int) -> list[Clue]:
    """Clues to class probabilities from a map's values and the operator that produces it."""
    sums_to_one, found = axis is not None and output.sums_to_one(axis), list[Clue]()
    if sums_to_one and channels > 1:
        found.append(Clue("segmentation", "values", 2.0, "softmax"))
    if output.ops & SHARES:
        found.append(Clue("segmentation", "operator", 1.0, sorted(output.ops & SHARES)[0]))
    if output.in_unit and "Sigmoid" in output.ops and (channels == 1 or not sums_to_one):
        found.append(Clue("segmentation", "operator", 1.0, "Sigmoid"))
    return found


def _levels(output: SeenOutput, channels: int, placed: bool) -> list[Clue]:
    """Clues from the values of a map: those of a mask are near 0 and 1, those of a picture in a usual range."""
    near = output.in_unit and float((np.abs(output.flat - 0.5) > 0.4).mean()) > _TWO_SIDED
    if channels == 1 and near and not _amount(output):
        return [Clue("segmentation", "values", 1.5, "two-sided")]
    if channels in (1, 3) and placed and _pixels(output):
        # other maps, such as saliency, have such values too, and may be used by a threshold
        return [Clue("regression", "values", 2.0 if output.shows_input else _NO_PICTURE, "pixels")]
    return []


def _amount(output: SeenOutput) -> bool:
    """Whether a map holds quantities such as depth or density: none below 0, and no probabilities.

    Logits are negative and positive. Values up to 1 without an operator that limits them are a mask if some are above
    0.5, else quantities.
    """
    low, high = output.bounds
    return low >= 0 and (high > 1 or (high < _HALF and not output.ops & _LIMITED))


def _placed(output: SeenOutput, axis: int | None, channels: int) -> list[Clue]:
    """Clues from the number of channels of a map that has the extents of the input image."""
    quantities = _amount(output)
    if channels == 1 and not quantities:
        return [Clue("segmentation", "shape", 0.5, "picture")]
    if channels in (1, 3, 4) or channels > 256 or output.in_unit:
        return [Clue("regression", "shape", 0.5, "picture")]
    enlarging = sorted(output.ops & _ENLARGE)
    operator = [Clue("segmentation", "operator", 1.0, enlarging[0])] if enlarging else []
    if quantities:
        # scores after a Relu or Softplus have no negative values either, and are enlarged to the image's extents
        winners = axis is not None and has_winners(output, axis)
        values = [Clue("segmentation", "values", PAR, "winners")] if winners else []
        return [Clue("regression", "shape", 0.5, "picture"), *operator, *values]
    return [Clue("segmentation", "shape", 1.0, "picture"), *operator]


def _noise_like(output: SeenOutput, seen: SeenModel) -> bool:
    """Whether an output may be the noise that a diffusion model predicts.

    Such a model reads the noisy input, which has the output's shape, and one number per sample for the noise level.
    Either that input's name says so (``_TIMES``), or the output has about the mean and deviation of standard noise.
    """
    sizes = {name: one.size for name, one in seen.inputs.items() if one.ndim <= 1}
    read = any(one.shape == output.shape and one.dtype.kind == "f" for one in seen.inputs.values())
    numbers = [name for name, size in sizes.items() if size == 1]
    if not read or not numbers or not output.flat.size:
        return False
    called = {word.lower() for name in numbers for word in re.findall(r"[A-Za-z]+", name)}
    level = output.flat.std()
    centred = abs(float(output.flat.mean())) < _CENTRED * level and 1 / _NORMAL < level < _NORMAL
    return centred or bool(called & _TIMES)


def _pixels(output: SeenOutput) -> bool:
    low, high = output.bounds
    return (
        (low >= -0.5 and 0.3 < high <= 1.5)
        or (low >= -60 and 60 < high <= 320)
        or (-1.5 <= low < -0.3 and 0.3 < high <= 1.5)
    )
