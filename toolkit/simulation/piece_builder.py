"""Builds one piece of the simulation: the nodes of its stages, plain, with pairs, or with layers under switches.

A layer under a switch is an ``If`` with a copy of the layer and its weights in each branch: fake-quantized in one,
float in the other. onnxruntime prepacks the weights of both, so either branch is hardly slower than the plain layer (by
1 to 2 percent on convolutions, compared with 45 percent for weights fed as inputs).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import onnx
from onnx import helper

from toolkit.base.types import Array
from toolkit.graph.proto.light import large_header
from toolkit.graph.proto.nodes import reads_of
from toolkit.simulation.branches import Branch, switch_node
from toolkit.simulation.paired_graph import PairedGraph

SWITCH, SCALE = "qtool switch ", "qtool scale "
FLOAT, FULL, SWITCHED, FIXED = "float", "full", "switched", "switched, scales fixed"
"""The kinds of stages: the plain float nodes; all pairs of the base state with constant scales; switches with scales as
inputs; switches with the base state's scales as constants. An input costs about four microseconds per run.
"""


@dataclass(frozen=True)
class OwnState:
    """A kind of stage without switches: plain nodes with the pairs of one state.

    onnxruntime fuses nothing across the boundary of an ``If``, and a convolution inside reads and writes the plain
    layout: on a network of depthwise convolutions, a state under switches took twice as long as the float model even
    with nearly all layers in float.

    Attributes:
        on: the state's active switches.
        fixed: whether its scales are those of the base state, as constants; else they are inputs.
    """

    on: frozenset[str]
    fixed: bool


StageKind = str | OwnState


def is_whole_state(kinds: Sequence[StageKind]) -> bool:
    """Whether stages of these kinds have the pairs of one state and no switches, to run on many samples."""
    return len(kinds) > 1 and not {SWITCHED, FIXED}.intersection(kinds) and any(kind != FLOAT for kind in kinds)


@dataclass
class Segment:
    """A unit that is never cut: one node, or a layer with a switch and the nodes that fuse with it."""

    nodes: list[onnx.NodeProto]
    layer: str = ""
    inputs: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)
    cost: float = 0.0


class PieceBuilder:
    """Collects the nodes of one piece and puts layers under switches."""

    def __init__(self, graph: PairedGraph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.weights: dict[str, Array] = {}
        self.switches: list[str] = []
        self.scales: dict[str, int] = {}
        self._pairs: dict[str, str] = {}
        self._passed: set[str] = set()
        self._fixed = False

    def add(self, segment: Segment, kind: StageKind) -> None:
        """Append a segment's nodes."""
        self._fixed = kind in (FULL, FIXED) or (isinstance(kind, OwnState) and kind.fixed)
        if kind == FLOAT:
            self.nodes += segment.nodes
        elif isinstance(kind, OwnState):
            self._plain(segment, kind.on)
        elif kind == FULL:
            self._plain(segment, self.graph.base.on)
        elif segment.layer:
            self._layer(segment)
        else:
            self._other(segment.nodes[0])

    def drop_unread(self, outputs: Collection[str]) -> None:
        """Remove Pads that nothing reads any more, since their copy after a pair is read instead."""
        read = {name for node in self.nodes for name in reads_of(node)}.union(outputs)
        self.nodes = [node for node in self.nodes if node.output[0] in read or node.output[0] not in self._passed]

    def _plain(self, segment: Segment, on: Collection[str]) -> None:
        """Append a segment with the pairs of the switches in ``on``."""
        first = deepcopy(segment.nodes[0])
        quantized = segment.layer in on
        for index, tensor in enumerate(first.input):
            pair = self.graph.pair_of.get((first.name, index))
            if not segment.layer and f"{first.name}#{index}" in on:
                first.input[index] = self._pair(tensor)
            elif quantized and pair is not None:
                first.input[index] = self._weight(pair.tensor, pair.axis) if pair.weight else self._pair(tensor)
        self.nodes += [self._corrected(node) if quantized else node for node in (first, *segment.nodes[1:])]

    def _corrected(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """A node of a quantized layer, with its corrected bias if it has one."""
        indices = [i for i in range(len(node.input)) if (node.name, i) in self.graph.biases]
        if not indices:
            return node
        twin = deepcopy(node)
        for index in indices:
            twin.input[index] = name = f"qtool {node.name} {index} bias"
            self.constants[name] = deepcopy(self.graph.biases[node.name, index])
            self.constants[name].name = name
        return twin

    def _weight(self, tensor: str, axis: int | None) -> str:
        if tensor in self.graph.weights:
            name, values = self.graph.shared_quantized(tensor, axis)
            self._share({name: values})
            return name
        name = f"qtool {tensor} {axis} dq"
        if name not in self.constants:
            self.constants[name] = self.graph.quantized_weight(tensor, axis, name)
        return name

    def _share(self, weights: Mapping[str, Array]) -> None:
        """Add large constants to the piece's main graph, with values outside the protobuf message."""
        for name, values in weights.items():
            self.weights[name] = values
            self.constants[name] = large_header(name, helper.np_dtype_to_tensor_dtype(values.dtype), values.shape)

    def _pair(self, tensor: str) -> str:
        """Add a tensor's pair, once for all readers; returns the dequantized tensor's name.

        For a tensor padded with zeros, the Pad's input gets the pair: zero is exact on any grid, and onnxruntime fuses
        a Pad with the convolution that reads it.
        """
        if tensor not in self._pairs:
            pad = self.graph.padded.get(tensor)
            if pad is not None and not any(tensor in node.output for node in self.nodes):
                # it is computed in an earlier piece
                pad = None
            words = {word: f"qtool {tensor} {word}" for word in ("q", "dq", "zero", "padded")}
            source = tensor if pad is None else pad.input[0]
            nodes, zero = self.graph.pair(source, self._scale(tensor), words.__getitem__)
            self.constants[zero.name] = zero
            if pad is not None:
                twin = deepcopy(pad)
                twin.name = twin.output[0] = words["padded"]
                twin.input[0] = nodes[-1].output[0]
                nodes.append(twin)
                self._passed.add(tensor)
            self.nodes += nodes
            self._pairs[tensor] = nodes[-1].output[0]
        return self._pairs[tensor]

    def _layer(self, segment: Segment) -> None:
        name, result = segment.layer, segment.nodes[-1].output[0]
        then, other = Branch(self.graph, segment.nodes, "quantized"), Branch(self.graph, segment.nodes, "float")
        first = segment.nodes[0]
        replaced: dict[int, str] = {}
        for index, tensor in enumerate(first.input):
            pair = self.graph.pair_of.get((name, index))
            if pair is not None:
                replaced[index] = (
                    then.weight(pair.tensor, pair.axis) if pair.weight else then.pair(tensor, self._scale(tensor))
                )
        then.layers(replaced, corrected=True)
        other.layers({})
        self._share(then.shared | other.shared)
        self.switches.append(name)
        self.nodes.append(switch_node(SWITCH + name, result, then.subgraph(result), other.subgraph(result)))

    def _other(self, node: onnx.NodeProto) -> None:
        indices = self.graph.uses.get(node.name, [])
        if indices:
            twin = deepcopy(node)
            for index in indices:
                twin.input[index] = self._input(node, index)
            node = twin
        self.nodes.append(node)

    def _input(self, node: onnx.NodeProto, index: int) -> str:
        tensor, switch = node.input[index], f"{node.name}#{index}"
        then, other = Branch(self.graph, [node], f"{index} quantized"), Branch(self.graph, [node], f"{index} float")
        then.result = then.pair(tensor, self._scale(tensor))
        other.result = other.name(tensor)
        other.nodes.append(helper.make_node("Identity", [tensor], [other.result]))
        self.switches.append(switch)
        out = f"qtool {switch}"
        self.nodes.append(switch_node(SWITCH + switch, out, then.subgraph(tensor), other.subgraph(tensor)))
        return out

    def _base_scale(self, tensor: str) -> str:
        name, kind = f"qtool {tensor} scale", self.graph.scale_type(tensor)
        # a tensor without a pair in the base state has no pair in any state with the base state's scales
        self.constants[name] = helper.make_tensor(name, kind, [], [self.graph.base.scales.get(tensor, 1.0)])
        return name

    def _scale(self, tensor: str) -> str:
        if self._fixed:
            return self._base_scale(tensor)
        self.scales[tensor] = self.graph.scale_type(tensor)
        return SCALE + tensor
