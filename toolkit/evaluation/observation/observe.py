"""Run-time observation of a model: collect its outputs for a few samples and what the graph shows about them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.base.types import Array
from toolkit.evaluation.observation.chosen_columns import chosen_column
from toolkit.evaluation.observation.chosen_rows import chosen_rows
from toolkit.evaluation.observation.class_choices import chosen_by
from toolkit.evaluation.observation.fixed_rows import rows_at_once
from toolkit.evaluation.observation.image_correlation import grids, image_correlation
from toolkit.evaluation.observation.layer_channels import layer_channels
from toolkit.evaluation.observation.mask_search import position_masks
from toolkit.evaluation.observation.observed import SeenModel, SeenOutput
from toolkit.evaluation.observation.one_each import one_each
from toolkit.evaluation.observation.position_mask import at_positions, counting
from toolkit.evaluation.observation.repeated_input import repeated_input
from toolkit.evaluation.observation.rounded import quantized, rounded
from toolkit.evaluation.observation.squashed import squashed
from toolkit.evaluation.observation.vocabularies import vocabularies
from toolkit.evaluation.quantized_values import dequantized
from toolkit.graph.interface.pasts import continued_inputs, reached, renewed
from toolkit.graph.interface.states import shapes_to_join
from toolkit.graph.interface.used_inputs import varying_tensors
from toolkit.graph.model import Model
from toolkit.graph.sessions.session import Session, own_session
from toolkit.graph.shape_inference.dimensions import batch_axes
from toolkit.graph.surgery.assemble import bodies

_PASSING = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split"})
_SUMMING = frozenset(
    {"ReduceMean", "ReduceMax", "GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool", "Clip"}
)
_CHANCES = frozenset({"Sigmoid", "Softmax"})
"""Operators that return probabilities; means and maxima of these (``_SUMMING``) are probabilities too."""
_NEXT = frozenset({"n", "t", "out", "new", "next"})
"""Suffixes by which the name of an output shows that it is the next value of an input."""
_HeldBatch: TypeAlias = tuple[Array, int, list[Array]]
"""An output's values on a batch, how many samples the batch has, and the brightness grids of the image inputs."""


def observe(model: Model, batches: Iterable[tuple[Mapping[str, Array], Mapping[str, Array], int]]) -> SeenModel:
    """Collect what batches of samples and the graph show about a model.

    Args:
        model: the float model.
        batches: for each batch the inputs, the model's outputs for them, and the number of samples.
    """
    sources = reached(model, [tensor.name for tensor in model.graph.outputs])
    outputs = _outputs(model, sources)
    shapes = shapes_to_join(model)
    seen = _SeenBatches(model, shapes, {one.name: sources[one.name] for one in outputs})
    for given, made, count in batches:
        seen.add(given, made, count)
    joined = {shapes[name][axis] for name, axis in batch_axes(shapes).items()}
    chosen = chosen_rows(model)
    for one in outputs:
        _take_all(one, seen.held[one.name], joined, one.name in chosen)
        if one.batch_axis == 0:
            one.repeats = seen.repeated(one.name)
    seen.find_masks(outputs)
    ops = frozenset(node.op for node, _ in model.walk())
    handed = continued_inputs(model)
    answers = [one for one in outputs if one.name not in handed]
    if not answers:
        # the only outputs of a model cannot all be pasts
        answers, handed = outputs, {}
    carried, kept = (frozenset(pair[place] for pair in seen.states) for place in (0, 1))
    if len(shapes) < 2 or kept >= {one.name for one in answers}:
        # the only input, or all outputs, cannot be states
        carried = kept = frozenset()
    known = vocabularies(model)
    return SeenModel(
        answers, seen.inputs, ops, kept, carried, frozenset(handed.values()), at_once=max(seen.each, 1), known=known
    )


