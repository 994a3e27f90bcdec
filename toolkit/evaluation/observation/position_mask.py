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
_MOST_TRIED, _MANY = 8, 8
"""Of whole numbers more samples, until so many of them have changed."""
_SAME = 1e-5
_ADDED, _LEAST = -1e3, float(np.finfo(np.float32).min)
"""A number up to which what is added to attention scores turns positions off, and what stands for minus infinity."""
_RANKS = (2, 3, 4)
_FEATURES = 2
"""The axis that positions have beside an axis of features in front."""


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
    axis = _axis_of_positions(mask)
    if axis is None:
        return None
    on = mask > off if off < 0 else mask != off
    others = tuple(place for place in range(1, mask.ndim) if place != axis)
    return np.asarray(on.any(axis=others) if others else on)


def _axis_of_positions(mask: Array) -> int | None:
    """The axis of positions of a mask, its last one that is longer than 1; None where others differ from it."""
    wide = [axis for axis in range(1, mask.ndim) if mask.shape[axis] > 1]
    if mask.ndim not in _RANKS or not wide or not mask.size:
        return None
    # of four axes the second is that of heads
    others = [axis for axis in wide[:-1] if mask.ndim < _RANKS[-1] or axis > 1]
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


def position_masks(
    run: Callable[[dict[str, Array]], Mapping[str, Array]],
    given: Sequence[Mapping[str, Array]],
    made: Sequence[Mapping[str, Array]],
    outputs: Collection[str],
) -> dict[str, PositionMask]:
    """By output the input that turns its positions off; outputs that have none are missing.

    An input of zeros and ones that is as long as the other inputs may be a mask, or tell two sentences apart; so may
    one of zeros and a number far below, which is added to attention scores. What it does tells: half of the positions
    are given other values, which changes the outputs of the other half where all are on, and changes nothing there
    where the half is off. Names and operators are not asked.

    A position that is off without being told by its own values, and with the others', is no padding: an output there is
    what a model fills in for a value that it was not given, or no output of that position. Unless all are tokens, and
    these are off from an end on, of some samples more than of others, and the same ones: models that blank the
    embeddings of padding first (DeBERTa, ESM) do so.

    Args:
        run: runs the float model on one batch.
        given: the inputs of some batches.
        made: the model's outputs for them.
        outputs: those that have an axis of samples in front.
    """
    found: dict[str, PositionMask] = {}
    offs = {name: _offs([one.get(name) for one in given]) for name in (given[0] if given else ())}
    binary = [name for name in offs if offs[name]]
    for mask in binary:
        for off in offs[mask]:
            shown = [on for one in given if (on := positions_on(one[mask], off)) is not None]
            share = 1 - float(np.mean(np.concatenate([on.reshape(-1) for on in shown])))
            if share == 0 and given[0][mask].ndim > _RANKS[0]:
                # who sees whom is no padding
                continue
            padded = _pads(given, mask, off, binary)
            places: dict[tuple[str, int], _Evidence] = {}
            refuted: set[tuple[str, int]] = set()
            for number, (one, of) in enumerate(zip(given[:_MOST_TRIED], made)):
                lacking = [name for name in outputs if name not in found]
                for name, axes in _axes(of, lacking, shown[number].shape).items():
                    if number < _TRIED or of[name].dtype.kind != "f":
                        for place in {(name, axis) for axis in axes} - refuted:
                            places.setdefault(place, _Evidence(1 if of[name].dtype.kind == "f" else _MANY, padded))
                waiting = {place: each for place, each in places.items() if not each.enough and place not in refuted}
                if not waiting or (number >= _TRIED and all(each.least == 1 for each in waiting.values())):
                    break
                try:
                    refuted |= _look(run, one, mask, off, binary, waiting)
                except QtoolError:
                    # values that the model does not take, as positions beyond its table
                    continue
            for (name, axis), each in sorted(places.items()):
                if each.enough and (name, axis) not in refuted:
                    found.setdefault(name, PositionMask(mask, off, axis, share))
    return found


def _offs(values: Sequence[Array | None]) -> tuple[float, ...]:
    """The values of an input that may turn positions off; none where it is no mask."""
    known = [value for value in values if value is not None and _axis_of_positions(value) is not None]
    if len(known) < len(values) or not known:
        return ()
    low, high = (float(of([of(value) for value in known])) for of in (np.min, np.max))
    if low >= 0 and high <= 1:
        return (0, 1) if all(np.isin(value, (0, 1)).all() for value in known) else ()
    added = known[0].dtype.kind == "f" and low <= _ADDED and high == 0
    return (max(low, _LEAST),) if added and all(((value == low) | (value == 0)).all() for value in known) else ()


