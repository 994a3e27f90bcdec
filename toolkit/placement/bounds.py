"""Bounds on the values of tensors, derived from the operators that produce them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_graphsurgeon as gs

from toolkit.base.parts import ends_of
from toolkit.graph.model import Model
from toolkit.placement.existing import HalfPair, pair_at
from toolkit.placement.grid import grid_of
from toolkit.placement.moved import data_inputs
from toolkit.placement.ops import DEQUANTIZE, POOLS

Interval = tuple[float, float]
ANY: Interval = (-math.inf, math.inf)
TRUSTED: Interval = (math.inf, -math.inf)
"""For model inputs: no activation can be missing before them, so they are taken to lie within any pair's range."""
_FIXED: dict[str, Interval] = {
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "Softmax"), (0.0, 1.0)),
    **dict.fromkeys(("Tanh", "Erf", "Softsign"), (-1.0, 1.0)),
    **dict.fromkeys(("Softplus", "Exp", "Abs", "Sqrt"), (0.0, math.inf)),
    "HardSwish": (-0.375, math.inf),
}
_AVERAGES = POOLS | {"ReduceMean"}
_PASS_ON = frozenset({"Cast", "Identity", "Dropout"})


class Bounds:
    """Intervals of a model's tensors.

    Args:
        clamps: by the QuantizeLinear's name, the part of a pair's clamping that the float model keeps.
    """

    def __init__(self, model: Model, clamps: Mapping[str, Interval]) -> None:
        self.model, self.clamps = model, clamps
        self._known: dict[int, Interval] = {}

    def of(self, tensor: gs.Tensor) -> Interval:
        """The smallest and largest value that the tensor can have; infinite if unknown."""
        if id(tensor) not in self._known:
            self._known[id(tensor)] = ANY  # for a loop that a broken graph may have
            self._known[id(tensor)] = self._made(tensor)
        return self._known[id(tensor)]

    def _made(self, tensor: gs.Tensor) -> Interval:
        values = self.model.constant(tensor)
        if values is not None:
            return ends_of(values, finite=False) or TRUSTED
        if not tensor.inputs:
            return TRUSTED
        node = tensor.inputs[0]
        if node.op in _FIXED:
            return _FIXED[node.op]
        if node.op == DEQUANTIZE:
            return self._pair(node)
        if node.op in _PASS_ON:
            return self.of(node.inputs[0])
        if node.op in ("Relu", "Clip"):
            return _within(self.of(node.inputs[0]), self.limits(node))
        if node.op in _AVERAGES:
            return _hull([self.of(node.inputs[0]), (0.0, 0.0)])
        if node.op in ("Add", "Sum"):
            return self._sum(node)
        moved = [self.of(node.inputs[index]) for index in data_inputs(node)]
        # an operator that moves values may pad with zeros
        return _hull([*moved, (0.0, 0.0)]) if moved else ANY

    def _pair(self, node: gs.Node) -> Interval:
        pair = pair_at(self.model, node)
        reach = grid_of(self.model, node).reach if isinstance(pair, HalfPair) else pair.grid.reach
        own = ANY if reach is None else (float(reach[0].min()), float(reach[1].max()))
        if isinstance(pair, HalfPair) or not pair.quantizers:
            return own
        sides = [_within(self.of(one.inputs[0]), self.clamps.get(one.name, ANY)) for one in pair.quantizers]
        return _hull([*sides, *([own] if pair.constants else []), *([(0.0, 0.0)] if pair.between else [])])

    def limits(self, node: gs.Node) -> Interval:
        """The interval to which a Relu or Clip clamps; unbounded for other operators."""
        if node.op != "Clip":
            return (0.0, math.inf) if node.op == "Relu" else ANY
        found = []
        # attributes before opset 11
        for index, name, other in ((1, "min", -math.inf), (2, "max", math.inf)):
            if name in node.attrs:
                found.append(float(node.attrs[name]))
                continue
            given = node.inputs[index] if index < len(node.inputs) else None
            values = self.model.constant(given) if given is not None and not given.is_empty() else None
            found.append(other if values is None or not values.size else float(values.reshape(-1)[0]))
        return found[0], found[1]

    def _sum(self, node: gs.Node) -> Interval:
        parts = [self.of(t) for t in node.inputs]
        if any(low > high for low, high in parts):
            return ANY
        return sum(low for low, _ in parts), sum(high for _, high in parts)


def _hull(intervals: list[Interval]) -> Interval:
    if all(low > high for low, high in intervals if (low, high) != (0.0, 0.0)):
        return TRUSTED
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def _within(interval: Interval, limits: Interval) -> Interval:
    if interval == TRUSTED:
        return TRUSTED
    low, high = (min(max(end, limits[0]), limits[1]) for end in interval)
    return low, high
