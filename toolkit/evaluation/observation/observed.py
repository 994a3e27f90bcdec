"""Properties of a model and its outputs, from a few samples and the graph, by which the task is guessed."""

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
"""Tolerance for the limits of probabilities, and fewest samples or positions that can show a property."""
_FIRST, _CROP = 4, 64
"""Number of samples, and of values along each axis, from which the differences of adjacent values are computed."""
_LIKE, _FOLLOWS = 0.9, 0.3
"""Least median correlation with an input of an output that shows the same picture, and of one that follows a signal."""
FAINT = 0.01
"""Smaller probabilities are ignored: a detector's scores of empty anchors are about as large as rounding errors."""
_SAME = 0.99
_MOST_BANDS = 4096
"""Most bands of a spectrum. Rows as wide as a vocabulary have none, and comparing all columns would take long."""
_BANDS, _TOGETHER, _APART = 16, 0.6, 0.3
"""Fewest bands of a spectrum, least correlation of adjacent bands, and by how much less distant bands correlate. In
log-mel spectra of sounds, adjacent bands correlate by 0.8 to 0.97 and distant ones do not; in CTC logits, no two do."""
_LOST = re.compile(r"unk_|.*_dim_\d+$|\?|None|-")
"""Names that exporters give to extents that they could not infer, which may nevertheless be fixed."""
_INDEPENDENT = frozenset({"Sigmoid", "HardSigmoid"})
"""Operators that make each value an independent probability."""
_ALIKE = 0.5
"""How far adjacent values of stretches differ at most, relative to any two values: 1 where they are in no order, and 2
over the length of the stretches if these are all of one length."""
_COUNTING = 0.5
"""Least share of steps of 1 in position numbers, the rest being padding; numbers of tokens seldom are consecutive."""
_SPLIT = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


