"""What is seen of a model's outputs on a few samples, and of the graph that makes them: clues to its task."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.chosen_columns import chosen_column
from toolkit.evaluation.class_choices import chosen_by
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.fixed_rows import rows_at_once
from toolkit.evaluation.likeness import grids, likeness
from toolkit.evaluation.masks import valued
from toolkit.evaluation.one_each import one_each
from toolkit.graph.assemble import bodies
from toolkit.graph.dimensions import batch_axes
from toolkit.graph.model import Model
from toolkit.graph.pasts import handed_on, reached, renewed
from toolkit.graph.states import shapes_to_join
from toolkit.graph.used_inputs import varying_tensors

_PASSING = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split"})
_SUMMING = frozenset(
    {"ReduceMean", "ReduceMax", "GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool", "Clip"}
)
_CHANCES = frozenset({"Sigmoid", "Softmax"})
"""Operators for which the result of chances is chances too: means and maxima."""
_CLOSE, _SOME = 1e-3, 8
_FIRST, _CROP = 4, 64
"""Samples, and values along each of their axes, that show how far neighbours lie apart."""
_LIKE = 0.9
FAINT = 0.01
"""A smaller probability is no sign of anything: a detector's scores of nothing have the size of rounding errors."""
_SAME = 0.99
_BANDS, _TOGETHER, _APART = 16, 0.6, 0.3
"""The fewest bands of a spectrum; how much neighbours correlate at least, and by how much less those far apart do. In
log-mel spectra of sounds neighbours correlate by 0.8 to 0.97, those far apart not, in CTC's logits no two do."""
_NEXT = frozenset({"n", "t", "out", "new", "next"})
_LOST = re.compile(r"unk_|.*_dim_\d+$|\?|None|-")
"""What exporters call an extent that they lost: it may be fixed."""
_HeldBatch: TypeAlias = tuple[Array, int, list[Array]]
"""An output on a batch, how many samples that joins, and the brightness of the images among the inputs."""
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

    def sums_to_one(self, axis: int) -> bool:
        """Whether values along an axis of a sample are shares, or the logarithms of shares."""
        if self.discrete or not self.samples or self.shape[axis] < 2:
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
        if extent < _BANDS or len(rows) < _SOME:
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
    """

    outputs: list[SeenOutput]
    inputs: dict[str, Array]
    ops: frozenset[str]
    states: frozenset[str] = frozenset()
    pasts: frozenset[str] = frozenset()
    read: frozenset[int] = frozenset()

    @property
    def reads_tokens(self) -> bool:
        """Whether an input holds numbers of tokens: integers along an axis."""
        return any(one.dtype.kind in "iu" and one.ndim >= 1 for one in self.inputs.values())

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


def observe(model: Model, batches: Iterable[tuple[Mapping[str, Array], Mapping[str, Array], int]]) -> SeenModel:
    """Gather what is seen of a model.

    Args:
        model: the float model.
        batches: inputs, the model's outputs for them, and how many samples they join.
    """
    outputs = [
        SeenOutput(t.name, None if t.shape is None else tuple(t.shape), ops=_makers(t), column=chosen_column(model, t))
        for t in model.graph.outputs
    ]
    sources = reached(model, [one.name for one in outputs])
    for one, tensor in zip(outputs, model.graph.outputs):
        one.chosen_by, one.one_each = chosen_by(model, tensor), one_each(tensor)
        one.feeds = frozenset(name for name, read in sources.items() if one.name in read) - {one.name}
    # an output that is the same for every input holds no answer
    varying = varying_tensors(model)
    answering = [one for one in outputs if one.ops != {"Constant"} and one.name in varying]
    outputs = answering or outputs
    inputs: dict[str, Array] = {}
    shapes = shapes_to_join(model)
    axes = batch_axes(shapes)
    each = 1 if axes else 0
    held: dict[str, list[_HeldBatch]] = {one.name: [] for one in outputs}
    states = _possible_states(model, shapes, {one: sources[one] for one in held})
    for given, made, count in batches:
        each = each or rows_at_once(model, given)
        firsts = {name: value[0] if value.ndim and len(value) else value for name, value in given.items()}
        inputs, images = inputs or firsts, grids(firsts)
        states = {(a, b) for a, b in states if b in made and _same_kind(given[a], made[b])}
        for name in held.keys() & made.keys():
            # a missing output comes from a node that onnxruntime cannot run
            held[name].append((made[name], count * each, images))
    joined = {shapes[name][axis] for name, axis in axes.items()}
    for one in outputs:
        _take_all(one, held[one.name], joined)
    ops = frozenset(node.op for node, _ in model.walk())
    handed = handed_on(model)
    answers = [one for one in outputs if one.name not in handed]
    if not answers:
        # a model's only output is no past
        answers, handed = outputs, {}
    kept = frozenset(output for _, output in states)
    if len(shapes) < 2 or kept >= {one.name for one in answers}:
        # a model's only input or output is no state
        kept = frozenset()
    return SeenModel(answers, inputs, ops, states=kept, pasts=frozenset(handed.values()))


def _possible_states(
    model: Model, inputs: Collection[str], sources: Mapping[str, Collection[str]]
) -> set[tuple[str, str]]:
    """Inputs with the outputs that may renew them: by the graph's operators, or by their names.

    Args:
        model: the model.
        inputs: the names of its inputs.
        sources: by output the tensors that it is computed from.
    """
    called = [(a, b) for a in inputs for b in sources if _called_renewed(a, b)]
    return renewed(model) | {(a, b) for a, b in called if a in sources[b]}


def _called_renewed(given: str, made: str) -> bool:
    """Whether an output has an input's name with something added: ``hidden_out``, ``stateN``, ``hn`` for ``h0``."""
    stem = given.rstrip("0123456789_.-").removesuffix("_in")
    rest = made.removeprefix(stem)
    # a word that merely begins alike is a different one: ``classes`` is no state of ``c0``
    return bool(stem) and made not in (given, rest) and (rest in _NEXT or not rest[:1].islower())


