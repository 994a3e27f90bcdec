"""A model's graph as protobuf with the pairs of its groups, from which the simulation's pieces are built."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from copy import deepcopy
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper, numpy_helper

from toolkit.base.block_operators import domain_of
from toolkit.base.mapped import looked_at
from toolkit.base.types import Array
from toolkit.graph.large_models.partitions import shared_weights
from toolkit.graph.layers.bias import correction
from toolkit.graph.layers.input_mean import input_mean
from toolkit.graph.model import Model
from toolkit.graph.proto.light import LightModel
from toolkit.graph.proto.nodes import reads_of
from toolkit.graph.proto.on_disk import SPILL_BYTES, spilled
from toolkit.graph.proto.strangers import operator_of
from toolkit.graph.sessions.runnable import cut, not_run_in
from toolkit.graph.shape_inference.facts import Facts
from toolkit.placement.ops import ADDS
from toolkit.simulation.rounder import Rounder
from toolkit.simulation.switches import Switches

_ROUNDED_BYTES = 32 << 20
"""The most bytes of rounded weights to keep for later pieces: a search needs those of a small model about a hundred
times.
"""
_OF_THIS_PROCESS = frozenset({"_quantized", "_rounded", "_kept", "_keeping"})


class PairedGraph:
    """The nodes, constants and tensors of a model, and the inputs of nodes that have a pair.

    Args:
        switches: the model, its groups and their pairs.
        facts: element types and shapes, as far as known.
        rounder: rounds the weights.

    Attributes:
        nodes: all nodes in graph order, except Constants.
        constants: initializers and the values of Constants, by name.
        weights: values of large constants by name, which ``constants`` holds without values; all pieces use the same
            arrays.
        shares: whether the weights are too large for copies, also in branches.
        names: the groups' layers.
        readers: by tensor, the nodes that read it.
        uses: by node outside the groups, the indices of its inputs with pairs.
        pair_of: by node and input index, the pair there.
        base: the state with every group quantized.
        padded: by tensor, the Pad that produces it with zeros, so that quantizing before the Pad is equivalent.
        biases: corrected biases of quantized layers, by the node and input index that hold them.
    """

    def __init__(self, switches: Switches, facts: Facts, rounder: Rounder) -> None:
        self.facts, self.rounder = facts, rounder
        self._scales: dict[tuple[str, int | None], Array] = {}
        self.precision = switches.precision
        model = switches.model
        model.tidy()
        self._shapes = _shapes_at_any_size(model)
        light = model.to_light()
        self.shares = shared_weights(light)
        self.weights, self.proto = light.weights, light.proto
        self._forget_quantized()
        left = not_run_in(self.proto)
        if left:
            cut(self.proto, left)
        graph = self.proto.graph
        self.outputs = {value.name for value in graph.output}
        self.nodes, self.constants = _nodes_and_constants(graph, self.outputs)
        self.inputs = [value for value in graph.input if value.name not in self.constants]
        self.declared = {value.name: value for value in (*graph.output, *graph.value_info)}
        self.names = set(switches.names)
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in reads_of(node):
                self.readers.setdefault(name, []).append(node)
        self.uses = self._other_uses(switches)
        self.pair_of = {(use.node, use.index): pair for pair in switches.full.pairs.values() for use in pair.uses}
        self.base = switches.config(())
        # padding with zeros would shift the blocks
        pads = [node for node in self.nodes if operator_of(node) == "Pad" and not self.precision.block]
        self.padded = {node.output[0]: node for node in pads if self._with_zeros(node)}
        self.biases = dict(self._corrected(switches))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _OF_THIS_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget_quantized()

    def _forget_quantized(self) -> None:
        # other pieces of a stage need the same weights: reuse those of loaded pieces, and large ones, mostly on disk
        self._quantized: WeakValueDictionary[str, Array] = WeakValueDictionary()
        self._rounded: dict[tuple[str, int | None], Array] = {}
        self._kept: list[Array] = []
        self._keeping = Lock()

    def _other_uses(self, switches: Switches) -> dict[str, list[int]]:
        """Inputs with pairs outside the groups; both of an Add, since either may have the pair."""
        found = switches.uses
        for name in found:
            node = switches.nodes[name]
            if node.op in ADDS:
                found[name] = [i for i, t in enumerate(node.inputs) if t.name not in self.constants]
        return found

    def _corrected(self, switches: Switches) -> Iterator[tuple[tuple[str, int], onnx.TensorProto]]:
        """The biases that compensate for the rounding of weights, as the pass that quantizes writes them."""
        for name in switches.names:
            node, pair = switches.nodes[name], self.pair_of.get((name, 1))
            if pair is None or not pair.weight or input_mean(switches.model, node) is None:
                continue
            found = correction(switches.model, node, self._fake_quantized(pair.tensor, pair.axis))
            if found is not None:
                place, values = found
                yield (place.holder.name, place.index), numpy_helper.from_array(place.plus(switches.model, values))

    def _with_zeros(self, pad: onnx.NodeProto) -> bool:
        """Whether a Pad adds only zeros."""
        mode = next((attribute.s for attribute in pad.attribute if attribute.name == "mode"), b"constant")
        value = pad.input[2] if len(pad.input) > 2 else ""
        return mode == b"constant" and (not value or (value in self.constants and not self.values(value).any()))

    def type_of(self, name: str) -> int | None:
        """The ONNX element type of a tensor; None if not known."""
        found = self.facts.types.get(name)
        if found is None and name in self.declared:
            found = self.declared[name].type.tensor_type.elem_type or None
        return found

    def scale_type(self, tensor: str) -> int:
        """The ONNX element type of an activation's scale: the tensor's own, or float32 with block scales."""
        return TensorProto.FLOAT if self.precision.block else self.type_of(tensor) or TensorProto.FLOAT

    def pair(
        self, tensor: str, scale: str, name: Callable[[str], str]
    ) -> tuple[list[onnx.NodeProto], onnx.TensorProto]:
        """The nodes that quantize and dequantize an activation, the one with the result last, and their zero point.

        Args:
            tensor: the activation.
            scale: name of the tensor with its scale.
            name: returns unique names for ``q``, ``dq`` and ``zero``.
        """
        stored, back, zero = (name(word) for word in ("q", "dq", "zero"))
        domain, more, grid = None, {}, [scale, zero]
        if self.precision.block:
            domain, grid = domain_of(self.precision), [scale]
            more = {"output_dtype": self.type_of(tensor) or TensorProto.FLOAT}
        nodes = [
            helper.make_node("QuantizeLinear", [tensor, *grid], [stored], domain=domain),
            helper.make_node("DequantizeLinear", [stored, *grid], [back], domain=domain, **more),
        ]
        return nodes, helper.make_tensor(zero, TensorProto.INT8 if domain else self.precision.onnx_type, [], [0])

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants."""
        return LightModel(self.proto, self.weights).message_bytes + sum(value.nbytes for value in self.weights.values())

    def values(self, constant: str) -> Array:
        """The values of a constant."""
        if constant in self.weights:
            return self.weights[constant]
        return np.asarray(numpy_helper.to_array(self.constants[constant]))

    def quantized_weight(self, tensor: str, axis: int | None, name: str) -> onnx.TensorProto:
        """The fake-quantized copy of a weight as a constant called ``name``."""
        return numpy_helper.from_array(self._fake_quantized(tensor, axis), name)

    def shared_quantized(self, tensor: str, axis: int | None) -> tuple[str, Array]:
        """The fake-quantized copy of a weight stored outside the protobuf message, with its name in all pieces."""
        name = f"qtool {tensor} {axis} dq"
        found = self._quantized.get(name)
        if found is None:
            self._quantized[name] = found = spilled(self._fake_quantized(tensor, axis))
            if found.nbytes >= SPILL_BYTES:
                self._kept.append(found)
        return name, found

    def _fake_quantized(self, tensor: str, axis: int | None) -> Array:
        values, key = looked_at(self.values(tensor)), (tensor, axis)
        if key not in self._scales:
            # finding scales can take a hundred times as long as rounding with them, which is repeated for every piece
            self._scales[key] = self.rounder.scale(tensor, values, axis)
        if (kept := self._rounded.get(key)) is not None:
            return kept
        found = self.rounder.rounded(tensor, values, axis, self._scales[key])
        # pieces are built in parallel
        with self._keeping:
            room = _ROUNDED_BYTES - sum(one.nbytes for one in self._rounded.values())
            if not self.shares and found.nbytes <= room:
                self._rounded[key] = found
        return found

    def value_info(self, name: str, shaped: bool = True) -> onnx.ValueInfoProto:
        """A tensor as input of a piece or, if not ``shaped``, as output; untyped if its type is not known."""
        given = next((value for value in self.inputs if value.name == name), None)
        if given is not None:
            return given
        kind = self.type_of(name)
        if kind is None:
            return onnx.ValueInfoProto(name=name)
        corners = self.facts.shapes.get(name)
        if not shaped or not corners or len({len(shape) for shape in corners}) != 1:
            return helper.make_tensor_value_info(name, kind, None)
        # ONNX's shape inference needs the constant sizes: it treats a Cast of a shape of unknown length as a scalar,
        # with which Resize fails, and computes an Attention's output from an unknown hidden size as if it were 0
        return helper.make_tensor_value_info(name, kind, self._constant_sizes(name, corners))

    def _constant_sizes(self, name: str, corners: Sequence[tuple[int, ...]]) -> list[int | None]:
        """A tensor's sizes for every input of the model; None where one is not known or a corner has another."""
        shape = self._shapes.get(name, ())
        if len(shape) != len(corners[0]):
            return [None] * len(corners[0])
        known = ({corner[axis] for corner in corners} == {size} for axis, size in enumerate(shape))
        return [size if size >= 0 and agrees else None for size, agrees in zip(shape, known)]


