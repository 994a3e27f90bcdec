"""What is known of a model and its outputs from a few samples and from the graph: clues to its task."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.numerics.masks import valued
from toolkit.evaluation.observation.position_mask import PositionMask

_CLOSE, _SOME = 1e-3, 8
_FIRST, _CROP = 4, 64
"""Samples, and values along each of their axes, that show how far neighbours lie apart."""
_LIKE, _FOLLOWS = 0.9, 0.3
FAINT = 0.01
"""A smaller probability is no sign of anything: a detector's scores of nothing have the size of rounding errors."""
_SAME = 0.99
_MOST_BANDS = 4096
"""Of as many values as a vocabulary has none are bands, and comparing all would take long."""
_BANDS, _TOGETHER, _APART = 16, 0.6, 0.3
"""The fewest bands of a spectrum; how much neighbours correlate at least, and by how much less those far apart do. In
log-mel spectra of sounds neighbours correlate by 0.8 to 0.97, those far apart not, in CTC's logits no two do."""
_LOST = re.compile(r"unk_|.*_dim_\d+$|\?|None|-")
"""What exporters call an extent that they lost: it may be fixed."""
_INDEPENDENT = frozenset({"Sigmoid", "HardSigmoid"})
"""Operators that make each value a probability by itself."""
_COUNTING = 0.5
"""Of positions the rest may be padded; tokens seldom follow each other by their numbers."""
_SPLIT = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


