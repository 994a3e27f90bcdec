"""The simulation's graph, cut into stages: every quantizable layer under a switch, few tensors alive at each cut.

A layer under a switch is an ``If`` whose branches hold the layer with its own copies of the weights: fake-quantized
in one, float in the other. onnxruntime packs the weights of both beforehand, so that neither branch is slower than
the plain layer (measured: 1 to 2 percent on convolutions, where weights fed as inputs cost 45 percent).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper

from toolkit.base.types import Array
from toolkit.graph.facts import Facts
from toolkit.graph.light import LightModel, large_header
from toolkit.graph.macs import macs, shape_of
from toolkit.graph.nodes import reads_of
from toolkit.simulation.branches import Branch, switch_node
from toolkit.simulation.paired_graph import PairedGraph
from toolkit.simulation.rounder import Rounder
from toolkit.simulation.switches import Config, Switches

_TAIL = frozenset({"Relu", "Clip", "LeakyRelu", "BatchNormalization", "Add", "Mul"})
_MACS_PER_ELEMENT = 8
_MACS_PER_PAIR_ELEMENT = 32
_MACS_PER_NODE, _MACS_PER_SWITCH = 240e3, 700e3
"""Four and twelve microseconds; seen with onnxruntime 1.31 on models whose layers take no longer."""
_UNKNOWN_ELEMENTS = 10_000

SWITCH, SCALE = "qtool switch ", "qtool scale "
FLOAT, FULL, SWITCHED, FIXED = "float", "full", "switched", "switched, scales fixed"
"""What a stage of a piece holds: the plain float nodes, all pairs of the base state as constants, or switches with
scales as inputs, or switches with the base state's scales as constants. An input costs about four microseconds a run.
"""


@dataclass(frozen=True)
class Piece:
    """Neighbouring stages as a model of their own.

    Attributes:
        model: the ONNX model.
        inputs: tensors it takes from before, switches and scales not counted.
        outputs: tensors it gives to later stages, and outputs of the whole model.
        switches: its switches.
        scales: tensors that have a scale input here, with the ONNX element type of the scale.
    """

    model: LightModel
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    switches: tuple[str, ...]
    scales: dict[str, int]


@dataclass
class Segment:
    """Nodes that belong to one place in the order: a node, or a layer under a switch with what fuses with it."""

    nodes: list[onnx.NodeProto]
    layer: str = ""
    inputs: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)
    cost: float = 0.0


class Cutter:
    """The stages of a model's simulation, and models of any neighbouring ones.

    Args:
        switches: the model, its groups and their pairs.
        facts: shapes for the cost of every node, as far as known.
        stages: how many stages to aim at.
        rounder: says how weights are rounded.

    Attributes:
        graph: the model with its pairs.
        segments: its nodes in their order, layers with what fuses with them.
        stages: for every stage its switches, each with the activation tensors whose scales it needs.
        reads: for every stage the tensors that it takes from before.
        weight_bytes: bytes of all constants.
        input_elements: of all inputs at the facts' shapes.
        shares: whether the weights are too many for copies.
    """

    def __init__(self, switches: Switches, facts: Facts, stages: int, rounder: Rounder) -> None:
        self._macs = {name: macs(node, facts) or 0 for name, node in switches.nodes.items()}
        self.graph = PairedGraph(switches, facts, rounder)
        self.weight_bytes, self.shares = self.graph.weight_bytes, self.graph.shares
        self.segments = self._segments()
        self._bounds = self._cut(stages)
        self.stages = [self._switches(*bounds) for bounds in self._bounds]
        self.reads = [self._reads(*bounds) for bounds in self._bounds]
        self._stage_costs = [
            (sum(segment.cost for segment in part), _MACS_PER_NODE * sum(len(segment.nodes) for segment in part))
            for part in (self.segments[first:last] for first, last in self._bounds)
        ]
        self.input_elements = sum(self._elements(value.name) for value in self.graph.inputs)

    def cost(self, stage: int, config: Config) -> tuple[float, float]:
        """What a stage of a state costs in multiply-accumulates.

        Returns:
            Its arithmetic and traffic at the facts' shapes, and what its nodes and switches cost in every run.
        """
        work, calls = self._stage_costs[stage]
        if not config.on:
            return work, calls
        pairs = {tensor for switch, tensors in self.stages[stage].items() if switch in config.on for tensor in tensors}
        extra = _MACS_PER_PAIR_ELEMENT * sum(self._elements(tensor) for tensor in sorted(pairs))
        return work + extra, calls + _MACS_PER_SWITCH * len(self.stages[stage])

    def _cut(self, stages: int) -> list[tuple[int, int]]:
        total = sum(segment.cost for segment in self.segments) or 1.0
        cuts = [0, *self._cuts(self.segments, stages, total), len(self.segments)]
        return [(first, last) for first, last in pairwise(cuts) if last > first]

    def _switches(self, first: int, last: int) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for segment in self.segments[first:last]:
            node = segment.nodes[0]
            if segment.layer:
                pairs = [(node.input[i], self.graph.pair_of.get((node.name, i))) for i in range(len(node.input))]
                found[segment.layer] = tuple(name for name, pair in pairs if pair is not None and not pair.weight)
            else:
                found.update({f"{node.name}#{i}": (node.input[i],) for i in self.graph.uses.get(node.name, [])})
        return found

    def _reads(self, first: int, last: int) -> set[str]:
        made = {name for segment in self.segments[first:last] for name in segment.outputs}
        return {name for segment in self.segments[first:last] for name in segment.inputs} - made

    # ---------------------------------------------------------------- segments and cuts

    def _segments(self) -> list[Segment]:
        segments: list[Segment] = []
        taken: set[str] = set()
        for node in self.graph.nodes:
            if node.output[0] in taken:
                continue
            segment = Segment([node])
            if node.name in self.graph.names:
                segment.layer = node.name
                segment.nodes += self._tail(node)
                taken |= {name for member in segment.nodes for name in member.output}
            made = {name for member in segment.nodes for name in member.output if name}
            read = {name for member in segment.nodes for name in reads_of(member)}
            segment.inputs = {name for name in read - made if name not in self.graph.constants}
            segment.outputs = made if not segment.layer else set(segment.nodes[-1].output)
            segment.cost = sum(self._cost(member) for member in segment.nodes)
            segments.append(segment)
        return segments

    def _tail(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Nodes behind a layer that work on its result alone and that onnxruntime fuses with it."""
        tail: list[onnx.NodeProto] = []
        while True:
            out = node.output[0]
            readers = self.graph.readers.get(out, [])
            if len(readers) != 1 or out in self.graph.outputs or len(node.output) > 1:
                return tail
            node = readers[0]
            others = [name for name in node.input if name and name != out]
            plain = node.op_type in _TAIL and node.name not in self.graph.uses and len(node.output) == 1
            if not plain or not all(name in self.graph.constants for name in others):
                return tail
            tail.append(node)

    def _cost(self, node: onnx.NodeProto) -> float:
        work = self._macs.get(node.name, 0)
        tensors = [name for name in (*node.input, *node.output) if name and name not in self.graph.constants]
        moved = sum(self._elements(name) for name in tensors)
        return float(work + _MACS_PER_ELEMENT * moved)

    def _elements(self, name: str) -> int:
        shape = shape_of(self.graph.facts, name)
        return math.prod(shape) if shape is not None else _UNKNOWN_ELEMENTS

    def _cuts(self, segments: Sequence[Segment], stages: int, total: float) -> list[int]:
        """Places between segments, near equal shares of the cost, where little has to be kept."""
        live = list(self._live(segments))
        before = np.cumsum([0.0] + [segment.cost for segment in segments])
        step = total / stages
        chosen: set[int] = set()
        for number in range(1, stages):
            near = [i for i in range(1, len(segments)) if abs(before[i] - number * step) <= step / 2]
            near = [i for i in near if self._usable(live[i])]
            if near:
                size = {i: sum(self._elements(name) for name in live[i]) for i in near}
                chosen.add(min(near, key=lambda i: (size[i], abs(before[i] - number * step), i)))
        return sorted(chosen)

    def _live(self, segments: Sequence[Segment]) -> Iterator[set[str]]:
        """For every place between segments the tensors made before and read after it."""
        last: dict[str, int] = {}
        for index, segment in enumerate(segments):
            for name in segment.inputs:
                last[name] = index
        alive: set[str] = set()
        yield set()
        for index, segment in enumerate(segments):
            alive |= segment.outputs
            alive = {name for name in alive if last.get(name, -1) > index}
            yield set(alive)

    def _usable(self, live: set[str]) -> bool:
        return bool(live) and all(self.graph.type_of(name) is not None for name in live)

    # ---------------------------------------------------------------- building

    def piece(self, first: int, kinds: Sequence[str]) -> Piece:
        """Stages from number ``first`` on as one model, one for each of ``kinds``: FLOAT, FULL, SWITCHED or FIXED."""
        bounds = self._bounds[first : first + len(kinds)]
        begin, end = bounds[0][0], bounds[-1][1]
        made = {name for segment in self.segments[begin:end] for name in segment.outputs}
        needed_later = {name for segment in self.segments[end:] for name in segment.inputs}
        outputs = sorted(made & (needed_later | self.graph.outputs))
        built = _Builder(self.graph)
        for kind, (low, high) in zip(kinds, bounds):
            for segment in self.segments[low:high]:
                built.add(segment, kind)
        inner = {name for node in built.nodes for name in node.output}
        used = {name for node in built.nodes for name in reads_of(node)}
        constants = {**self.graph.constants, **built.constants}
        outer = sorted(name for name in used - inner - set(constants) if not name.startswith((SWITCH, SCALE)))
        values = [self.graph.value_info(name) for name in outer]
        values += [helper.make_tensor_value_info(SWITCH + name, TensorProto.BOOL, []) for name in built.switches]
        values += [helper.make_tensor_value_info(SCALE + name, kind, []) for name, kind in built.scales.items()]
        graph = helper.make_graph(
            built.nodes, "piece", values, [self.graph.value_info(name, shaped=False) for name in outputs],
            [constants[name] for name in sorted(used) if name in constants],
        )  # fmt: skip
        version = max(self.graph.proto.ir_version, 8)
        proto = helper.make_model(graph, opset_imports=self.graph.proto.opset_import, ir_version=version)
        proto.functions.extend(self.graph.proto.functions)
        weights = {name: values for name, values in (self.graph.weights | built.weights).items() if name in used}
        return Piece(
            LightModel(proto, weights, "the simulation").lighten(),
            tuple(outer),
            tuple(outputs),
            tuple(built.switches),
            built.scales,
        )


