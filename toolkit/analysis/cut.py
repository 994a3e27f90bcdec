"""The simulation's graph, cut into stages: every quantizable layer under a switch, few tensors alive at each cut.

A layer under a switch is an ``If`` whose branches hold the layer with its own copies of the weights: fake-quantized
in one, float in the other. onnxruntime packs the weights of both beforehand, so that neither branch is slower than
the plain layer (measured: 1 to 2 percent on convolutions, where weights fed as inputs cost 45 percent).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from toolkit.analysis.switches import Switches, fake_quantized
from toolkit.calibration.weights import weight_amax
from toolkit.costs import macs, shape_of
from toolkit.model import Facts
from toolkit.placement.ops import ADDS
from toolkit.placement.qdq import storable_scale

SWITCH, SCALE = "qtool switch ", "qtool scale "
_TAIL = frozenset({"Relu", "Clip", "LeakyRelu", "BatchNormalization", "Add", "Mul"})
_MACS_PER_ELEMENT = 8
_UNKNOWN_ELEMENTS = 10_000


FLOAT, FULL, SWITCHED = "float", "full", "switched"
"""What a stage of a piece holds: the plain float nodes, all pairs of the base state as constants, or switches."""


@dataclass(frozen=True)
class Piece:
    """Neighbouring stages as a model of their own.

    Attributes:
        content: the serialized ONNX model.
        inputs: tensors it takes from before, switches and scales not counted.
        outputs: tensors it gives to later stages, and outputs of the whole model.
        switches: its switches.
        scales: tensors that have a scale input here, with the ONNX element type of the scale.
    """

    content: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    switches: tuple[str, ...]
    scales: dict[str, int]


@dataclass
class _Unit:
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

    def _units(self) -> list[_Unit]:
        units: list[_Unit] = []
        taken: set[str] = set()
        for node in self.nodes:
            if node.output[0] in taken:
                continue
            unit = _Unit([node])
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

    def _cuts(self, units: Sequence[_Unit], stages: int, total: float) -> list[int]:
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

    def _live(self, units: Sequence[_Unit]) -> Iterator[set[str]]:
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
        built = _Builder(self)
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


class _Builder:
    """Collects the nodes of one piece and puts layers under switches."""

    def __init__(self, cutter: Cutter) -> None:
        self.cutter = cutter
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.switches: list[str] = []
        self.scales: dict[str, int] = {}
        self._pairs: dict[str, str] = {}

    def add(self, unit: _Unit, kind: str) -> None:
        """Append a unit's nodes."""
        if kind == FLOAT:
            self.nodes += unit.nodes
        elif kind == FULL:
            self._full(unit)
        elif unit.layer:
            self._layer(unit)
        else:
            self._other(unit.nodes[0])

    def _full(self, unit: _Unit) -> None:
        first = onnx.NodeProto()
        first.CopyFrom(unit.nodes[0])
        for index, tensor in enumerate(first.input):
            pair = self.cutter.pair_of.get((first.name, index))
            if pair is not None and pair.weight and unit.layer:
                first.input[index] = self._weight(pair.tensor, pair.axis)
            elif pair is not None:
                first.input[index] = self._pair(tensor)
        self.nodes += [first, *unit.nodes[1:]]

    def _weight(self, tensor: str, axis: int | None) -> str:
        name = f"qtool {tensor} {axis} dq"
        if name not in self.constants:
            self.constants[name] = self.cutter.quantized_weight(tensor, axis, name)
        return name

    def _pair(self, tensor: str) -> str:
        """The dequantized tensor, one pair for all readers, with the base state's scale."""
        if tensor not in self._pairs:
            stored, back, scale, zero = (f"qtool {tensor} {word}" for word in ("q", "dq", "scale", "zero"))
            kind = self.cutter.type_of(tensor) or TensorProto.FLOAT
            self.constants[scale] = helper.make_tensor(scale, kind, [], [self.cutter.base.scales[tensor]])
            self.constants[zero] = helper.make_tensor(zero, self.cutter.precision.onnx_type, [], [0])
            self.nodes.append(helper.make_node("QuantizeLinear", [tensor, scale, zero], [stored]))
            self.nodes.append(helper.make_node("DequantizeLinear", [stored, scale, zero], [back]))
            self._pairs[tensor] = back
        return self._pairs[tensor]

    def _layer(self, unit: _Unit) -> None:
        name, result = unit.layer, unit.nodes[-1].output[0]
        then, other = _Branch(self, unit, "quantized"), _Branch(self, unit, "float")
        first = unit.nodes[0]
        replaced: dict[int, str] = {}
        for index, tensor in enumerate(first.input):
            pair = self.cutter.pair_of.get((name, index))
            if pair is not None:
                replaced[index] = (
                    then.weight(pair.tensor, pair.axis) if pair.weight else then.pair(tensor, self._scale(tensor))
                )
        then.layers(replaced)
        other.layers({})
        self.switches.append(name)
        self.nodes.append(_if(SWITCH + name, result, then.graph(), other.graph()))

    def _other(self, node: onnx.NodeProto) -> None:
        indices = self.cutter.uses.get(node.name, [])
        if indices:
            twin = onnx.NodeProto()
            twin.CopyFrom(node)
            for index in indices:
                twin.input[index] = self._input(node, index)
            node = twin
        self.nodes.append(node)

    def _input(self, node: onnx.NodeProto, index: int) -> str:
        tensor, switch = node.input[index], f"{node.name}#{index}"
        unit = _Unit([node])
        then, other = _Branch(self, unit, f"{index} quantized"), _Branch(self, unit, f"{index} float")
        then.result = then.pair(tensor, self._scale(tensor))
        other.result = other.name(tensor)
        other.nodes.append(helper.make_node("Identity", [tensor], [other.result]))
        self.switches.append(switch)
        out = f"qtool {switch}"
        self.nodes.append(_if(SWITCH + switch, out, then.graph(), other.graph()))
        return out

    def _scale(self, tensor: str) -> str:
        self.scales[tensor] = self.cutter.type_of(tensor) or TensorProto.FLOAT
        return SCALE + tensor


