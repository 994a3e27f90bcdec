"""Cuts the simulation's graph into stages at which few tensors are alive, and builds models of stages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper

from toolkit.graph.layers.macs import macs, shape_of
from toolkit.graph.proto.light import LightModel
from toolkit.graph.proto.nodes import reads_of
from toolkit.graph.proto.strangers import operator_of
from toolkit.graph.shape_inference.facts import Facts
from toolkit.simulation.paired_graph import PairedGraph
from toolkit.simulation.piece_builder import SCALE, SWITCH, PieceBuilder, Segment, StageKind
from toolkit.simulation.rounder import Rounder
from toolkit.simulation.switches import Config, Switches

_TAIL = frozenset({"Relu", "Clip", "LeakyRelu", "BatchNormalization", "Add", "Mul"})
_MACS_PER_ELEMENT = 8
_MACS_PER_PAIR_ELEMENT = 32
_MACS_PER_NODE, _MACS_PER_SWITCH = 240e3, 700e3
"""Equivalents of four and twelve microseconds, measured with onnxruntime 1.31 on models with layers this short."""
_UNKNOWN_ELEMENTS = 10_000


@dataclass(frozen=True)
class Piece:
    """Consecutive stages as a separate model.

    Attributes:
        model: the ONNX model.
        inputs: tensors that it reads from earlier stages, without switches and scales.
        outputs: tensors that later stages read, and outputs of the whole model.
        switches: names of its switches, which are inputs.
        scales: by tensor with a scale input, the ONNX element type of the scale.
    """

    model: LightModel
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    switches: tuple[str, ...]
    scales: dict[str, int]


class Cutter:
    """The stages of a model's simulation, and models of any consecutive ones.

    Args:
        switches: the model, its groups and their pairs.
        facts: shapes to estimate the cost of every node, as far as known.
        stages: number of stages to aim at.
        rounder: rounds the weights.

    Attributes:
        graph: the model with its pairs.
        segments: the nodes in graph order, layers together with the nodes that fuse with them.
        stages: by stage, its switches, each with the activation tensors whose scales it needs.
        reads: by stage, the tensors that it reads from earlier ones.
        weight_bytes: bytes of all constants.
        input_elements: number of elements of all inputs at the facts' shapes.
        shares: whether the weights are too large for copies.
    """

    def __init__(self, switches: Switches, facts: Facts, stages: int, rounder: Rounder) -> None:
        self._macs = {name: macs(node, facts) or 0 for name, node in switches.nodes.items()}
        self.graph = PairedGraph(switches, facts, rounder)
        self.weight_bytes, self.shares = self.graph.weight_bytes, self.graph.shares
        self.segments = self._segments()
        self._convolutions = {one.layer for one in self.segments if one.layer and operator_of(one.nodes[0]) == "Conv"}
        self._bounds = self._cut(stages)
        self.stages = [self._switches(*bounds) for bounds in self._bounds]
        self.reads = [self._reads(*bounds) for bounds in self._bounds]
        self._stage_costs = [
            (sum(segment.cost for segment in part), _MACS_PER_NODE * sum(len(segment.nodes) for segment in part))
            for part in (self.segments[first:last] for first, last in self._bounds)
        ]
        self.input_elements = sum(self._elements(value.name) for value in self.graph.inputs)

    def paired_elements(self, stages: Iterable[int], config: Config) -> int:
        """The number of elements, at the facts' shapes, of the activations that a state quantizes for convolutions."""
        paired = set[str]()
        for stage in stages:
            for switch in self._convolutions.intersection(config.on, self.stages[stage]):
                paired.update(self.stages[stage][switch])
        return sum(map(self._elements, paired))

    def cost(self, stage: int, config: Config) -> tuple[float, float]:
        """The cost of a stage in a state, in multiply-accumulates.

        Returns:
            The cost of arithmetic and memory traffic at the facts' shapes, and that of calling its nodes in each run.
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
        """The chain of nodes after a layer that onnxruntime fuses with it, without other non-constant inputs."""
        tail: list[onnx.NodeProto] = []
        while True:
            out = node.output[0]
            readers = self.graph.readers.get(out, [])
            if len(readers) != 1 or out in self.graph.outputs or len(node.output) > 1:
                return tail
            node = readers[0]
            others = [name for name in node.input if name and name != out]
            plain = operator_of(node) in _TAIL and node.name not in self.graph.uses and len(node.output) == 1
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
        """Indices of segments to cut before, near equal shares of the cost, with few elements alive."""
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
        """For every boundary between segments, the tensors produced before and read after it."""
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

    def piece(self, first: int, kinds: Sequence[StageKind]) -> Piece:
        """The model of consecutive stages from number ``first`` on, one for each of ``kinds``."""
        bounds = self._bounds[first : first + len(kinds)]
        begin, end = bounds[0][0], bounds[-1][1]
        made = {name for segment in self.segments[begin:end] for name in segment.outputs}
        needed_later = {name for segment in self.segments[end:] for name in segment.inputs}
        outputs = sorted(made & (needed_later | self.graph.outputs))
        built = self._built(kinds, bounds, outputs)
        inner = {name for node in built.nodes for name in node.output}
        used = {name for node in built.nodes for name in reads_of(node)}
        constants = {**self.graph.constants, **built.constants}
        outer = sorted(name for name in used - inner - set(constants) if not name.startswith((SWITCH, SCALE)))
        graph = helper.make_graph(
            built.nodes, "piece", self._inputs(outer, built),
            [self.graph.value_info(name, shaped=False) for name in outputs],
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

    def _built(
        self, kinds: Sequence[StageKind], bounds: Sequence[tuple[int, int]], outputs: Sequence[str]
    ) -> PieceBuilder:
        """The nodes of consecutive stages, by the bounds of their segments."""
        built = PieceBuilder(self.graph)
        for kind, (low, high) in zip(kinds, bounds):
            for segment in self.segments[low:high]:
                built.add(segment, kind)
        built.drop_unread(outputs)
        return built

    def _inputs(self, outer: Sequence[str], built: PieceBuilder) -> list[onnx.ValueInfoProto]:
        """The inputs of a piece: tensors of earlier stages, switches and scales."""
        return [
            *(self.graph.value_info(name) for name in outer),
            *(helper.make_tensor_value_info(SWITCH + name, TensorProto.BOOL, []) for name in built.switches),
            *(helper.make_tensor_value_info(SCALE + name, kind, []) for name, kind in built.scales.items()),
        ]