@dataclass
class SeenOutput:
    """An output of the model, its values on a few samples, and properties read from the graph.

    Attributes:
        name: the output's name.
        declared: the shape that the model declares; None if it declares none. If the samples contradict it, their
            shapes are used.
        samples: the values of each sample, without the batch axis; floats are float32.
        batch_axis: the axis of samples; None if there is none.
        ops: the operators that produce the output, upstream of those that only move or reshape data: for a Concat those
            of its inputs, for an If those of its branches, for means and maxima of probabilities those that produce the
            probabilities.
        likenesses: for some samples, the correlation with an input image, -1 to 1; see ``image_correlation``.
        feeds: names of the outputs that are computed from this one.
        inputs: names of the inputs that it is computed from.
        chosen_by: those of them that show that this one holds class scores; see ``chosen_by``.
        column: whether it holds classes or indices of selected boxes, according to the graph; see ``chosen_column``.
        one_each: whether a layer with one output channel computes its values; see ``one_each``.
        squashed: the operators that bound its values; see ``squashed``.
        mask: the input that masks positions of the output; None if there is none.
        counted: ``samples`` without masked positions; empty if no input masks any.
        rounded: whether its integers are rounded quantities; see ``rounded``.
        quantized: scale and zero point of its integers, if a QuantizeLinear writes them; see ``rounded.quantized``.
        channels: the axis of the channels of its layer, counted from the end; see ``layer_channels``.
        repeats: how closely it follows an input of its shape, -1 to 1; see ``repeated_input``.
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
    quantized: tuple[float, float] | None = None
    channels: int | None = None
    inputs: frozenset[str] = frozenset()
    repeats: float = 0.0

    @property
    def discrete(self) -> bool:
        """Whether it holds integers or booleans, other than quantized values, which stand for floats."""
        return self.quantized is None and bool(self.samples) and self.samples[0].dtype.kind in "iub"

    @property
    def shape(self) -> tuple[int, ...]:
        """The first sample's shape, without the batch axis."""
        return self.samples[0].shape if self.samples else ()

    @cached_property
    def words(self) -> frozenset[str]:
        """The words of the output's name, in lower case; numbers are words too.

        What follows «per» says what there is a value for, not what it is: ``logits_per_image`` are logits.
        """
        found = [word.lower() for word in _SPLIT.findall(self.name)]
        return frozenset(found[: found.index("per")] if "per" in found[1:] else found)

    @property
    def empty(self) -> bool:
        """Whether no sample has any values, as when the number of rows varies and was always 0."""
        return all(one.size == 0 for one in self.samples)

    @cached_property
    def flat(self) -> Array:
        """The values of all samples without NaN, infinities and mask values (see ``valued``), float64 [values]."""
        values = np.concatenate([np.asarray(one, np.float64).reshape(-1) for one in self.samples] or [np.zeros(0)])
        return valued(values)

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest of ``flat``; zeros if it is empty."""
        return (float(self.flat.min()), float(self.flat.max())) if self.flat.size else (0.0, 0.0)

    @property
    def in_unit(self) -> bool:
        """Whether all values are between 0 and 1, as those of a sigmoid or softmax, and not all the same."""
        low, high = self.bounds
        return low >= -1e-6 and high <= 1 + 1e-6 and high > low

    @property
    def shows_input(self) -> bool:
        """Whether it is a picture with the content of an input image, as of a denoiser or colourizer."""
        return bool(self.likenesses) and float(np.median(self.likenesses)) >= _LIKE

    @property
    def follows_input(self) -> bool:
        """Whether it correlates with an input, as an enhanced signal or the forecast of one."""
        return bool(self.likenesses) and float(np.median(self.likenesses)) >= _FOLLOWS

    def sums_to_one(self, axis: int) -> bool:
        """Whether values along an axis of a sample are probabilities that sum to 1, or their logarithms.

        Outputs of sigmoids never count, even if they sum to 1 because each sample happens to have one label.
        """
        if self.discrete or not self.samples or self.shape[axis] < 2 or (self.ops and self.ops <= _INDEPENDENT):
            return False
        filled = [one for one in self.samples if one.size]
        return bool(filled) and all(_shares(np.asarray(one, np.float64), axis) for one in filled)

    def stacked(self, axis: int) -> Array:
        """All samples with one axis last, float64 [positions, extent].

        Samples whose extent along the axis differs from the first sample's are left out.
        """
        rows = [np.moveaxis(np.asarray(one, np.float64), axis, -1) for one in self.samples]
        return np.concatenate([row.reshape(-1, row.shape[-1]) for row in rows if row.shape[-1] == rows[0].shape[-1]])

    @cached_property
    def extents(self) -> tuple[Any, ...] | None:
        """The declared extents of a sample's axes; None if none are declared or the samples contradict them."""
        if self.declared is None:
            return None
        axis = self.batch_axis
        known = self.declared if axis is None else (*self.declared[:axis], *self.declared[axis + 1 :])
        unlike = any(len(known) != one.ndim or _contradicts(known, one.shape) for one in self.samples)
        return None if unlike else known

    @property
    def contradiction(self) -> Finding | None:
        """A finding that the output's shape contradicts the declared one; None if it does not."""
        if self.declared is None or self.extents is not None:
            return None
        shape = [str(extent) for extent in self.shape]
        if self.batch_axis is not None:
            shape.insert(self.batch_axis, "N")
        declared = [str(dim) for dim in self.declared]
        return EvaluationCode.OUTPUT_SHAPE_UNLIKE_DECLARED(output=self.name, declared=declared, observed=shape)

    def fixed(self, axis: int) -> bool:
        """Whether the declared shape has a number for a sample's axis, counted from the end."""
        return self.extents is not None and len(self.extents) >= -axis and isinstance(self.extents[axis], int)

    def dynamic(self, axis: int) -> bool:
        """Whether the declared shape has a name or formula for a sample's axis, so that its extent may vary.

        Names that exporters give to extents that they could not infer do not count.
        """
        extent = self.extents[axis] if self.extents is not None and len(self.extents) >= -axis else None
        return isinstance(extent, str) and bool(extent) and not _LOST.match(extent)

    def one_largest(self, axis: int) -> bool:
        """Whether the argmax along an axis is the same in all samples; False for fewer than ``_SOME`` samples."""
        return len(self.samples) >= _SOME and len(set(self.stacked(axis).argmax(axis=1).tolist())) == 1

    def largest_as(self, other: SeenOutput, axis: int = -1) -> bool:
        """Whether the argmax along an axis is nearly always that of another output, as after a softmax or sigmoid."""
        # samples without any values are skipped
        both = zip(self.samples, other.samples)
        pairs = [(a, b) for a, b in both if a.size and b.size and min(a.ndim, b.ndim) >= -axis]
        best = [(a.argmax(axis=axis), b.argmax(axis=axis)) for a, b in pairs]
        return bool(best) and all(a.shape == b.shape and (a == b).mean() > _SAME for a, b in best)

    def has_bands(self, axis: int, fewest: int = _BANDS) -> bool:
        """Whether adjacent ones of ``fewest`` or more values along an axis correlate and distant ones do not."""
        rows = self.stacked(axis)
        extent = rows.shape[1]
        if not fewest <= extent <= _MOST_BANDS or len(rows) < _SOME or not np.isfinite(rows).all():
            return False
        # variation that all bands share, such as silence, or a blank in all classes, is removed
        rows = rows - rows.mean(axis=1, keepdims=True)
        rows -= rows.mean(axis=0)
        rows /= np.maximum(np.linalg.norm(rows, axis=0), np.finfo(np.float64).tiny)
        near, far = ((rows * np.roll(rows, by, axis=1)).sum(axis=0)[by:].mean() for by in (1, extent // 2))
        return bool(near > _TOGETHER and far < near - _APART)

    def step(self, axis: int) -> float:
        """The mean absolute difference of adjacent values along a sample's axis, counted from the end.

        It is small between adjacent pixels of a picture, but not between classes at one pixel.
        """
        crops = [np.asarray(one[tuple(slice(_CROP) for _ in one.shape)], np.float64) for one in self.samples[:_FIRST]]
        found = [float(np.abs(np.diff(one, axis=axis)).mean()) for one in crops if one.shape[axis] > 1 and one.size]
        return float(np.mean(found)) if found else 0.0

    def varies(self, axis: int) -> bool:
        """Whether the extent of an axis, counted from the end, differs between samples."""
        return len({one.shape[axis] for one in self.samples if one.ndim >= -axis}) > 1

    def in_stretches(self, axis: int) -> bool:
        """Whether a vector's values, along an axis counted from the end, belong to the positions of each sample.

        Their number differs between samples, and adjacent ones are alike, as frames of speech are. The number of labels
        to choose from may differ too, but they are in no order; detections are in that of their scores.
        """
        rows = [np.asarray(one, np.float64).reshape(-1) for one in self.samples if one.size > 1]
        if not self.varies(axis) or all((np.diff(row) <= 0).all() for row in rows):
            return False
        near = sum(float(np.abs(np.diff(row)).mean()) for row in rows)
        return near < _ALIKE * sum(_mean_difference(row) for row in rows)


@dataclass
class SeenModel:
    """A model with its outputs for a few samples, and properties read from the graph.

    Attributes:
        outputs: the outputs in the model's order, without those that return an extended past (a key-value cache).
        inputs: one sample of each input, without the batch axis.
        ops: all operators of the graph and its subgraphs.
        states: names of the outputs that the next step reads as an input, as in a recurrent layer.
        carried: names of the inputs that such outputs replace; they are not images.
        pasts: names of the inputs that outputs return extended, such as a decoder's keys; they are not images.
        read: the classes that occur in the labels of CTC outputs; none of them is the blank.
        at_once: the fixed number of samples that the model takes at once, see ``rows_at_once``.
        known: by input, the lengths of the tables in which its values are looked up, see ``vocabularies``.
    """

    outputs: list[SeenOutput]
    inputs: dict[str, Array]
    ops: frozenset[str]
    states: frozenset[str] = frozenset()
    carried: frozenset[str] = frozenset()
    pasts: frozenset[str] = frozenset()
    read: frozenset[int] = frozenset()
    at_once: int = 1
    known: Mapping[str, frozenset[int]] = field(default_factory=dict)

    @property
    def reads_tokens(self) -> bool:
        """Whether an input may hold token numbers: integers, with at least one axis per sample."""
        return any(one.dtype.kind in "iu" and one.ndim >= 1 for one in self.inputs.values())

    def is_vocabulary(self, count: int) -> bool:
        """Whether an input has a vocabulary of ``count`` tokens that the model probably predicts.

        If another input with the same positions has a larger vocabulary, as words next to their parts of speech, the
        smaller one belongs to features, and as many scores are tags, unless an output has scores of the larger one, as
        in models that predict several streams. Inputs of consecutive position numbers have no vocabulary.
        """
        tokens = {name: rows for name, rows in self.known.items() if not _counts_up(self.inputs.get(name))}
        scored = {one.shape[-1] for one in self.outputs if one.samples and len(one.shape) > 1}
        more = {name for name, rows in tokens.items() if max(rows) > count and not rows & scored}
        own = [name for name, rows in tokens.items() if count in rows]
        # a single number, as of a decoder's next token, does not tell a position from a token
        shapes = {one.shape for name in more if (one := self.inputs.get(name)) is not None and one.size > 1}
        return any(name not in self.inputs or self.inputs[name].shape not in shapes for name in own)

    def labels_of(self, samples: Sequence[Array]) -> list[Array]:
        """Each sample's label without the batch axis, if labels have one.

        Args:
            samples: the label of each sample as stored in the data.
        """
        apart = any(one.batch_axis is not None for one in self.outputs if one.samples)
        whole = not apart and any(one.ndim and len(one) != 1 for one in samples)
        return [one if whole else one[0] for one in samples]

    @property
    def images(self) -> list[tuple[int, int]]:
        """Height and width of each input that is an image, [C, H, W] or [H, W, C] with at most 4 channels."""
        found = []
        for name, one in self.inputs.items():
            if name not in self.pasts | self.carried and one.ndim == 3 and one.dtype.kind not in "b":
                if one.shape[0] <= 4:
                    found.append((one.shape[1], one.shape[2]))
                elif one.shape[2] <= 4:
                    found.append((one.shape[0], one.shape[1]))
        return found


def _counts_up(value: Array | None) -> bool:
    """Whether an input mostly holds consecutive integers, as position numbers with padding do."""
    return value is not None and value.size > 1 and bool((np.diff(value.reshape(-1)) == 1).mean() >= _COUNTING)


def _mean_difference(values: Array) -> float:
    """The mean absolute difference of any two of at least two values (Gini's)."""
    count = len(values)
    ranks = 2 * np.arange(count) - count + 1
    return float(2 * (ranks * np.sort(values)).sum() / (count * (count - 1)))


def _contradicts(declared: Sequence[Any], shape: Sequence[int]) -> bool:
    return any(isinstance(known, int) and known != extent for known, extent in zip(declared, shape))


def _shares(value: Array, axis: int) -> bool:
    if not np.isfinite(value).all():
        return False
    if value.min() >= -_CLOSE and value.max() <= 1 + _CLOSE:
        return bool(np.allclose(value.sum(axis=axis), 1.0, atol=1e-2))
    return bool(value.max() <= _CLOSE and np.allclose(np.exp(value).sum(axis=axis), 1.0, atol=1e-2))


def quantized_settings(outputs: Sequence[SeenOutput]) -> dict[str, Any]:
    """The setting ``quantized`` of a part of these outputs: scale and zero point of each, None for one without."""
    found = [list(one.quantized) if one.quantized is not None else None for one in outputs]
    return {"quantized": found} if any(found) else {}
