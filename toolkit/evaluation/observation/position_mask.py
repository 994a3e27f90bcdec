"""Which positions of an output count if an input turns some off, like the attention mask of a padded sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.base.types import Array

MASK_RANKS = (2, 3, 4)


@dataclass(frozen=True)
class PositionMask:
    """Which positions of an output count.

    Attributes:
        input: the input that says it, see ``positions_on``.
        off: its value where a position does not count: 0 or 1; a negative one and all below it where the mask is added.
        axis: where positions lie in the output, counted from the end.
        share: how many of the positions seen do not count, 0 to 1.
    """

    input: str
    off: float
    axis: int
    share: float = 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """What readers of the output must know, as the settings of an ``OutputPart``."""
        return {"mask": self.input, "mask_off": self.off, "positions": self.axis}


def counting(settings: Mapping[str, Any], value: Array, inputs: Mapping[str, Array]) -> Array | None:
    """Which positions of an output count, bool [batch, positions]; None where all do.

    Args:
        settings: see ``PositionMask.settings``; of an output without a mask they lack.
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
    """Which positions a mask leaves on, bool [batch, positions]; None where it has no axis of positions.

    Args:
        mask: [batch, positions], [batch, 1, positions] or [batch, positions, 1]; or of attention, [batch, 1 or heads, 1
            or positions, positions], where a position is on that any other one sees.
        off: see ``PositionMask``.
    """
    axis = axis_of_positions(mask)
    if axis is None:
        return None
    on = mask > off if off < 0 else mask != off
    others = tuple(place for place in range(1, mask.ndim) if place != axis)
    return np.asarray(on.any(axis=others) if others else on)


def axis_of_positions(mask: Array) -> int | None:
    """The axis of positions of a mask, its last one that is longer than 1; None where others differ from it."""
    wide = [axis for axis in range(1, mask.ndim) if mask.shape[axis] > 1]
    if mask.ndim not in MASK_RANKS or not wide or not mask.size:
        return None
    # of four axes the second is that of heads
    others = [axis for axis in wide[:-1] if mask.ndim < MASK_RANKS[-1] or axis > 1]
    return wide[-1] if all(mask.shape[axis] == mask.shape[wide[-1]] for axis in others) else None


def within_lengths(settings: Mapping[str, Any], value: Array, known: Mapping[str, Array]) -> Array | None:
    """Which positions of an output are within its lengths, bool [batch, positions]; None where there are none.

    Args:
        settings: those of an ``OutputPart``: ``lengths`` is the output with the lengths, ``positions`` the axis.
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
    """Which positions of an output are neither turned off nor beyond its lengths, bool [batch, positions]; None: all.

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
    """``positions_with_answers`` as it is broadcast to the output: bool [batch, ...] with 1 for other axes."""
    on = positions_with_answers(settings, value, inputs, outputs)
    if on is None:
        return None
    shape = [1] * value.ndim
    shape[0], shape[int(settings["positions"])] = on.shape
    return on.reshape(shape)


def at_positions(value: Array, samples: Array, on: Array, axis: int) -> Array:
    """Some samples of an output with nothing but the positions that count.

    Args:
        value: the output, its samples along the first axis.
        samples: their numbers; all have as many positions that count.
        on: see ``counting``.
        axis: where the positions lie, counted from the end.
    """
    first = np.moveaxis(value, axis, 1)[samples]
    chosen = first[on[samples]].reshape(len(samples), -1, *first.shape[2:])
    return np.moveaxis(chosen, 1, axis)