class _Branch:
    """One branch of a switch: nodes with names of their own and the constants they read."""

    def __init__(self, builder: _Builder, unit: _Unit, word: str) -> None:
        self.cutter, self.unit = builder.cutter, unit
        self.prefix = f"qtool {unit.nodes[0].name or unit.nodes[0].output[0]} {word} "
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.result = ""

    def name(self, base: str) -> str:
        """A name of this branch's own."""
        return self.prefix + base

    def pair(self, tensor: str, scale: str) -> str:
        """Quantize and dequantize an activation; the name of the result."""
        stored, back, zero = self.name(f"{tensor} q"), self.name(f"{tensor} dq"), self.name("zero")
        kind = self.cutter.precision.onnx_type
        self.constants[zero] = helper.make_tensor(zero, kind, [], [0])
        self.nodes.append(helper.make_node("QuantizeLinear", [tensor, scale, zero], [stored]))
        self.nodes.append(helper.make_node("DequantizeLinear", [stored, scale, zero], [back]))
        return back

    def weight(self, tensor: str, axis: int | None) -> str:
        """The fake-quantized copy of a weight; its name."""
        name = self.name(f"{tensor} dq")
        self.constants[name] = self.cutter.quantized_weight(tensor, axis, name)
        return name

    def layers(self, replaced: dict[int, str]) -> None:
        """The unit's nodes, with some inputs of the first replaced."""
        made: dict[str, str] = {}
        for position, node in enumerate(self.unit.nodes):
            twin = onnx.NodeProto()
            twin.CopyFrom(node)
            for index, tensor in enumerate(node.input):
                if position == 0 and index in replaced:
                    twin.input[index] = replaced[index]
                elif tensor in made:
                    twin.input[index] = made[tensor]
                elif tensor in self.cutter.constants:
                    twin.input[index] = self._own(tensor)
            for index, tensor in enumerate(node.output):
                made[tensor] = twin.output[index] = self.name(tensor)
            self.nodes.append(twin)
        self.result = self.nodes[-1].output[0]

    def _own(self, tensor: str) -> str:
        # a constant inside the branch is packed beforehand, one outside is not
        name = self.name(tensor)
        copy = onnx.TensorProto()
        copy.CopyFrom(self.cutter.constants[tensor])
        copy.name = name
        self.constants[name] = copy
        return name

    def graph(self) -> onnx.GraphProto:
        """The branch as a subgraph."""
        last = self.unit.nodes[-1].output[0] if self.unit.layer else self.unit.nodes[0].input[0]
        kind = self.cutter.type_of(last) or TensorProto.FLOAT
        output = helper.make_tensor_value_info(self.result, kind, None)
        return helper.make_graph(self.nodes, "branch", [], [output], list(self.constants.values()))


def _if(condition: str, result: str, then: onnx.GraphProto, other: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", [condition], [result], name=f"{condition} if", then_branch=then, else_branch=other)


def reads_of(node: onnx.NodeProto) -> set[str]:
    """Names a node reads, those that its subgraphs take from outside included."""
    found = {name for name in node.input if name}
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
            own = {name for inner in graph.node for name in inner.output}
            own |= {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            found |= {name for inner in graph.node for name in reads_of(inner)} - own
            found |= {value.name for value in graph.output} - own
    return found