def _shapes_at_any_size(model: Model) -> dict[str, tuple[int, ...]]:
    """The shapes that follow from weights and constants alone; -1 for dimensions that do not.

    Sizes that the file declares may be of one input size, as after an edit that makes inputs dynamic. And those that
    ONNX infers from an input's are not always onnxruntime's: it rounds those of a Resize differently, and those of a
    pooling with ceil_mode before opset 22.
    """
    free = model.copy()
    for tensor in free.graph.tensors().values():
        if isinstance(tensor, gs.Variable):
            tensor.shape = None
    for tensor, given in zip(free.graph.inputs, model.graph.inputs):
        if given.shape is not None:
            tensor.shape = [f"{given.name} {axis}" for axis in range(len(given.shape))]
    return {name: shapes[0] for name, shapes in free.facts().shapes.items()}


def _nodes_and_constants(
    graph: onnx.GraphProto, outputs: Collection[str]
) -> tuple[list[onnx.NodeProto], dict[str, onnx.TensorProto]]:
    """A graph's nodes without its Constants, and the initializers and the values of these Constants by name."""
    nodes: list[onnx.NodeProto] = []
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        constant = _constant_of(node)
        # an output that is constant needs its node
        if constant is None or constant.name in outputs:
            nodes.append(node)
        else:
            constants[constant.name] = constant
    return nodes, constants


def _constant_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant, with its output's name; None for other nodes, and for Constants without a tensor."""
    value = next((a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None)
    if operator_of(node) != "Constant" or value is None:
        return None
    constant = deepcopy(value)
    constant.name = node.output[0]
    return constant
