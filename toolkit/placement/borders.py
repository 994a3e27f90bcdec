"""Quantized inputs and outputs of a model, written in float operators instead of half of a Q/DQ pair.

Converted TFLite models read and write uint8, or int8 with a zero point, which TensorRT's DequantizeLinear and
QuantizeLinear do not take; a Cast of the same input or output it does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from toolkit.base.types import Array
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.graph.model import Model
from toolkit.graph.proto.names import Names
from toolkit.graph.surgery import assemble
from toolkit.graph.surgery.tensors import make_constant, make_node, np_dtype
from toolkit.placement.codes import PlacementCode
from toolkit.placement.dequantized import input_border, spellable
from toolkit.placement.existing import ExistingPair, HalfPair, half_pairs, pairs_of
from toolkit.placement.grid import Grid, grid_of
from toolkit.placement.moved import rank_of
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE

_OPSET = 11
"""The first operator set with Round, and with a Clip whose limits are inputs."""


class Borders:
    """Writes halves of pairs as float operators, as ONNX defines them (DequantizeLinear-13, QuantizeLinear-13).

    Args:
        model: the graph, to which the operators are added.
        names: the names in use.

    Attributes:
        made: the names of the inserted nodes, each with the input or output of the model that it is for.
    """

    def __init__(self, model: Model, names: Names) -> None:
        self.model, self.names = model, names
        self.made: dict[str, str] = {}

    def dequantized(self, tensor: gs.Tensor, grid: Grid, axis: int | None) -> gs.Tensor:
        """(stored - zero point) * scale of an input of the model, in the scale's float type.

        Exact: an 8-bit integer and its difference from the zero point are float32 numbers.
        """
        zero, scale = (self._along(part, tensor, axis) for part in (grid.zero, grid.scale))
        steps = [("Cast", None), ("Sub", zero), ("Mul", scale)]
        return self._chain(self.model.graph, tensor, steps, grid.float_kind)

    def quantized(self, graph: gs.Graph, node: gs.Node, grid: Grid) -> None:
        """Let a QuantizeLinear's output be clip(round(x / scale) + zero point), rounded half to even."""
        result, tensor = node.outputs[0], node.inputs[0]
        ends = np.iinfo(np_dtype(grid.kind))
        zero, scale = (self._along(part, tensor, grid.axis) for part in (grid.zero, grid.scale))
        steps = [("Div", scale), ("Round", None), ("Add", zero), ("Clip", (ends.min, ends.max))]
        if grid.float_kind not in (0, TensorProto.FLOAT):
            steps.insert(0, ("Cast", None))
        node.outputs.clear()
        self._chain(graph, tensor, steps, grid.kind, result)

    def _along(self, part: Array | None, tensor: gs.Tensor, axis: int | None) -> Array:
        """Scales or zero points, float32, in a shape that broadcasts to the tensor's."""
        assert part is not None
        values = part.astype(np.float32)
        if axis is None or values.size == 1:
            return values.reshape(())
        shape = [1] * (rank_of(self.model, tensor) or 1)
        shape[axis] = -1
        return values.reshape(shape)

    def _chain(
        self,
        graph: gs.Graph,
        tensor: gs.Tensor,
        steps: Sequence[tuple[str, object]],
        kind: int,
        result: gs.Tensor | None = None,
    ) -> gs.Tensor:
        """Apply operators in float32 one after the other, each with its constants, and cast to ``kind`` at the end."""
        base = tensor.name if result is None else result.name
        shape, current = tensor.shape, tensor
        last = [] if kind in (0, TensorProto.FLOAT) else [("Cast", kind)]
        for op, given in [*steps, *last]:
            name = self.names.take(f"{base}_{op}")
            inputs, attrs = [current], {}
            if op == "Cast":
                attrs["to"] = given or int(TensorProto.FLOAT)
            elif given is not None:
                values = given if isinstance(given, tuple) else (given,)
                inputs += [make_constant(self.names.take(f"{name}_value"), np.asarray(v, np.float32)) for v in values]
            dtype = np_dtype(attrs.get("to", TensorProto.FLOAT))
            current = assemble.variable(self.names.take(f"{name}_output"), dtype=dtype, shape=shape)
            graph.nodes.append(make_node(op, name, inputs, [current], **attrs))
            self.made[name] = base
        if result is None:
            return current
        graph.nodes[-1].outputs[0] = result
        return result


def refused_borders(model: Model) -> list[gs.Node]:
    """The halves of pairs at the model's inputs and outputs that TensorRT refuses and float operators can replace."""
    halves = list(half_pairs(model))
    inputs = [half.node for half in halves if half.node.op == DEQUANTIZE and input_border(model, half.node) is not None]
    return [*inputs, *(node for node, _ in _outputs(model, halves))]


def pairs_and_borders(model: Model) -> list[ExistingPair]:
    """Every Q/DQ pair of the model, and every DequantizeLinear of its inputs that TensorRT refuses, in graph order."""
    found = {id(pair.dequantize): pair for pair in pairs_of(model)}
    nodes = [node for node, _ in model.walk() if node.op == DEQUANTIZE]
    each = [found.get(id(node)) or input_border(model, node) for node in nodes]
    return [pair for pair in each if pair is not None]


def write_border_outputs(model: Model, journal: Journal) -> None:
    """Write QuantizeLinears whose values leave the model, and which TensorRT refuses, as float operators, in place."""
    graphs = {id(node): graph for node, graph in model.walk()}
    names = Names(node.name for node, _ in model.walk())
    names.update(model.tensor_names())
    borders = Borders(model, names)
    for node, grid in _outputs(model, list(half_pairs(model))):
        borders.quantized(graphs[id(node)], node, grid)
    note_borders(borders, journal)
    if borders.made:
        model.tidy()


def _outputs(model: Model, halves: Sequence[HalfPair]) -> list[tuple[gs.Node, Grid]]:
    """The QuantizeLinears whose values leave the model, with their grids, that float operators must replace."""
    if model.opset < _OPSET:
        return []
    leaving = [half.node for half in halves if half.node.op == QUANTIZE and half.why == "input"]
    return [(node, grid) for node in leaving if spellable(model, node, grid := grid_of(model, node))]


def note_borders(borders: Borders, journal: Journal) -> None:
    """Record the operators that were inserted."""
    for name, tensor in borders.made.items():
        journal.changed(name, Code.INSERTED(), PlacementCode.BORDER_WRITTEN(tensor=tensor))