def _outputs(model: Model, sources: Mapping[str, Collection[str]]) -> list[SeenOutput]:
    """The outputs that depend on the inputs, or all if none does, with properties read from the graph.

    Args:
        sources: by output, the names of the tensors that it is computed from.
    """
    outputs, given = [], {tensor.name for tensor in model.graph.inputs}
    for tensor in model.graph.outputs:
        shape = None if tensor.shape is None else tuple(tensor.shape)
        feeds = frozenset(name for name, read in sources.items() if tensor.name in read) - {tensor.name}
        outputs.append(
            SeenOutput(
                tensor.name, shape, ops=_makers(tensor), feeds=feeds, chosen_by=chosen_by(model, tensor),
                column=chosen_column(model, tensor), one_each=one_each(tensor), squashed=squashed(model, tensor),
                rounded=rounded(model, tensor), quantized=quantized(model, tensor),
                channels=layer_channels(model, tensor), inputs=frozenset(given.intersection(sources[tensor.name])),
            )
        )  # fmt: skip
    # an output that is the same for every input has nothing to compare
    varying = varying_tensors(model)
    return [one for one in outputs if one.ops != {"Constant"} and one.name in varying] or outputs


class _SeenBatches:
    """Collects the values of a model's inputs and outputs over batches.

    Args:
        shapes: the shapes of its inputs.
        sources: by observed output, the names of the tensors that it is computed from.

    Attributes:
        inputs: each input's first sample.
        held: by output, its values on every batch.
        states: pairs of an input and an output that may be its next value, as far as the batches do not rule it out.
        each: how many samples one row of a batch stands for, see ``rows_at_once``; 0 if not known yet.
    """

    def __init__(
        self, model: Model, shapes: Mapping[str, Sequence[Any]], sources: Mapping[str, Collection[str]]
    ) -> None:
        self._model = model
        self._joins = bool(batch_axes(shapes))
        self.each = int(self._joins)
        self.inputs: dict[str, Array] = {}
        self.held: dict[str, list[_HeldBatch]] = {name: [] for name in sources}
        self.states = _possible_states(model, shapes, sources)
        self._given: list[Mapping[str, Array]] = []
        self._made: list[Mapping[str, Array]] = []

    def add(self, given: Mapping[str, Array], made: Mapping[str, Array], count: int) -> None:
        """Add a batch: its inputs, outputs, and number of samples."""
        self.each = self.each or rows_at_once(self._model, given)
        self._given.append(given)
        self._made.append(made)
        # in a model without a batch axis, the first axis may be one of positions or channels
        apart = self._joins or self.each > 1
        firsts = {n: one[0] if one.ndim and len(one) and (apart or len(one) == 1) else one for n, one in given.items()}
        images = grids(firsts)
        self.inputs = self.inputs or firsts
        self.states = {(a, b) for a, b in self.states if b in made and _same_kind(given[a], made[b])}
        for name in self.held.keys() & made.keys():
            # an output is missing if onnxruntime cannot run its node
            self.held[name].append((made[name], count * self.each, images))

    def repeated(self, output: str) -> float:
        """How closely an output follows an input, see ``repeated_input``."""
        both = [(given, made[output]) for given, made in zip(self._given, self._made) if output in made]
        return repeated_input([given for given, _ in both], [made for _, made in both]) if both else 0.0

    def find_masks(self, outputs: Sequence[SeenOutput]) -> None:
        """Find the input that masks positions of each output, and set its ``mask`` and ``counted``.

        The outputs' samples must have been set before.
        """
        if not self._given:
            return
        joined = [one.name for one in outputs if one.batch_axis == 0 and one.samples]
        # loaded once and only if needed; the session cache does not keep large models
        loaded: list[Session] = []

        def run(one: dict[str, Array]) -> Mapping[str, Array]:
            if not loaded:
                loaded.append(own_session(self._model))
            return loaded[0].run(one)

        found = position_masks(run, self._given, self._made, joined)
        for one in outputs:
            if (mask := found.get(one.name)) is None:
                continue
            one.mask, settings = mask, mask.settings
            for given, made in zip(self._given, self._made):
                on = counting(settings, made[one.name], given)
                rows = range(len(made[one.name]))
                one.counted += [
                    made[one.name][row]
                    if on is None
                    else at_positions(made[one.name], np.array([row]), on, mask.axis)[0]
                    for row in rows
                ]


