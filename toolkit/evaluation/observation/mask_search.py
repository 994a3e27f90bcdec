"""Find the inputs that mask positions of a sample by their effect on the outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from toolkit.base.errors import QtoolError
from toolkit.base.types import Array
from toolkit.evaluation.observation.position_mask import MASK_RANKS, PositionMask, axis_of_positions, positions_on

_TRIED = 2
"""Number of batches on which an input is tried; one may not suffice because all its tokens may be the same."""
_MOST_TRIED, _MANY = 8, 8
"""For integer outputs, the largest number of batches, and how many values must change."""
_SAME = 1e-5
"""Tolerance for rounding, relative to each value and to the largest magnitude of the output."""
_ADDED, _LEAST = -1e3, float(np.finfo(np.float32).min)
"""Largest number that masks a position if added to attention scores, and the number that stands for minus infinity."""
_FEATURES = 2
"""The axis of positions if an axis of features precedes it."""

Run: TypeAlias = "Callable[[dict[str, Array]], Mapping[str, Array]]"
"""A function that runs the float model on one batch and returns its outputs by name."""
Place: TypeAlias = "tuple[str, int]"
"""The name of an output and an axis that may be that of its positions, counted from the end."""


def position_masks(
    run: Run,
    given: Sequence[Mapping[str, Array]],
    made: Sequence[Mapping[str, Array]],
    outputs: Collection[str],
) -> dict[str, PositionMask]:
    """The input that masks positions, for each output that has one.

    An input of zeros and ones with one value per position may be a mask, or tell two sentences apart. An input of zeros
    and a large negative number may be a mask that is added to attention scores. Its effect decides: half of the
    positions get other values. This must change the outputs at the other half if no position is masked, and must not if
    the changed half is masked. Names and operators are not considered.

    A masked position whose output depends on other positions but not on its own value is not padding: its output is the
    prediction of a missing value, or belongs to no position. The exception is padding of tokens at one end, of varying
    length and with a single value: models that first zero the embeddings of padding (DeBERTa, ESM) behave like this.

    Args:
        run: runs the float model on one batch.
        given: the inputs of some batches.
        made: the model's outputs for them.
        outputs: names of the outputs whose first axis is that of samples.

    Returns:
        The mask by output; outputs without one are missing.
    """
    found: dict[str, PositionMask] = {}
    offs = {name: _offs([one.get(name) for one in given]) for name in (given[0] if given else ())}
    binary = [name for name in offs if offs[name]]
    for mask in binary:
        for off in offs[mask]:
            trial = _MaskTrial(run, given, mask, off, binary)
            for name, axis in trial.places(made, [name for name in outputs if name not in found]):
                found.setdefault(name, PositionMask(mask, off, axis, trial.share))
    return found


class _MaskTrial:
    """Tests whether one value of an input masks positions.

    Args:
        run: runs the float model on one batch.
        given: the inputs of some batches.
        mask: the name of the input.
        off: the value, see ``PositionMask.off``.
        binary: names of all inputs that may be masks.

    Attributes:
        share: the share of positions with the value, 0 to 1.
    """

    def __init__(
        self, run: Run, given: Sequence[Mapping[str, Array]], mask: str, off: float, binary: Collection[str]
    ) -> None:
        self._run, self._given, self._mask, self._off, self._binary = run, given, mask, off, binary
        self._shown = [on for one in given if (on := positions_on(one[mask], off)) is not None]
        self.share = 1 - float(np.mean(np.concatenate([on.reshape(-1) for on in self._shown])))

    def places(self, made: Sequence[Mapping[str, Array]], outputs: Collection[str]) -> list[Place]:
        """The outputs and axes whose positions are masked by the value.

        Args:
            made: the model's outputs for each batch.
            outputs: names of the outputs to try.
        """
        if self.share == 0 and self._given[0][self._mask].ndim > MASK_RANKS[0]:
            # an attention mask that masks no position entirely, such as a causal one, is not about padding
            return []
        padded = self._turns_off_only_padding()
        evidence: dict[Place, _Evidence] = {}
        refuted: set[Place] = set()
        for number, (one, of) in enumerate(zip(self._given[:_MOST_TRIED], made)):
            for name, axes in _axes(of, outputs, self._shown[number].shape).items():
                floats = of[name].dtype.kind == "f"
                if number < _TRIED or not floats:
                    for place in {(name, axis) for axis in axes} - refuted:
                        evidence.setdefault(place, _Evidence(1 if floats else _MANY, padded))
            waiting = {place: each for place, each in evidence.items() if not each.enough and place not in refuted}
            if not waiting or (number >= _TRIED and all(each.least == 1 for each in waiting.values())):
                break
            try:
                refuted |= self._try(one, waiting)
            except QtoolError:
                # the model does not accept these values, such as positions beyond its table
                continue
        return [place for place, each in sorted(evidence.items()) if each.enough and place not in refuted]

    def _turns_off_only_padding(self) -> bool:
        """Whether the masked positions can only be padding of tokens.

        They are at one end, their number varies, and one of the inputs has a single value there. Positions that the
        model should predict would have different values.
        """
        hidden: dict[str, list[Array]] = {}
        for one, on in zip(self._given, self._shown):
            for name, value in one.items():
                if name not in self._binary and (axis := _axis_in(value, on.shape[1])) is not None:
                    hidden.setdefault(name, []).append(np.moveaxis(value, axis, 1)[~on])
        if not hidden or any(value.dtype.kind not in "iu" for values in hidden.values() for value in values):
            return False
        if not any(len(np.unique(np.concatenate(values))) == 1 for values in hidden.values()):
            return False
        rows = [~row for on in self._shown for row in on]
        at_end, at_start = (all((np.diff(row.astype(int)) * way >= 0).all() for row in rows) for way in (1, -1))
        return len({int(row.sum()) for row in rows}) > 1 and (at_end or at_start)

    def _try(self, given: Mapping[str, Array], places: Mapping[Place, _Evidence]) -> set[Place]:
        """Add the evidence of one batch; returns the places where masked positions affect others, which are refuted.

        The check that refutes most inputs takes only two runs and is done first.
        """
        on = np.full_like(given[self._mask], 0 if self._off < 0 else 1 - self._off)
        along = axis_of_positions(on)
        if along is None:
            return set(places)
        length, refuted = on.shape[along], set[Place]()
        before: Mapping[str, Array] | None = None
        for half in (np.arange(length) >= length // 2, np.arange(length) < length // 2):
            changed = _changed(given, half, self._binary)
            if not changed:
                return set(places)
            turned = half.reshape(-1, *[1] * (on.ndim - 1 - along))
            hidden = np.where(turned, on.dtype.type(self._off), on)
            first, second = (self._run({**given, **values, self._mask: hidden}) for values in ({}, changed))
            refuted |= {(n, axis) for n, axis in places if not _same(first[n], second[n], axis, ~half)}
            left = [place for place in places if place not in refuted]
            if not left:
                break
            before = self._run({**given, self._mask: on}) if before is None else before
            after = self._run({**given, **changed, self._mask: on})
            moved = {(n, axis): _differing(before[n], after[n], axis, ~half) for n, axis in left}
            others: Mapping[str, Array] | None = None
            for (n, axis), many in moved.items():
                if not many:
                    continue
                each = places[n, axis]
                each.moved += many
                each.own |= not _same(first[n], second[n], axis, half)
                if not each.own:
                    others = others or self._run({**given, **_changed(given, ~half, self._binary), self._mask: hidden})
                    each.blank &= _same(first[n], others[n], axis, half)
        return refuted


def _offs(values: Sequence[Array | None]) -> tuple[float, ...]:
    """The values of an input that may mean "masked"; empty if the input cannot be a mask."""
    known = [value for value in values if value is not None and axis_of_positions(value) is not None]
    if len(known) < len(values) or not known:
        return ()
    low, high = (float(of([of(value) for value in known])) for of in (np.min, np.max))
    if low >= 0 and high <= 1:
        return (0, 1) if all(np.isin(value, (0, 1)).all() for value in known) else ()
    added = known[0].dtype.kind == "f" and low <= _ADDED and high == 0
    return (max(low, _LEAST),) if added and all(((value == low) | (value == 0)).all() for value in known) else ()


def _axes(made: Mapping[str, Array], outputs: Collection[str], shape: tuple[int, ...]) -> dict[str, list[int]]:
    """By output, the axes that have the extent of the positions, counted from the end."""
    found = {}
    for name in outputs:
        extents: tuple[int, ...] = made[name].shape if name in made else ()
        if len(extents) > 1 and extents[0] == shape[0]:
            found[name] = [place - len(extents) for place in range(1, len(extents)) if extents[place] == shape[1]]
    return {name: axes for name, axes in found.items() if axes}


@dataclass
class _Evidence:
    """Evidence that an input masks an output's positions along an axis.

    Attributes:
        least: how many values must change when nothing is masked. Integers such as tags often stay the same by chance,
            so more of them are needed.
        moved: how many did change when the other half's inputs changed.
        own: whether a masked position's output changes with its own inputs.
        blank: whether the outputs at masked positions never changed.
        padded: whether the masked positions can only be padding.
    """

    least: int
    padded: bool
    moved: int = 0
    own: bool = False
    blank: bool = True

    @property
    def enough(self) -> bool:
        return self.moved >= self.least and (self.own or self.blank or self.padded)


def _changed(given: Mapping[str, Array], half: Array, binary: Collection[str]) -> dict[str, Array]:
    """The inputs that have an axis of positions, with the values at ``half`` replaced by those at the other half.

    Args:
        given: the inputs of a batch.
        half: the positions to change, bool [positions].
        binary: names of inputs that may be masks, which are left out.
    """
    found = {}
    others = np.resize(np.flatnonzero(~half), int(half.sum()))
    for name, value in given.items():
        axis = _axis_in(value, len(half)) if name not in binary else None
        if axis is not None:
            found[name] = value.copy()
            np.moveaxis(found[name], axis, 0)[half] = np.moveaxis(value, axis, 0)[others]
    return found


def _axis_in(value: Array, positions: int) -> int | None:
    """The axis of positions in an input: 1, or 2 if features precede it; None if there is none."""
    if value.ndim > 1 and value.shape[1] == positions:
        return 1
    return _FEATURES if value.ndim == _FEATURES + 1 and value.shape[_FEATURES] == positions else None


def _same(first: Array, second: Array, axis: int, places: Array) -> bool:
    """Whether two outputs are equal, up to rounding, at the given positions along an axis."""
    return _differing(first, second, axis, places) == 0


def _differing(first: Array, second: Array, axis: int, places: Array) -> int:
    """How many values of two outputs differ by more than rounding at the given positions along an axis.

    If the shapes differ, it is the number of values of the first, at least 1.
    """
    if first.shape != second.shape:
        return max(first.size, 1)
    a, b = (np.compress(places, one, axis=axis) for one in (first, second))
    if a.dtype.kind != "f":
        return int(np.count_nonzero(a != b))
    size = float(np.abs(first[np.isfinite(first)]).max(initial=0.0))
    return int(np.count_nonzero(~np.isclose(a, b, rtol=_SAME, atol=_SAME * size, equal_nan=True)))