def _same_kind(given: Array, made: Array) -> bool:
    return given.shape == made.shape and given.ndim > 1 and given.dtype.kind == made.dtype.kind == "f"


def _take(output: SeenOutput, value: Array) -> None:
    plain = value if value.dtype.kind in "iub" else np.asarray(value, np.float32)
    if output.batch_axis is None:
        output.samples.append(plain)
    else:
        output.samples.extend(np.moveaxis(plain, output.batch_axis, 0))


def _take_all(output: SeenOutput, batches: Sequence[_HeldBatch], joined: Collection[Any]) -> None:
    """Take in an output's values on all batches; the first sample of each is compared with the images among inputs."""
    if batches:
        output.batch_axis = _batch_axis(output.declared, [(v.shape, count) for v, count, _ in batches], joined)
    for value, _, images in batches:
        first = len(output.samples)
        _take(output, value)
        output.likenesses += [likeness(images, sample) for sample in output.samples[first : first + 1]]


def _batch_axis(
    declared: Sequence[Any] | None, seen: Sequence[tuple[tuple[int, ...], int]], joined: Collection[Any]
) -> int | None:
    """The axis of samples among the first two: the one that is as long as every batch; None where neither is.

    Where both are, it is the one named like the inputs' batch, else a dynamic one.
    """
    fitting = [axis for axis in (0, 1) if all(len(shape) > axis and shape[axis] == count for shape, count in seen)]
    if len(fitting) < 2 or declared is None or len(declared) != len(seen[0][0]):
        return next(iter(fitting), None)
    named = [axis for axis in fitting if isinstance(declared[axis], str) and declared[axis] in joined]
    open_ones = [axis for axis in fitting if not isinstance(declared[axis], int)]
    return (named or open_ones or fitting)[0]


def _contradicts(declared: Sequence[Any], shape: Sequence[int]) -> bool:
    return any(isinstance(known, int) and known != extent for known, extent in zip(declared, shape))


def _makers(output: gs.Tensor) -> frozenset[str]:
    found: set[str] = set()
    waiting, steps = [output], 0
    while waiting and steps < 100:
        steps += 1
        tensor = waiting.pop()
        if not tensor.inputs:
            continue
        node = tensor.inputs[0]
        if node.op in _PASSING and node.inputs:
            waiting.append(node.inputs[0])
        elif node.op == "Concat":
            waiting += node.inputs
        elif node.op == "If":
            # as torch writes squeeze(): a Squeeze in one branch, nothing in the other
            place = next(place for place, one in enumerate(node.outputs) if one is tensor)
            waiting += [branch.outputs[place] for branch in bodies(node)]
        elif node.op in _SUMMING and node.inputs and (chances := _makers(node.inputs[0])) and chances <= _CHANCES:
            found |= chances
        else:
            found.add(node.op)
    return frozenset(found)


def _shares(value: Array, axis: int) -> bool:
    if not np.isfinite(value).all():
        return False
    if value.min() >= -_CLOSE and value.max() <= 1 + _CLOSE:
        return bool(np.allclose(value.sum(axis=axis), 1.0, atol=1e-2))
    return bool(value.max() <= _CLOSE and np.allclose(np.exp(value).sum(axis=axis), 1.0, atol=1e-2))
