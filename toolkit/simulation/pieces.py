"""Building the pieces of a simulation: nodes as they are, with all pairs, or with layers under switches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from toolkit.simulation.cut import Cutter

SWITCH, SCALE = "qtool switch ", "qtool scale "
FLOAT, FULL, SWITCHED, FIXED = "float", "full", "switched", "switched, scales fixed"
"""What a stage of a piece holds: the plain float nodes, all pairs of the base state as constants, or switches with
scales as inputs, or switches with the base state's scales as constants. An input costs about four microseconds a run.
"""


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
class Unit:
    """Nodes that belong to one place in the order: a node, or a layer under a switch with what fuses with it."""

    nodes: list[onnx.NodeProto]
    layer: str = ""
    inputs: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)
    cost: float = 0.0


class Builder:
    """Collects the nodes of one piece and puts layers under switches."""

    def __init__(self, cutter: Cutter) -> None:
        self.cutter = cutter
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.switches: list[str] = []
        self.scales: dict[str, int] = {}
        self._pairs: dict[str, str] = {}
        self._fixed = False

    def add(self, unit: Unit, kind: str) -> None:
        """Append a unit's nodes."""
        if kind == FLOAT:
            self.nodes += unit.nodes
        elif kind == FULL:
            self._full(unit)
        else:
            self._fixed = kind == FIXED
            if unit.layer:
                self._layer(unit)
            else:
                self._other(unit.nodes[0])

    def _full(self, unit: Unit) -> None:
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
            stored, back, zero = (f"qtool {tensor} {word}" for word in ("q", "dq", "zero"))
            scale = self._base_scale(tensor)
            self.constants[zero] = helper.make_tensor(zero, self.cutter.precision.onnx_type, [], [0])
            self.nodes.append(helper.make_node("QuantizeLinear", [tensor, scale, zero], [stored]))
            self.nodes.append(helper.make_node("DequantizeLinear", [stored, scale, zero], [back]))
            self._pairs[tensor] = back
        return self._pairs[tensor]

    def _layer(self, unit: Unit) -> None:
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
        unit = Unit([node])
        then, other = _Branch(self, unit, f"{index} quantized"), _Branch(self, unit, f"{index} float")
        then.result = then.pair(tensor, self._scale(tensor))
        other.result = other.name(tensor)
        other.nodes.append(helper.make_node("Identity", [tensor], [other.result]))
        self.switches.append(switch)
        out = f"qtool {switch}"
        self.nodes.append(_if(SWITCH + switch, out, then.graph(), other.graph()))
        return out

    def _base_scale(self, tensor: str) -> str:
        name, kind = f"qtool {tensor} scale", self.cutter.type_of(tensor) or TensorProto.FLOAT
        # a tensor that has no pair in the base state has none wherever the base state's scales are asked for
        self.constants[name] = helper.make_tensor(name, kind, [], [self.cutter.base.scales.get(tensor, 1.0)])
        return name

    def _scale(self, tensor: str) -> str:
        if self._fixed:
            return self._base_scale(tensor)
        self.scales[tensor] = self.cutter.type_of(tensor) or TensorProto.FLOAT
        return SCALE + tensor


class _Branch:
    """One branch of a switch: nodes with names of their own and the constants they read."""

    def __init__(self, builder: Builder, unit: Unit, word: str) -> None:
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
