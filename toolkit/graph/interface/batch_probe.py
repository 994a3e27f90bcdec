"""Test whether a model computes the samples of a batch independently, and which node prevents it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from toolkit.base.errors import ModelError, QtoolError
from toolkit.base.profiles import fixed_profile
from toolkit.base.types import Array
from toolkit.graph.interface.batch_values import float_sources, join, one_row_each, same_integers, side_by_side
from toolkit.graph.layers.constants import is_random
from toolkit.graph.model import Model
from toolkit.graph.proto.light import LightModel
from toolkit.graph.proto.nodes import keep_first_nodes, reads_of
from toolkit.graph.proto.strangers import operator_of
from toolkit.graph.sessions.endless_loops import EndlessLoopError
from toolkit.graph.sessions.runnable import cut, not_run_in
from toolkit.graph.sessions.session import Session, own_session, session
from toolkit.graph.shape_inference.facts import Facts
from toolkit.graph.surgery.tensors import FLOAT_TYPES

_AT_ONCE = 32
"""How many intermediate tensors are in memory at once."""


@dataclass(frozen=True)
class BatchFault:
    """The node that keeps a model from computing several samples at once.

    Attributes:
        node: its name; empty if it was not found.
        op: its operator.
        samples: number of samples in the batch.
        runs: whether the batch can be computed; its results then differ from those of the single samples.
    """

    node: str
    op: str
    samples: int
    runs: bool

    @property
    def words(self) -> str:
        """The node as it is named in messages."""
        return f"node '{self.node}' ({self.op})" if self.node else "a node"


def batch_fault(
    model: Model, axes: Mapping[str, int], samples: Sequence[Mapping[str, Array]], loaded: Session | None = None
) -> BatchFault | None:
    """Run samples one by one and as one batch; returns the responsible node if the results differ, else None.

    A batch is correct if some output has the values of all samples, in any order, and no output with one row per sample
    has other values. Outputs of other shapes are then not a fault: the mean over a batch, scores of samples against
    each other, or detections with a sample index. Downstream of plugins, which cannot be run, only shapes are compared.
    In a model with Q/DQ pairs, differences in the last bits may become whole quantization steps in the next layer, so
    it is compared once more without its pairs.

    Args:
        model: the model; only the part that onnxruntime can run is tested.
        axes: the axis along which samples are joined, by input; for other inputs the first sample's value is used for
            all samples.
        samples: inputs of at least two samples of equal shapes, each with one row along its axes.
        loaded: the model's session, if there is one.

    Raises:
        ModelError: the model does not run even on one sample.
        BackendError: there is not enough memory.
    """
    loaded = loaded or session(model)
    apart = [loaded.run(sample) for sample in samples]
    joined = join(samples, axes)
    try:
        together = loaded.run(joined)
    except EndlessLoopError as error:
        return BatchFault(error.node, "Loop", len(samples), False)
    except ModelError:
        return replace(_BlameSearch(model, samples, joined).failing(), samples=len(samples))
    if any(is_random(node) for node, _ in model.walk()):
        return None
    if wrong := _mixed(apart, together):
        search = _BlameSearch(model, samples, joined)
        if wrong := _mixed(*search.unrounded()) if search.rounds else wrong:
            return replace(search.mixing(wrong), samples=len(samples))
    elif _of_integers(together) and (wrong := (search := _BlameSearch(model, samples, joined)).mixed_sources(together)):
        return replace(search.mixing(wrong), samples=len(samples))
    return fault_by_shapes(model, axes, samples[0], len(samples)) if loaded.left else None


def rows_are_independent(model: Model, axes: Mapping[str, int], samples: Sequence[Mapping[str, Array]]) -> bool:
    """Whether every output of a batch consists of its samples' own outputs, so that running them apart is equivalent.

    This is stricter than ``batch_fault``, for which a mean over the batch is not a fault. False if it is unknown
    because the model does not run or draws random numbers. The result is cached for a settled model.

    Args:
        axes: see ``batch_fault``.
        samples: see ``batch_fault``; rows that differ.
    """
    return model.once("rows apart", partial(_rows_are_independent, model, axes, samples))


def _rows_are_independent(model: Model, axes: Mapping[str, int], samples: Sequence[Mapping[str, Array]]) -> bool:
    if any(is_random(node) for node, _ in model.walk()):
        return False
    joined = join(samples, axes)
    try:
        loaded = own_session(model)
        together = loaded.run(joined)
        if _all_apart([loaded.run(sample) for sample in samples], together):
            if _of_integers(together) and _BlameSearch(model, samples, joined).mixed_sources(together):
                return False
            return not loaded.left or fault_by_shapes(model, axes, samples[0], len(samples)) is None
        search = _BlameSearch(model, samples, joined)
        return search.rounds and _all_apart(*search.unrounded())
    except QtoolError:
        return False


def _all_apart(apart: Sequence[Mapping[str, Array]], together: Mapping[str, Array]) -> bool:
    """Whether all outputs of a batch have the values of its samples, and at least one grows with the batch."""
    found = {name: [one[name] for one in apart] for name in together}
    grown = any(value.size > found[name][0].size for name, value in together.items())
    return grown and all(side_by_side(found[name], value) for name, value in together.items())


def _of_integers(outputs: Mapping[str, Array]) -> bool:
    """Whether no output is a float; integer outputs say less about whether values were mixed."""
    return all(value.dtype.kind not in "fV" for value in outputs.values())


def _mixed(apart: Sequence[Mapping[str, Array]], together: Mapping[str, Array]) -> list[str]:
    """The outputs of a batch that show that its samples were not computed independently."""
    wrong, mixed, right = [], [], False
    for name, value in together.items():
        values = [one[name] for one in apart]
        if side_by_side(values, value):
            # an output that is the same for every sample is no evidence
            right = right or value.size != values[0].size
            continue
        wrong.append(name)
        if one_row_each(values, value):
            mixed.append(name)
    return mixed or ([] if right else wrong)


def node_that_fails(model: Model, inputs: Mapping[str, Array]) -> BatchFault:
    """The first node that cannot compute these inputs; the fault has no name if none was found."""
    return _BlameSearch(model, [inputs], inputs).failing(alone=True)


def fault_by_shapes(
    model: Model, axes: Mapping[str, int], sample: Mapping[str, Array], samples: int
) -> BatchFault | None:
    """The first Reshape, Concat or Expand with a constant that does not fit a batch, found by shape inference alone."""
    shapes = {
        name: tuple(samples if axis == axes.get(name) else size for axis, size in enumerate(value.shape))
        for name, value in sample.items()
    }
    facts = model.facts(fixed_profile(shapes))
    for node in model.nodes:
        known = [_shape(model, facts, tensor) for tensor in node.inputs]
        target = model.constant(node.inputs[1]) if node.op in ("Reshape", "Expand") and len(node.inputs) > 1 else None
        if _misfit(node.op, known, target.reshape(-1).tolist() if target is not None else None, node.attrs):
            return BatchFault(node.name, node.op, samples, False)
    return None


def _shape(model: Model, facts: Facts, tensor: gs.Tensor) -> tuple[int, ...] | None:
    values = model.constant(tensor)
    if values is not None:
        return tuple(values.shape)
    corners = set(facts.shapes.get(tensor.name, ()))
    shape = corners.pop() if len(corners) == 1 else None
    return shape if shape is not None and -1 not in shape else None


def _misfit(
    op: str, shapes: Sequence[tuple[int, ...] | None], target: Sequence[int] | None, attrs: Mapping[str, Any]
) -> bool:
    """Whether a node cannot be computed from inputs of these shapes, as far as they are known.

    Args:
        op: the node's operator.
        shapes: shapes of its inputs; None for unknown ones.
        target: the constant shape of a Reshape or Expand; None for other operators.
        attrs: the node's attributes.
    """
    first = shapes[0] if shapes else None
    if first is None:
        return False
    if op == "Reshape" and target is not None and not attrs.get("allowzero"):
        return not _reshapes(first, target)
    if op == "Expand" and target is not None:
        return any(a != b and 1 not in (a, b) for a, b in zip(reversed(first), reversed(target)))
    if op == "Concat" and None not in shapes:
        axis = int(attrs.get("axis", 0)) % max(len(first), 1)
        beside = {tuple(size for i, size in enumerate(shape or ()) if i != axis) for shape in shapes}
        return len(beside) > 1
    return False


def _reshapes(shape: Sequence[int], target: Sequence[int]) -> bool:
    """Whether a Reshape to ``target`` has the same number of values; 0 copies a dimension, -1 takes the remainder."""
    if any(entry == 0 and i >= len(shape) for i, entry in enumerate(target)):
        # the node is invalid for any batch size
        return True
    sizes = [shape[i] if entry == 0 else entry for i, entry in enumerate(target)]
    size, known = math.prod(shape), math.prod(entry for entry in sizes if entry != -1)
    return known <= 0 or (size % known == 0 if -1 in sizes else size == known)


class _BlameSearch:
    """Finds the responsible node, in the part of a model that runs, without Q/DQ pairs.

    Attributes:
        rounds: whether the model has Q/DQ pairs.
    """

    def __init__(self, model: Model, samples: Sequence[Mapping[str, Array]], joined: Mapping[str, Array]) -> None:
        twin = model.copy()
        twin.tidy()
        self.model, self.samples, self.joined = twin, samples, joined
        self.prepared = twin.to_light()
        left = not_run_in(self.prepared.proto)
        if left:
            cut(self.prepared.proto, left)
        self.rounds = _pass_by_pairs(self.prepared.proto)
        self.nodes = list(self.prepared.proto.graph.node)
        self.by_name: dict[str, gs.Node] = {node.name: node for node in twin.nodes}

    def unrounded(self) -> tuple[list[dict[str, Array]], dict[str, Array]]:
        """The outputs of each sample on its own, and of the batch, without Q/DQ pairs."""
        loaded = self._loaded(self.prepared.proto, None)
        return [loaded.run(sample) for sample in self.samples], loaded.run(self.joined)

    def mixed_sources(self, outputs: Collection[str]) -> list[str]:
        """Tensors upstream of integer outputs that show that the samples were not computed independently.

        These are the float tensors that determine the outputs; integer outputs that depend on none are compared
        themselves.
        """
        sources = float_sources(self.nodes, outputs, self.model.facts().types, {*FLOAT_TYPES, TensorProto.DOUBLE})
        names = sorted({name for floats in sources.values() for name in floats} | set(sources))
        # only tensors that grow with the batch can be compared
        agrees = {
            name: side_by_side(apart, together) if together.dtype.kind in "fV" else same_integers(apart, together)
            for name, apart, together in self._values(names, len(self.nodes) - 1)
            if together.size == sum(value.size for value in apart)
        }
        wrong = list[str]()
        for output, floats in sources.items():
            compared = [name for name in floats if name in agrees] or [output]
            wrong += [name for name in compared if not agrees.get(name, True)]
        return wrong

    def failing(self, alone: bool = False) -> BatchFault:
        """The responsible node for a batch that cannot be computed; ``alone``: without samples to compare."""
        low, high = 0, len(self.nodes)
        # bisection for the first node that fails: all nodes before it run
        while low < high:
            middle = (low + high) // 2
            if self._runs(middle + 1):
                low = middle + 1
            else:
                high = middle
        if low == len(self.nodes):
            return BatchFault("", "", 0, False)
        failed = self.nodes[low]
        if alone or operator_of(failed) == "Reshape":
            return _fault(failed, False)
        made = {name for one in self.nodes[:low] for name in one.output}
        # what a node reads as the samples have it did not make it fail, whatever was mixed on the way
        mixed = list(self._unlike(sorted(reads_of(failed) & made), low - 1))
        before = self._before(reads_of(failed))
        return _fault(self._mixer(self._before(mixed)) or self._swallower(before) or failed, False)

    def mixing(self, outputs: Sequence[str]) -> BatchFault:
        """The responsible node for outputs of a batch that differ from those of its samples."""
        makers = {name: index for index, node in enumerate(self.nodes) for name in node.output}
        last = max((makers[name] for name in outputs if name in makers), default=-1)
        before = [*self._before(reads_of(self.nodes[last])), last] if last >= 0 else []
        found = self._mixer(before)
        if found is None:
            return BatchFault("", "", 0, True)
        return _fault(self._swallower(self._before(reads_of(found))) or found, True)

    def _before(self, tensors: Collection[str]) -> list[int]:
        """The nodes that tensors depend on, in graph order."""
        makers = {name: i for i, node in enumerate(self.nodes) for name in node.output}
        found: set[int] = set()
        pending = list(tensors)
        while pending:
            maker = makers.get(pending.pop())
            if maker is not None and maker not in found:
                found.add(maker)
                pending += reads_of(self.nodes[maker])
        return sorted(found)

    def _runs(self, count: int) -> bool:
        """Whether the first ``count`` nodes can compute the batch."""
        proto = deepcopy(self.prepared.proto)
        keep_first_nodes(proto.graph, count)
        try:
            self._loaded(proto, None).run(self.joined)
        except ModelError:
            return False
        return True

    def _loaded(self, proto: onnx.ModelProto, outputs: Sequence[str] | None) -> Session:
        copy = deepcopy(proto)
        source = LightModel(copy, dict(self.prepared.weights), self.prepared.where)
        return session(source, outputs, optimise=False)

    def _values(self, names: Sequence[str], last: int) -> Iterator[tuple[str, list[Array], Array]]:
        """Outputs of the nodes up to ``last``, of each sample on its own and of the batch."""
        proto = deepcopy(self.prepared.proto)
        del proto.graph.node[last + 1 :]
        del proto.graph.output[:]
        for start in range(0, len(names), _AT_ONCE):
            part = names[start : start + _AT_ONCE]
            loaded = self._loaded(proto, part)
            apart, together = [loaded.run(sample) for sample in self.samples], loaded.run(self.joined)
            yield from ((name, [one[name] for one in apart], together[name]) for name in part)

    def _unlike(self, names: Sequence[str], last: int) -> Iterator[str]:
        """Outputs of the nodes up to ``last`` that for the batch differ from those for the samples."""
        return (name for name, apart, together in self._values(names, last) if not side_by_side(apart, together))

    def _mixer(self, before: Sequence[int]) -> onnx.NodeProto | None:
        """The first of these nodes whose output for the batch differs from its outputs for the samples."""
        makers = {name: i for i in before for name in self.nodes[i].output if name}
        unlike = next(self._unlike(list(makers), before[-1] if before else -1), None)
        return None if unlike is None else self.nodes[makers[unlike]]

    def _swallower(self, before: Sequence[int]) -> onnx.NodeProto | None:
        """The last of these nodes that reshapes to a constant shape so that the batch is moved to another axis."""
        reshapes = [i for i in before if operator_of(self.nodes[i]) == "Reshape"]
        made = {name for i in before for name in self.nodes[i].output}
        wanted = {name for i in reshapes for name in (self.nodes[i].input[0], self.nodes[i].output[0])}
        shapes = {
            name: (apart[0].shape, together.shape)
            for name, apart, together in self._values(sorted(wanted & made), before[-1] if before else -1)
        }
        shapes.update({name: (value.shape, self.joined[name].shape) for name, value in self.samples[0].items()})
        for i in reversed(reshapes):
            node = self.nodes[i]
            target = self.model.constant(self.by_name[node.name].inputs[1])
            source, result = shapes.get(node.input[0]), shapes.get(node.output[0])
            if target is not None and source and result and _swallows(target.tolist(), source, result):
                return node
        return None


def _pass_by_pairs(proto: onnx.ModelProto) -> bool:
    """Bypass, in place, the pairs of QuantizeLinear and DequantizeLinear; returns whether there were any."""
    quantized = {node.output[0]: node.input[0] for node in proto.graph.node if operator_of(node) == "QuantizeLinear"}
    pairs = [
        node for node in proto.graph.node if operator_of(node) == "DequantizeLinear" and node.input[0] in quantized
    ]
    for node in pairs:
        source = quantized[node.input[0]]
        # pairs may be in another domain, which has no Identity
        node.op_type, node.domain, node.input[:] = "Identity", "", [source]
        del node.attribute[:]
    return bool(pairs)


def _swallows(wanted: Sequence[int], before: Any, after: Any) -> bool:
    """Whether a Reshape's constant fixes the axis that grows with the batch, or merges it into the features."""
    alone, batch = before
    grown, joined = ([axis for axis, (a, b) in enumerate(zip(*pair)) if a != b] for pair in (before, after))
    if len(grown) != 1 or len(alone) != len(batch):
        return False
    if joined == [len(after[0]) - 1] and grown[0] < len(alone) - 1:
        return True
    head, size = math.prod(alone[: grown[0]]), alone[grown[0]]
    return any(
        entry > 0 and entry == size and after[0][axis] == after[1][axis] and math.prod(after[0][:axis]) == head
        for axis, entry in enumerate(wanted)
    )


def _fault(node: onnx.NodeProto, runs: bool) -> BatchFault:
    return BatchFault(node.name, node.op_type, 0, runs)