def _pads(given: Sequence[Mapping[str, Array]], mask: str, off: float, binary: Collection[str]) -> bool:
    """Whether positions that are off can be nothing but the padding of tokens.

    They are at one end, of varying number, and one of the inputs holds a single value there: other tokens are what a
    model is to find, or the data would not have them.
    """
    shown = [(one, on) for one in given if (on := positions_on(one[mask], off)) is not None]
    long: dict[str, list[Array]] = {}
    for one, on in shown:
        for name, value in one.items():
            if name not in binary and (axis := _axis_in(value, on.shape[1])) is not None:
                long.setdefault(name, []).append(np.moveaxis(value, axis, 1)[~on])
    if not long or any(value.dtype.kind not in "iu" for values in long.values() for value in values):
        return False
    if not any(len(np.unique(np.concatenate(values))) == 1 for values in long.values()):
        return False
    rows = [~row for _, on in shown for row in on]
    at_end, at_start = (all((np.diff(row.astype(int)) * way >= 0).all() for row in rows) for way in (1, -1))
    return len({int(row.sum()) for row in rows}) > 1 and (at_end or at_start)


def _axes(made: Mapping[str, Array], outputs: Collection[str], shape: tuple[int, ...]) -> dict[str, list[int]]:
    """By output the axes that may be those of the positions, counted from the end."""
    found = {}
    for name in outputs:
        extents: tuple[int, ...] = made[name].shape if name in made else ()
        if len(extents) > 1 and extents[0] == shape[0]:
            found[name] = [place - len(extents) for place in range(1, len(extents)) if extents[place] == shape[1]]
    return {name: axes for name, axes in found.items() if axes}


@dataclass
class _Evidence:
    """What speaks for a mask of an output's positions along an axis.

    Attributes:
        least: how many values that are on have to change: whole numbers, such as tags, often stay by chance.
        moved: how many did, where those of other positions that are on did.
        own: whether a position that is off changes with its own values.
        blank: whether what is off never changed with anything.
        padded: see ``_pads``.
    """

    least: int
    padded: bool
    moved: int = 0
    own: bool = False
    blank: bool = True

    @property
    def enough(self) -> bool:
        return self.moved >= self.least and (self.own or self.blank or self.padded)


def _look(
    run: Callable[[dict[str, Array]], Mapping[str, Array]],
    given: Mapping[str, Array],
    mask: str,
    off: float,
    binary: Collection[str],
    places: Mapping[tuple[str, int], _Evidence],
) -> set[tuple[str, int]]:
    """Add what one batch shows; returns the places where positions that are off change others.

    What refutes most inputs takes two runs, and comes first.
    """
    on = np.full_like(given[mask], 0 if off < 0 else 1 - off)
    along = _axis_of_positions(on)
    if along is None:
        return set(places)
    length, refuted = on.shape[along], set[tuple[str, int]]()
    before: Mapping[str, Array] | None = None
    for half in (np.arange(length) >= length // 2, np.arange(length) < length // 2):
        changed = _changed(given, half, binary)
        if not changed:
            return set(places)
        turned = half.reshape(-1, *[1] * (on.ndim - 1 - along))
        hidden = np.where(turned, on.dtype.type(off), on)
        first, second = (run({**given, **values, mask: hidden}) for values in ({}, changed))
        refuted |= {(n, axis) for n, axis in places if not _same(first[n], second[n], axis, ~half)}
        left = [place for place in places if place not in refuted]
        if not left:
            break
        before = run({**given, mask: on}) if before is None else before
        after = run({**given, **changed, mask: on})
        moved = {(n, axis): _differing(before[n], after[n], axis, ~half) for n, axis in left}
        others: Mapping[str, Array] | None = None
        for (n, axis), many in moved.items():
            if not many:
                continue
            each = places[n, axis]
            each.moved += many
            each.own |= not _same(first[n], second[n], axis, half)
            if not each.own:
                others = others or run({**given, **_changed(given, ~half, binary), mask: hidden})
                each.blank &= _same(first[n], others[n], axis, half)
    return refuted


def _changed(given: Mapping[str, Array], half: Array, binary: Collection[str]) -> dict[str, Array]:
    """The inputs of as many positions, with the values of one half of these replaced by those of the other."""
    found = {}
    others = np.resize(np.flatnonzero(~half), int(half.sum()))
    for name, value in given.items():
        axis = _axis_in(value, len(half)) if name not in binary else None
        if axis is not None:
            found[name] = value.copy()
            np.moveaxis(found[name], axis, 0)[half] = np.moveaxis(value, axis, 0)[others]
    return found


def _axis_in(value: Array, positions: int) -> int | None:
    """The axis of positions in an input: the first of a sample, or that after features; None where there is none."""
    if value.ndim > 1 and value.shape[1] == positions:
        return 1
    return _FEATURES if value.ndim == _FEATURES + 1 and value.shape[_FEATURES] == positions else None


def _same(first: Array, second: Array, axis: int, places: Array) -> bool:
    """Whether two outputs are the same at some places along an axis, but for rounding."""
    return _differing(first, second, axis, places) == 0


def _differing(first: Array, second: Array, axis: int, places: Array) -> int:
    """How many values of two outputs differ at some places along an axis by more than rounding; all in other shapes."""
    if first.shape != second.shape:
        return max(first.size, 1)
    a, b = (np.compress(places, one, axis=axis) for one in (first, second))
    if a.dtype.kind != "f":
        return int(np.count_nonzero(a != b))
    size = float(np.abs(first[np.isfinite(first)]).max(initial=0.0))
    return int(np.count_nonzero(~np.isclose(a, b, rtol=_SAME, atol=_SAME * size, equal_nan=True)))
