"""Inputs that turn positions of a sample off, as the attention mask of a sentence model does where it is padded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.base.errors import QtoolError
from toolkit.base.types import Array

_TRIED = 2
"""Samples on which it is tried: in the first all tokens may be the same."""
_SAME = 1e-5


@dataclass(frozen=True)
class PositionMask:
    """Which positions of an output count.

    Attributes:
        input: the input that says it, [batch, positions].
        off: its value where a position does not count: 0 or 1.
        axis: where positions lie in the output, counted from the end.
        share: how many of the positions seen do not count, 0 to 1.
    """

    input: str
    off: int
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
    mask, axis = inputs[settings["mask"]], int(settings["positions"])
    if value.ndim <= -axis or mask.shape != (value.shape[0], value.shape[axis]):
        return None
    return np.asarray(mask != settings["mask_off"])


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


def position_masks(
    run: Callable[[dict[str, Array]], Mapping[str, Array]],
    given: Sequence[Mapping[str, Array]],
    made: Sequence[Mapping[str, Array]],
    outputs: Collection[str],
) -> dict[str, PositionMask]:
    """By output the input that turns its positions off; outputs that have none are missing.

    An input of zeros and ones that is as long as the other inputs may be a mask, or tell two sentences apart. What it
    does tells: half of the positions are given other values, which changes the outputs of the other half where all are
    on, and changes nothing there where the half is off. Names and operators are not asked.

    Args:
        run: runs the float model on one batch.
        given: the inputs of some batches.
        made: the model's outputs for them.
        outputs: those that have an axis of samples in front.
    """
    found: dict[str, PositionMask] = {}
    binary = [name for name in (given[0] if given else ()) if all(_is_binary(one.get(name)) for one in given)]
    for mask in binary:
        for off in (0, 1):
            for one, of in zip(given[:_TRIED], made):
                axes = _axes(of, [name for name in outputs if name not in found], one[mask].shape)
                if not axes:
                    continue
                try:
                    hit = _turned_off(run, one, mask, off, binary, axes)
                except QtoolError:
                    # values that the model does not take, as positions beyond its table
                    continue
                share = float(np.mean(np.concatenate([each[mask].reshape(-1) == off for each in given])))
                found |= {name: PositionMask(mask, off, axis, share) for name, axis in hit.items()}
    return found


def _is_binary(value: Array | None) -> bool:
    return value is not None and value.ndim == 2 and value.shape[1] > 1 and bool(np.isin(value, (0, 1)).all())


def _axes(made: Mapping[str, Array], outputs: Collection[str], shape: tuple[int, ...]) -> dict[str, list[int]]:
    """By output the axes that may be those of the positions, counted from the end."""
    found = {}
    for name in outputs:
        extents: tuple[int, ...] = made[name].shape if name in made else ()
        if len(extents) > 1 and extents[0] == shape[0]:
            found[name] = [place - len(extents) for place in range(1, len(extents)) if extents[place] == shape[1]]
    return {name: axes for name, axes in found.items() if axes}


def _turned_off(
    run: Callable[[dict[str, Array]], Mapping[str, Array]],
    given: Mapping[str, Array],
    mask: str,
    off: int,
    binary: Collection[str],
    axes: Mapping[str, Sequence[int]],
) -> dict[str, int]:
    """By output the axis along which a mask turns positions off, where this value of it does."""
    on = np.full_like(given[mask], 1 - off)
    found: dict[str, int] = {}
    before = run({**given, mask: on})
    length = on.shape[1]
    for half in (np.arange(length) >= length // 2, np.arange(length) < length // 2):
        changed = _changed(given, half, binary)
        if not changed:
            return {}
        after = run({**given, **changed, mask: on})
        places = [(name, axis) for name, each in axes.items() for axis in each if name not in found]
        moved = [(name, axis) for name, axis in places if not _same(before[name], after[name], axis, ~half)]
        if not moved:
            continue
        hidden = np.where(half, on.dtype.type(off), on)
        both = [run({**given, **values, mask: hidden}) for values in ({}, changed)]
        for name, axis in moved:
            if _same(both[0][name], both[1][name], axis, ~half):
                found.setdefault(name, axis)
    return found


def _changed(given: Mapping[str, Array], half: Array, binary: Collection[str]) -> dict[str, Array]:
    """The inputs of as many positions, with the values of one half of these replaced by those of the other."""
    found = {}
    others = np.flatnonzero(~half)
    for name, value in given.items():
        if name not in binary and value.ndim >= 2 and value.shape[1] == len(half):
            found[name] = value.copy()
            found[name][:, half] = value[:, np.resize(others, int(half.sum()))]
    return found


def _same(first: Array, second: Array, axis: int, places: Array) -> bool:
    """Whether two outputs are the same at some places along an axis, but for rounding."""
    a, b = (np.compress(places, one, axis=axis) for one in (first, second))
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    size = float(np.abs(first[np.isfinite(first)]).max(initial=0.0))
    return bool(np.allclose(a, b, rtol=_SAME, atol=_SAME * size, equal_nan=True))