def _possible_states(
    model: Model, inputs: Collection[str], sources: Mapping[str, Collection[str]]
) -> set[tuple[str, str]]:
    """Pairs of an input and an output that may be its next value, by the graph's operators or by their names.

    Args:
        inputs: the names of its inputs.
        sources: by output, the names of the tensors that it is computed from.
    """
    called = [(a, b) for a in inputs for b in sources if _called_renewed(a, b)]
    return renewed(model) | {(a, b) for a, b in called if a in sources[b]}


def _called_renewed(given: str, made: str) -> bool:
    """Whether an output has an input's name plus a suffix: ``hidden_out``, ``stateN``, ``hn`` for ``h0``."""
    stem = given.rstrip("0123456789_.-").removesuffix("_in")
    rest = made.removeprefix(stem)
    # a common first letter does not suffice: ``classes`` is not the next value of ``c0``
    return bool(stem) and made not in (given, rest) and (rest in _NEXT or not rest[:1].islower())


def _same_kind(given: Array, made: Array) -> bool:
    return given.shape == made.shape and given.ndim > 1 and given.dtype.kind == made.dtype.kind == "f"


def _take(output: SeenOutput, value: Array) -> None:
    scale = output.quantized
    kept = scale is not None or value.dtype.kind in "iub"
    plain = dequantized(value, scale) if kept else np.asarray(value, np.float32)
    if output.batch_axis is None:
        output.samples.append(plain)
    else:
        output.samples.extend(np.moveaxis(plain, output.batch_axis, 0))


def _take_all(
    output: SeenOutput, batches: Sequence[_HeldBatch], joined: AbstractSet[Any], chosen: bool = False
) -> None:
    """Set an output's samples from all batches; each batch's first sample is correlated with the image inputs.

    Args:
        output: the output to set.
        batches: its values on all batches.
        joined: the names of the inputs' batch dimensions.
        chosen: whether the number of rows depends on values. Such rows are no samples, even if each sample had one,
            unless the declared shape says so.
    """
    if batches:
        output.batch_axis = _batch_axis(output.declared, [(v.shape, count) for v, count, _ in batches], joined)
    first = output.declared[0] if output.declared else None
    if chosen and output.batch_axis == 0 and not isinstance(first, int) and first not in joined - {None}:
        output.batch_axis = None
    for value, _, images in batches:
        first = len(output.samples)
        _take(output, value)
        output.likenesses += [image_correlation(images, sample) for sample in output.samples[first : first + 1]]


def _batch_axis(
    declared: Sequence[Any] | None, seen: Sequence[tuple[tuple[int, ...], int]], joined: Collection[Any]
) -> int | None:
    """The batch axis: 0 or 1, whichever has the extent of every batch; None if neither has.

    If both have it, the one named like the inputs' batch dimension is taken, else a dynamic one, else axis 0.
    """
    fitting = [axis for axis in (0, 1) if all(len(shape) > axis and shape[axis] == count for shape, count in seen)]
    if len(fitting) < 2 or declared is None or len(declared) != len(seen[0][0]):
        return next(iter(fitting), None)
    named = [axis for axis in fitting if isinstance(declared[axis], str) and declared[axis] in joined]
    open_ones = [axis for axis in fitting if not isinstance(declared[axis], int)]
    return (named or open_ones or fitting)[0]


def _makers(output: gs.Tensor) -> frozenset[str]:
    """The operators that compute an output's values, through those that only move or join them."""
    found: set[str] = set()
    waiting, looked = [output], set[int]()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in looked or not tensor.inputs:
            continue
        looked.add(id(tensor))
        node = tensor.inputs[0]
        if node.op in _PASSING and node.inputs:
            waiting.append(node.inputs[0])
        elif node.op == "Concat":
            waiting += node.inputs
        elif node.op == "If":
            # torch exports squeeze() as an If with a Squeeze in one branch and nothing in the other
            place = next(place for place, one in enumerate(node.outputs) if one is tensor)
            waiting += [branch.outputs[place] for branch in bodies(node)]
        elif node.op in _SUMMING and node.inputs and (chances := _makers(node.inputs[0])) and chances <= _CHANCES:
            found |= chances
        else:
            found.add(node.op)
    return frozenset(found)