class _Builder:
    """Collects the nodes of one piece and puts layers under switches."""

    def __init__(self, graph: PairedGraph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.weights: dict[str, Array] = {}
        self.switches: list[str] = []
        self.scales: dict[str, int] = {}
        self._pairs: dict[str, str] = {}
        self._fixed = False

    def add(self, segment: Segment, kind: str) -> None:
        """Append a segment's nodes."""
        if kind == FLOAT:
            self.nodes += segment.nodes
        elif kind == FULL:
            self._full(segment)
        else:
            self._fixed = kind == FIXED
            if segment.layer:
                self._layer(segment)
            else:
                self._other(segment.nodes[0])

    def _full(self, segment: Segment) -> None:
        first = onnx.NodeProto()
        first.CopyFrom(segment.nodes[0])
        for index, tensor in enumerate(first.input):
            pair = self.graph.pair_of.get((first.name, index))
            if pair is not None and pair.weight and segment.layer:
                first.input[index] = self._weight(pair.tensor, pair.axis)
            elif pair is not None:
                first.input[index] = self._pair(tensor)
        self.nodes += [self._corrected(node) if segment.layer else node for node in (first, *segment.nodes[1:])]

    def _corrected(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """A node of a quantized layer with its corrected bias, where it has one."""
        indices = [i for i in range(len(node.input)) if (node.name, i) in self.graph.biases]
        if not indices:
            return node
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        for index in indices:
            twin.input[index] = name = f"qtool {node.name} {index} bias"
            self.constants[name] = onnx.TensorProto()
            self.constants[name].CopyFrom(self.graph.biases[node.name, index])
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
        """Let the piece's main graph have large constants whose values are beside it."""
        for name, values in weights.items():
            self.weights[name] = values
            self.constants[name] = large_header(name, helper.np_dtype_to_tensor_dtype(values.dtype), values.shape)

    def _pair(self, tensor: str) -> str:
        """The dequantized tensor, one pair for all readers, with the base state's scale."""
        if tensor not in self._pairs:
            nodes, zero = self.graph.pair(tensor, self._base_scale(tensor), lambda word: f"qtool {tensor} {word}")
            self.constants[zero.name] = zero
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
            twin = onnx.NodeProto()
            twin.CopyFrom(node)
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
        # a tensor that has no pair in the base state has none wherever the base state's scales are asked for
        self.constants[name] = helper.make_tensor(name, kind, [], [self.graph.base.scales.get(tensor, 1.0)])
        return name

    def _scale(self, tensor: str) -> str:
        if self._fixed:
            return self._base_scale(tensor)
        self.scales[tensor] = self.graph.scale_type(tensor)
        return SCALE + tensor