@dataclass
class SeenOutput:
    """One output.

    Attributes:
        name: its name.
        declared: its shape as the model declares it; None where it does not. Samples that contradict it count.
        samples: its values for each sample, without the batch axis, floats in float32.
        batch_axis: where samples lie; None where there is no such axis.
        ops: the operators that produce it, upstream of those that only move or reshape; for a Concat those of its
            inputs, for an If those of its branches, for means and maxima of chances what makes the chances.
        likenesses: for some samples, how much it is like an input image; see ``likeness``.
        feeds: the outputs that are computed from it.
        chosen_by: those of them that are made of choices among its values; see ``chosen_by``.
        column: which numbers beside chosen boxes the graph says that it holds; see ``chosen_column``.
        one_each: whether a layer of one channel computes its values; see ``one_each``.
        squashed: the operators that keep its values within bounds; see ``squashed``.
        mask: the input that turns positions of it off; None where none does.
        counted: ``samples`` without the positions that are off; empty without such an input.
        rounded: whether it is cast from computed amounts; see ``rounded``.
        channels: the axis of the channels of its layer, counted from the end; see ``layer_channels``.
    """

    name: str
    declared: tuple[Any, ...] | None
    samples: list[Array] = field(default_factory=list)
    batch_axis: int | None = 0
    ops: frozenset[str] = frozenset()
    likenesses: list[float] = field(default_factory=list)
    feeds: frozenset[str] = frozenset()
    chosen_by: frozenset[str] = frozenset()
    column: str = ""
    one_each: bool = False
    squashed: str = ""
    mask: PositionMask | None = None
    counted: list[Array] = field(default_factory=list)
    rounded: bool = False
    channels: int | None = None

    @property
    def discrete(self) -> bool:
        """Whether it holds integers or the like."""
        return bool(self.samples) and self.samples[0].dtype.kind in "iub"

    @property
    def shape(self) -> tuple[int, ...]:
        """The first sample's shape, without the batch axis."""
        return self.samples[0].shape if self.samples else ()

    @cached_property
    def words(self) -> frozenset[str]:
        """The words of its name, in lower case."""
        return frozenset(word.lower() for word in _SPLIT.findall(self.name))

    @property
    def empty(self) -> bool:
        """Whether no sample has a value: its rows vary in number, and there were none."""
        return all(one.size == 0 for one in self.samples)

    @cached_property
    def flat(self) -> Array:
        """All values seen that are numbers, see ``valued``, float64 [values]."""
        values = np.concatenate([np.asarray(one, np.float64).reshape(-1) for one in self.samples] or [np.zeros(0)])
        return valued(values)

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return (float(self.flat.min()), float(self.flat.max())) if self.flat.size else (0.0, 0.0)

    @property
    def in_unit(self) -> bool:
        """Whether all values are between 0 and 1, as a sigmoid's and a softmax's are, and not all the same."""
        low, high = self.bounds
        return low >= -1e-6 and high <= 1 + 1e-6 and high > low

    @property
    def shows_input(self) -> bool:
        """Whether it is a picture of what an input image shows, as a denoiser's or a colorizer's."""
        return bool(self.likenesses) and float(np.median(self.likenesses)) >= _LIKE

    @property
    def follows_input(self) -> bool:
        """Whether it rises and falls where an input does, as an enhanced signal or the forecast of one."""
        return bool(self.likenesses) and float(np.median(self.likenesses)) >= _FOLLOWS

    def sums_to_one(self, axis: int) -> bool:
        """Whether values along an axis of a sample are probabilities that sum to 1, or their logarithms.

        Those of sigmoids alone are independent, whatever they add up to: where each sample has just one label, to 1.
        """
        if self.discrete or not self.samples or self.shape[axis] < 2 or (self.ops and self.ops <= _INDEPENDENT):
            return False
        filled = [one for one in self.samples if one.size]
        return bool(filled) and all(_shares(np.asarray(one, np.float64), axis) for one in filled)

    def stacked(self, axis: int) -> Array:
        """All samples with one axis last, float64 [positions, extent]; samples of other extents are left out."""
        rows = [np.moveaxis(np.asarray(one, np.float64), axis, -1) for one in self.samples]
        return np.concatenate([row.reshape(-1, row.shape[-1]) for row in rows if row.shape[-1] == rows[0].shape[-1]])

    @cached_property
    def extents(self) -> tuple[Any, ...] | None:
        """The declared extents of a sample's axes; None where none are declared, or the samples contradict them."""
        if self.declared is None:
            return None
        axis = self.batch_axis
        known = self.declared if axis is None else (*self.declared[:axis], *self.declared[axis + 1 :])
        unlike = any(len(known) != one.ndim or _contradicts(known, one.shape) for one in self.samples)
        return None if unlike else known

    @property
    def contradiction(self) -> Finding | None:
        """A finding that the model declares another shape than it returns; None where it does not."""
        if self.declared is None or self.extents is not None:
            return None
        shape = [str(extent) for extent in self.shape]
        if self.batch_axis is not None:
            shape.insert(self.batch_axis, "N")
        declared = [str(dim) for dim in self.declared]
        return EvaluationCode.OUTPUT_SHAPE_UNLIKE_DECLARED(output=self.name, declared=declared, observed=shape)

    def fixed(self, axis: int) -> bool:
        """Whether a sample's axis has one extent by what the model declares; axes count from the end."""
        return self.extents is not None and len(self.extents) >= -axis and isinstance(self.extents[axis], int)

    def dynamic(self, axis: int) -> bool:
        """Whether the model gives a sample's axis a name, or a formula, so that it has no one extent."""
        extent = self.extents[axis] if self.extents is not None and len(self.extents) >= -axis else None
        return isinstance(extent, str) and bool(extent) and not _LOST.match(extent)

    def one_largest(self, axis: int) -> bool:
        """Whether the same place along an axis holds the largest value in every sample, given several samples."""
        return len(self.samples) >= _SOME and len(set(self.stacked(axis).argmax(axis=1).tolist())) == 1

    def largest_as(self, other: SeenOutput, axis: int = -1) -> bool:
        """Whether the largest value along an axis lies where the other's does: a softmax or a sigmoid of it."""
        # a sample without a single value says nothing
        both = zip(self.samples, other.samples)
        pairs = [(a, b) for a, b in both if a.size and b.size and min(a.ndim, b.ndim) >= -axis]
        best = [(a.argmax(axis=axis), b.argmax(axis=axis)) for a, b in pairs]
        return bool(best) and all(a.shape == b.shape and (a == b).mean() > _SAME for a, b in best)

    def has_bands(self, axis: int) -> bool:
        """Whether neighbours along an axis go together and others do not, as the bands of a spectrum and no classes."""
        rows = self.stacked(axis)
        extent = rows.shape[1]
        if not _BANDS <= extent <= _MOST_BANDS or len(rows) < _SOME:
            return False
        # what all have in common, such as silence or a blank, tells nothing
        rows = rows - rows.mean(axis=1, keepdims=True)
        rows -= rows.mean(axis=0)
        rows /= np.maximum(np.linalg.norm(rows, axis=0), np.finfo(np.float64).tiny)
        near, far = ((rows * np.roll(rows, by, axis=1)).sum(axis=0)[by:].mean() for by in (1, extent // 2))
        return bool(near > _TOGETHER and far < near - _APART)

    def step(self, axis: int) -> float:
        """How far neighbours along an axis of a sample lie apart in the mean: places of a picture are near each other
        and classes of one place are not.
        """
        crops = [np.asarray(one[tuple(slice(_CROP) for _ in one.shape)], np.float64) for one in self.samples[:_FIRST]]
        found = [float(np.abs(np.diff(one, axis=axis)).mean()) for one in crops if one.shape[axis] > 1 and one.size]
        return float(np.mean(found)) if found else 0.0

    def varies(self, axis: int) -> bool:
        """Whether samples differ along an axis, counted from the end."""
        return len({one.shape[axis] for one in self.samples if one.ndim >= -axis}) > 1


@dataclass
class SeenModel:
    """A model with its outputs for a few samples.

    Attributes:
        outputs: each output, in the model's order, but those that hand a past on.
        inputs: one sample of each input, without the batch axis.
        ops: all operators of the graph, those of subgraphs included.
        states: the outputs that a next step reads in place of an input, as a recurrent layer's.
        pasts: the inputs that outputs hand on longer, as a decoder's keys: they are no answers, and no images.
        read: the classes that labels of readings name, as far as they were seen: none of them is CTC's blank.
        at_once: how many samples it always takes at once, see ``rows_at_once``.
        known: by input how many tokens it knows, by each table of them; see ``vocabularies``.
    """

    outputs: list[SeenOutput]
    inputs: dict[str, Array]
    ops: frozenset[str]
    states: frozenset[str] = frozenset()
    pasts: frozenset[str] = frozenset()
    read: frozenset[int] = frozenset()
    at_once: int = 1
    known: Mapping[str, frozenset[int]] = field(default_factory=dict)

    @property
    def reads_tokens(self) -> bool:
        """Whether an input holds numbers of tokens: integers along an axis."""
        return any(one.dtype.kind in "iu" and one.ndim >= 1 for one in self.inputs.values())

    def is_vocabulary(self, count: int) -> bool:
        """Whether there are so many tokens of an input, and these are what the model is likely to tell the next of.

        Where another input of the same positions knows more tokens, as words beside their parts of speech, the fewer
        are features of those, and as many scores are tags; unless an output has scores of the others, as where several
        streams are told together. What only counts the positions knows no tokens.
        """
        tokens = {name: rows for name, rows in self.known.items() if not _counts_up(self.inputs.get(name))}
        scored = {one.shape[-1] for one in self.outputs if one.samples and len(one.shape) > 1}
        more = {name for name, rows in tokens.items() if max(rows) > count and not rows & scored}
        own = [name for name, rows in tokens.items() if count in rows]
        shapes = {self.inputs[name].shape for name in more if name in self.inputs}
        return any(name not in self.inputs or self.inputs[name].shape not in shapes for name in own)

    def labels_of(self, samples: Sequence[Array]) -> list[Array]:
        """Each sample's label without an axis of samples, which a label that is stored by itself may lack.

        Args:
            samples: the label of each sample as the data has it.
        """
        apart = any(one.batch_axis is not None for one in self.outputs if one.samples)
        whole = not apart and any(one.ndim and len(one) != 1 for one in samples)
        return [one if whole else one[0] for one in samples]

    @property
    def images(self) -> list[tuple[int, int]]:
        """Height and width of each input that is an image."""
        found = []
        for name, one in self.inputs.items():
            if name not in self.pasts and one.ndim == 3 and one.dtype.kind not in "b":
                if one.shape[0] <= 4:
                    found.append((one.shape[1], one.shape[2]))
                elif one.shape[2] <= 4:
                    found.append((one.shape[0], one.shape[1]))
        return found


def _counts_up(value: Array | None) -> bool:
    """Whether an input holds one number after the other, but for padding, as those of positions."""
    return value is not None and value.size > 1 and bool((np.diff(value.reshape(-1)) == 1).mean() >= _COUNTING)


def _contradicts(declared: Sequence[Any], shape: Sequence[int]) -> bool:
    return any(isinstance(known, int) and known != extent for known, extent in zip(declared, shape))


def _shares(value: Array, axis: int) -> bool:
    if not np.isfinite(value).all():
        return False
    if value.min() >= -_CLOSE and value.max() <= 1 + _CLOSE:
        return bool(np.allclose(value.sum(axis=axis), 1.0, atol=1e-2))
    return bool(value.max() <= _CLOSE and np.allclose(np.exp(value).sum(axis=axis), 1.0, atol=1e-2))
