"""Select the valid positions of an output if an input masks some, like the attention mask of a padded sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.base.types import Array

MASK_RANKS = (2, 3, 4)


@dataclass(frozen=True)
class PositionMask:
    """The input that masks positions of an output.

    Attributes:
        input: the name of the input, see ``positions_on``.
        off: its value at masked positions: 0 or 1; or, if the mask is added to attention scores, a negative value,
            which with all values below it means masked.
        axis: the axis of positions in the output, counted from the end.
        share: the share of masked positions in the observed samples, 0 to 1.
    """

    input: str
    off: float
    axis: int
    share: float = 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """The mask as settings of an ``OutputPart``: ``mask``, ``mask_off`` and ``positions``."""
        return {"mask": self.input, "mask_off": self.off, "positions": self.axis}


def counting(settings: Mapping[str, Any], value: Array, inputs: Mapping[str, Array]) -> Array | None:
    """Which positions of an output are not masked, bool [batch, positions]; None if none is.

    Args:
        settings: those of an ``OutputPart``, which include ``PositionMask.settings`` if the output has a mask.
        value: the output for one batch, its samples along the first axis.
        inputs: the batch's inputs.
    """
    if "mask" not in settings:
        return None
    mask, axis = inputs.get(settings["mask"]), int(settings["positions"])
    on = positions_on(mask, settings["mask_off"]) if mask is not None else None
    if on is None or value.ndim <= -axis or on.shape != (value.shape[0], value.shape[axis]):
        return None
    return on


def positions_on(mask: Array, off: float) -> Array | None:
    """Which positions a mask leaves unmasked, bool [batch, positions]; None if the mask has no axis of positions.

    Args:
        mask: [batch, positions], [batch, 1, positions] or [batch, positions, 1]; or a mask of attention, [batch, 1 or
            heads, 1 or positions, positions], which leaves a position unmasked if any other attends to it.
        off: see ``PositionMask``.
    """
    axis = axis_of_positions(mask)
    if axis is None:
        return None
    on = mask > off if off < 0 else mask != off
    others = tuple(place for place in range(1, mask.ndim) if place != axis)
    return np.asarray(on.any(axis=others) if others else on)


def axis_of_positions(mask: Array) -> int | None:
    """The axis of positions of a mask: the last one longer than 1. None if another such axis has another extent."""
    wide = [axis for axis in range(1, mask.ndim) if mask.shape[axis] > 1]
    if mask.ndim not in MASK_RANKS or not wide or not mask.size:
        return None
    # with four axes, axis 1 is that of heads
    others = [axis for axis in wide[:-1] if mask.ndim < MASK_RANKS[-1] or axis > 1]
    return wide[-1] if all(mask.shape[axis] == mask.shape[wide[-1]] for axis in others) else None


def within_lengths(settings: Mapping[str, Any], value: Array, known: Mapping[str, Array]) -> Array | None:
    """Which positions of an output are within each sample's length, bool [batch, positions]; None without lengths.

    Args:
        settings: those of an ``OutputPart``: ``lengths`` names the output with the lengths, ``positions`` the axis.
        value: the output for one batch, its samples along the first axis.
        known: the model's outputs by name.
    """
    lengths = known.get(settings["lengths"]) if "lengths" in settings else None
    axis = int(settings.get("positions", -1))
    if lengths is None or value.ndim <= -axis or lengths.size != len(value):
        return None
    return np.asarray(np.arange(value.shape[axis]) < lengths.reshape(-1, 1))


def positions_with_answers(
    settings: Mapping[str, Any], value: Array, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
) -> Array | None:
    """Which positions of an output are neither masked nor beyond its length, bool [batch, positions]; None for all.

    Args:
        settings: those of an ``OutputPart``, see ``counting`` and ``within_lengths``.
        value: the output for one batch, its samples along the first axis.
        inputs: the batch's inputs.
        outputs: the model's outputs by name.
    """
    on = counting(settings, value, inputs)
    on = within_lengths(settings, value, outputs) if on is None else on
    return None if on is None or on.all() else on


def entries_on(
    settings: Mapping[str, Any], value: Array, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
) -> Array | None:
    """``positions_with_answers`` with the output's number of axes for broadcasting: bool, other axes have extent 1."""
    on = positions_with_answers(settings, value, inputs, outputs)
    if on is None:
        return None
    shape = [1] * value.ndim
    shape[0], shape[int(settings["positions"])] = on.shape
    return on.reshape(shape)


def at_positions(value: Array, samples: Array, on: Array, axis: int) -> Array:
    """Some samples of an output, restricted to their unmasked positions.

    Args:
        value: the output, its samples along the first axis.
        samples: indices of the samples, which all have the same number of unmasked positions.
        on: which positions are not masked, bool [batch, positions], see ``counting``.
        axis: the axis of positions, counted from the end.
    """
    first = np.moveaxis(value, axis, 1)[samples]
    chosen = first[on[samples]].reshape(len(samples), -1, *first.shape[2:])
    return np.moveaxis(chosen, 1, axis)
