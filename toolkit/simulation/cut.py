"""The simulation's graph, cut into stages: every quantizable layer under a switch, few tensors alive at each cut.

A layer under a switch is an ``If`` whose branches hold the layer with its own copies of the weights: fake-quantized
in one, float in the other. onnxruntime packs the weights of both beforehand, so that neither branch is slower than
the plain layer (measured: 1 to 2 percent on convolutions, where weights fed as inputs cost 45 percent).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from toolkit.calibration.weights import weight_amax
from toolkit.graph.facts import Facts
from toolkit.graph.work import macs, shape_of
from toolkit.placement.ops import ADDS
from toolkit.placement.qdq import storable_scale
from toolkit.simulation.pieces import SCALE, SWITCH, Builder, Piece, Unit, reads_of
from toolkit.simulation.switches import Switches, fake_quantized

_TAIL = frozenset({"Relu", "Clip", "LeakyRelu", "BatchNormalization", "Add", "Mul"})
_MACS_PER_ELEMENT = 8
_UNKNOWN_ELEMENTS = 10_000


class Cutter:
    """The stages of a model's simulation, and models of any neighbouring ones.

    Args:
        switches: the model, its groups and their pairs.
        facts: shapes for the cost of every node, as far as known.
        stages: how many stages to aim at.

    Attributes:
        stages: for every stage its switches, each with the activation tensors whose scales it needs.
        reads: for every stage the tensors that it takes from before.
        weight_bytes: bytes of all constants.
    """

    def __init__(self, switches: Switches, facts: Facts, stages: int = 12) -> None:
        self.facts = facts
        self.precision, self._weights = switches.precision, switches.weights
        self._macs = {name: macs(node, facts) or 0 for name, node in switches.nodes.items()}
        model = switches.model
        model.tidy()
        self.proto = model.to_proto()
        graph = self.proto.graph
        self.constants = {t.name: t for t in graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            value = next((a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None)
            if node.op_type == "Constant" and value is not None:
                constant = onnx.TensorProto()
                constant.CopyFrom(value)
                constant.name = node.output[0]
                self.constants[constant.name] = constant
            else:
                self.nodes.append(node)
        self.inputs = [value for value in graph.input if value.name not in self.constants]
        self.graph_outputs = {value.name for value in graph.output}
        self.declared = {value.name: value for value in (*graph.output, *graph.value_info)}
        self.names = set(switches.names)
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in reads_of(node):
                self.readers.setdefault(name, []).append(node)
        self.uses = self._other_uses(switches)
        self.pair_of = {(use.node, use.index): pair for pair in switches.full.pairs.values() for use in pair.uses}
        self.base = switches.config(())
        self.weight_bytes = sum(len(t.raw_data) for t in self.constants.values())
        self.units = self._units()
        self._bounds = self._cut(stages)
        self.stages = [self._switches(*bounds) for bounds in self._bounds]
        self.reads = [self._reads(*bounds) for bounds in self._bounds]

    def _other_uses(self, switches: Switches) -> dict[str, list[int]]:
        """Inputs of nodes that are no groups. Which branch of an Add has the pair depends on what is kept: both do."""
        found = switches.uses
        for name in found:
            node = switches.nodes[name]
            if node.op in ADDS:
                found[name] = [i for i, t in enumerate(node.inputs) if t.name not in self.constants]
        return found

    def _cut(self, stages: int) -> list[tuple[int, int]]:
        total = sum(unit.cost for unit in self.units) or 1.0
        cuts = [0, *self._cuts(self.units, stages, total), len(self.units)]
        return [(first, last) for first, last in pairwise(cuts) if last > first]

    def _switches(self, first: int, last: int) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for unit in self.units[first:last]:
            node = unit.nodes[0]
            if unit.layer:
                pairs = [(node.input[i], self.pair_of.get((node.name, i))) for i in range(len(node.input))]
                found[unit.layer] = tuple(name for name, pair in pairs if pair is not None and not pair.weight)
            else:
                found.update({f"{node.name}#{i}": (node.input[i],) for i in self.uses.get(node.name, [])})
        return found

    def _reads(self, first: int, last: int) -> set[str]:
        made = {name for unit in self.units[first:last] for name in unit.outputs}
        return {name for unit in self.units[first:last] for name in unit.inputs} - made

    # ---------------------------------------------------------------- units and cuts

    def _units(self) -> list[Unit]:
        units: list[Unit] = []
        taken: set[str] = set()
        for node in self.nodes:
            if node.output[0] in taken:
                continue
            unit = Unit([node])
            if node.name in self.names:
                unit.layer = node.name
                unit.nodes += self._tail(node)
                taken |= {name for member in unit.nodes for name in member.output}
            made = {name for member in unit.nodes for name in member.output if name}
            read = {name for member in unit.nodes for name in reads_of(member)}
            unit.inputs = {name for name in read - made if name not in self.constants}
            unit.outputs = made if not unit.layer else set(unit.nodes[-1].output)
            unit.cost = sum(self._cost(member) for member in unit.nodes)
            units.append(unit)
        return units

    def _tail(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Nodes behind a layer that work on its result alone and that onnxruntime fuses with it."""
        tail: list[onnx.NodeProto] = []
        while True:
            out = node.output[0]
            readers = self.readers.get(out, [])
            if len(readers) != 1 or out in self.graph_outputs or len(node.output) > 1:
                return tail
            node = readers[0]
            others = [name for name in node.input if name and name != out]
            plain = node.op_type in _TAIL and node.name not in self.uses and len(node.output) == 1
            if not plain or not all(name in self.constants for name in others):
                return tail
            tail.append(node)

    def _cost(self, node: onnx.NodeProto) -> float:
        work = self._macs.get(node.name, 0)
        moved = sum(self._elements(name) for name in (*node.input, *node.output) if name and name not in self.constants)
        return float(work + _MACS_PER_ELEMENT * moved)

    def _elements(self, name: str) -> int:
        shape = shape_of(self.facts, name)
        return math.prod(shape) if shape is not None else _UNKNOWN_ELEMENTS

    def _cuts(self, units: Sequence[Unit], stages: int, total: float) -> list[int]:
        """Places between units, near equal shares of the cost, where little has to be kept."""
        live = list(self._live(units))
        before = np.cumsum([0.0] + [unit.cost for unit in units])
        step = total / stages
        chosen: set[int] = set()
        for number in range(1, stages):
            near = [i for i in range(1, len(units)) if abs(before[i] - number * step) <= step / 2]
            near = [i for i in near if self._usable(live[i])]
            if near:
                size = {i: sum(self._elements(name) for name in live[i]) for i in near}
                chosen.add(min(near, key=lambda i: (size[i], abs(before[i] - number * step), i)))
        return sorted(chosen)

    def _live(self, units: Sequence[Unit]) -> Iterator[set[str]]:
        """For every place between units the tensors made before and read after it."""
        last: dict[str, int] = {}
        for index, unit in enumerate(units):
            for name in unit.inputs:
                last[name] = index
        alive: set[str] = set()
        yield set()
        for index, unit in enumerate(units):
            alive |= unit.outputs
            alive = {name for name in alive if last.get(name, -1) > index}
            yield set(alive)

    def _usable(self, live: set[str]) -> bool:
        return bool(live) and all(self.type_of(name) is not None for name in live)

    def type_of(self, name: str) -> int | None:
        """The ONNX element type of a tensor, or None where nobody knows."""
        found = self.facts.types.get(name)
        if found is None and name in self.declared:
            found = self.declared[name].type.tensor_type.elem_type or None
        return found

    # ---------------------------------------------------------------- building

    def quantized_weight(self, tensor: str, axis: int | None, name: str) -> onnx.TensorProto:
        """The fake-quantized copy of a weight as a constant of that name."""
        values = numpy_helper.to_array(self.constants[tensor])
        scale = storable_scale(weight_amax(values, axis, self._weights, self.precision), self.precision)
        return numpy_helper.from_array(fake_quantized(values, scale, axis, self.precision), name)

    def piece(self, first: int, kinds: Sequence[str]) -> Piece:
        """Stages from number ``first`` on as one model, one for each of ``kinds``: FLOAT, FULL or SWITCHED."""
        bounds = self._bounds[first : first + len(kinds)]
        begin, end = bounds[0][0], bounds[-1][1]
        made = {name for unit in self.units[begin:end] for name in unit.outputs}
        needed_later = {name for unit in self.units[end:] for name in unit.inputs}
        outputs = sorted(made & (needed_later | self.graph_outputs))
        built = Builder(self)
        for kind, (low, high) in zip(kinds, bounds):
            for unit in self.units[low:high]:
                built.add(unit, kind)
        inner = {name for node in built.nodes for name in node.output}
        used = {name for node in built.nodes for name in reads_of(node)}
        constants = {**self.constants, **built.constants}
        outer = sorted(name for name in used - inner - set(constants) if not name.startswith((SWITCH, SCALE)))
        values = [self._value(name) for name in outer]
        values += [helper.make_tensor_value_info(SWITCH + name, TensorProto.BOOL, []) for name in built.switches]
        values += [helper.make_tensor_value_info(SCALE + name, kind, []) for name, kind in built.scales.items()]
        graph = helper.make_graph(
            built.nodes, "piece", values, [self._value(name, shaped=False) for name in outputs],
            [constants[name] for name in sorted(used) if name in constants],
        )  # fmt: skip
        version = max(self.proto.ir_version, 8)
        proto = helper.make_model(graph, opset_imports=self.proto.opset_import, ir_version=version)
        proto.functions.extend(self.proto.functions)
        return Piece(proto.SerializeToString(), tuple(outer), tuple(outputs), tuple(built.switches), built.scales)

    def _value(self, name: str, shaped: bool = True) -> onnx.ValueInfoProto:
        given = next((value for value in self.inputs if value.name == name), None)
        if given is not None:
            return given
        kind = self.type_of(name)
        if kind is None:
            return onnx.ValueInfoProto(name=name)
        corners = self.facts.shapes.get(name)
        if not shaped or not corners or len({len(shape) for shape in corners}) != 1:
            return helper.make_tensor_value_info(name, kind, None)
        # sizes are left open: the facts may be of one profile only
        return helper.make_tensor_value_info(name, kind, [None] * len(corners[0]))
