"""The Q/DQ pairs in a model, whatever tool inserted them, also with operators between their halves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.graph.layers.constants import constant_value, is_stored
from toolkit.graph.model import Model
from toolkit.graph.surgery.tensors import onnx_type, values_of
from toolkit.placement.grid import Grid, block_type, fits, grid_of, holds, integer, limiter
from toolkit.placement.moved import axis_before, data_inputs, rank_of
from toolkit.placement.ops import CAST, DEQUANTIZE, QUANTIZE

Obstacle = Literal["operator", "input", "scales", "channels"]
"""Why a DequantizeLinear has no matching half: an operator computes with the quantized values, the values come from
outside, scales or zero points differ, or channels cannot be followed through an operator."""


@dataclass(frozen=True)
class HalfPair:
    """A QuantizeLinear or DequantizeLinear that is not half of a pair.

    Attributes:
        node: the node.
        why: what keeps it from being half of a pair.
        at: the name of the node that breaks the pair, or of the tensor that comes from outside.
        op: that node's operator; empty for a tensor.
    """

    node: gs.Node
    why: Obstacle
    at: str
    op: str = ""


@dataclass
class ExistingPair:
    """A Q/DQ pair in a graph. ``quantize`` is None for a constant that is stored quantized.

    Attributes:
        quantize: the QuantizeLinear node; the first if several feed the same DequantizeLinear.
        dequantize: the DequantizeLinear node.
        scale: its scale, float32, shape [] or [channels]; None if it is computed.
        zero: its zero point, or None.
        axis: the channel axis, if there is one scale per channel.
        grid: the values that it can represent.
        quantizers: all QuantizeLinear nodes that feed it.
        constants: the constants stored quantized that feed it.
        between: the operators between the halves, which move quantized values.
    """

    quantize: gs.Node | None
    dequantize: gs.Node
    scale: Array | None
    zero: Array | None
    axis: int | None
    grid: Grid
    quantizers: tuple[gs.Node, ...]
    constants: tuple[gs.Tensor, ...]
    between: tuple[gs.Node, ...]

    @property
    def tensor(self) -> gs.Tensor:
        """The float tensor that is quantized, or the stored integer constant."""
        return self.quantize.inputs[0] if self.quantize is not None else self.constants[0]

    @property
    def cast(self) -> int:
        """The ONNX element type that a Cast between the halves gives to the DequantizeLinear; 0 without a Cast."""
        return next((int(node.attrs["to"]) for node in self.between if node.op == CAST), 0)


def pairs_of(model: Model, subgraphs: bool = True) -> Iterator[ExistingPair]:
    """Every Q/DQ pair of the model, or of its main graph only, in graph order."""
    every = model.once("pairs", lambda: list(_pairs(model)))
    main = None if subgraphs else {id(node) for node in model.graph.nodes}
    yield from (pair for pair in every if main is None or id(pair.dequantize) in main)


def _pairs(model: Model) -> Iterator[ExistingPair]:
    for node, _ in model.walk():
        if node.op == DEQUANTIZE:
            found = pair_at(model, node)
            if isinstance(found, ExistingPair):
                yield found


def quantized_tensors(model: Model) -> set[str]:
    """The float tensors that a QuantizeLinear of the model's pairs reads."""
    return {quantize.inputs[0].name for pair in pairs_of(model) for quantize in pair.quantizers}


def half_pairs(model: Model) -> Iterator[HalfPair]:
    """Every DequantizeLinear without a matching QuantizeLinear, and every QuantizeLinear without a DequantizeLinear."""
    for node, _ in model.walk():
        if node.op == DEQUANTIZE:
            found = pair_at(model, node)
            if isinstance(found, HalfPair):
                yield found
        elif node.op == QUANTIZE:
            reader = _lost(node)
            if reader is not None:
                yield reader


def pair_at(model: Model, dequantize: gs.Node, inputs: bool = False) -> ExistingPair | HalfPair:
    """The pair that ends with a DequantizeLinear, or why there is none.

    Args:
        inputs: whether the model's inputs count as quantized values; those of a pair without any other are in no list.
    """
    grid = grid_of(model, dequantize, onnx_type(dequantize.inputs[0].dtype))
    axis = grid.axis
    found = _Tracer(model, dequantize, grid, model.graph.inputs if inputs else ())
    lost = found.follow(dequantize.inputs[0], axis)
    lost = lost or found.crossing()
    if lost is not None:
        return lost
    quantizers = tuple(found.quantizers.values())
    if found.own_kinds and found.casts:
        # values that are cast to a wider integer reach no further than before
        grid = replace(grid, kind=found.own_kinds[0])
    if not grid.kind:
        kind = found.kinds[0] if found.kinds else 0
        grid = grid_of(model, dequantize, kind)
    zero = dequantize.inputs[2] if len(dequantize.inputs) > 2 and not dequantize.inputs[2].is_empty() else None
    return ExistingPair(
        quantizers[0] if quantizers else None,
        dequantize,
        None if grid.scale is None else grid.scale.astype(np.float32),
        None if zero is None else constant_value(model, zero),
        axis if grid.scale is not None else None,
        grid,
        quantizers,
        tuple(found.constants.values()),
        tuple(found.between.values()),
    )


class _Tracer:
    """Follows quantized values from a DequantizeLinear back to where they were quantized."""

    def __init__(self, model: Model, dequantize: gs.Node, grid: Grid, inputs: Sequence[gs.Tensor] = ()) -> None:
        self.model, self.dequantize, self.grid, self.inputs = model, dequantize, grid, inputs
        self.quantizers: dict[int, gs.Node] = {}
        self.constants: dict[int, gs.Tensor] = {}
        self.between: dict[int, gs.Node] = {}
        self.casts: list[gs.Node] = []
        self.kinds: list[int] = []
        self.quantized: list[int] = []

    @property
    def own_kinds(self) -> list[int]:
        """The types that values were quantized to; those of constants if all values are stored quantized."""
        return self.quantized or self.kinds

    def follow(self, tensor: gs.Tensor, axis: int | None) -> HalfPair | None:
        """Follow a tensor upstream, with its channels on ``axis``; returns what breaks the pair, or None."""
        pending = [(tensor, axis)]
        while pending:
            current, along = pending.pop()
            node = current.inputs[0] if current.inputs else None
            if is_stored(current):
                self.constants[id(current)] = current
                self.kinds.append(onnx_type(current.dtype))
            elif any(current is one for one in self.inputs):
                self.kinds.append(onnx_type(current.dtype))
                self.quantized.append(onnx_type(current.dtype))
            elif node is None:
                return HalfPair(self.dequantize, "input", current.name)
            elif node.op == QUANTIZE:
                lost = self._quantizer(node, along)
                if lost is not None:
                    return lost
            elif self.grid.limits is not None and node is limiter(self.dequantize):
                pending.append((current.inputs[0].inputs[0], along))
            elif node.op == CAST:
                self.casts.append(node)
                self.between[id(node)] = node
                pending.append((node.inputs[0], along))
            else:
                data = data_inputs(node)
                if not data:
                    return HalfPair(self.dequantize, "operator", node.name, node.op)
                if id(node) in self.between:
                    continue
                before = self._before(node, along, data)
                if along is not None and before is None and not self._all_constant():
                    return HalfPair(self.dequantize, "channels", node.name, node.op)
                self.between[id(node)] = node
                pending += [(node.inputs[index], before) for index in data]
        return None

    def crossing(self) -> HalfPair | None:
        """The Cast on the way, if any, whose output may lie outside the one type that values were quantized to."""
        for node in self.casts:
            kept = len(set(self.own_kinds)) == 1 and holds(int(node.attrs["to"]), self.own_kinds[0])
            if not kept or not all(self._fits(tensor) for tensor in self.constants.values()):
                return HalfPair(self.dequantize, "operator", node.name, node.op)
        return None

    def _fits(self, constant: gs.Tensor) -> bool:
        """Whether constants that join values after a Cast to a wider type are within the quantized type."""
        values = constant_value(self.model, constant)
        return values is not None and fits(values, self.own_kinds[0])

    def _quantizer(self, node: gs.Node, along: int | None) -> HalfPair | None:
        own = self.grid if self._same_grid(node) else grid_of(self.model, node)
        rank = rank_of(self.model, node.inputs[0])
        if not own.agrees(self.grid) or not _same_axis(own.axis, along, rank):
            return HalfPair(self.dequantize, "scales", node.name, node.op)
        self.quantizers[id(node)] = node
        self.kinds.append(own.kind)
        self.quantized.append(own.kind)
        return None

    def _same_grid(self, quantize: gs.Node) -> bool:
        """Whether a QuantizeLinear declares the same grid as the DequantizeLinear, as in nearly all pairs."""
        mine, other = self.dequantize, quantize
        return (
            len(mine.inputs) == len(other.inputs) == 3
            and all(a is b for a, b in zip(mine.inputs[1:], other.inputs[1:]))
            and not mine.inputs[2].is_empty()
            and mine.attrs == other.attrs
        )

    def _before(self, node: gs.Node, along: int | None, data: list[int]) -> int | None:
        """The channel axis before an operator; None if there is none, or it is not known."""
        if along is None or self.grid.block or (len(data) > 1 and node.op != "Concat"):
            return None
        if along < 0:
            rank = rank_of(self.model, node.outputs[0])
            if rank is None:
                return None
            along += rank
        return axis_before(self.model, node, along)

    def _all_constant(self) -> bool:
        """Whether all inputs are constant: the values can then be dequantized here."""
        return constant_value(self.model, self.dequantize.inputs[0]) is not None


def _same_axis(own: int | None, along: int | None, rank: int | None) -> bool:
    if own is None or along is None or own == along:
        return own is along or own == along
    return rank is not None and own % rank == along % rank


def _lost(quantize: gs.Node) -> HalfPair | None:
    """The other node that reads a QuantizeLinear, if no DequantizeLinear does at all."""
    pending, seen = [quantize], {id(quantize)}
    other: gs.Node | None = None
    while pending:
        node = pending.pop()
        for reader in (reader for tensor in node.outputs for reader in tensor.outputs):
            if reader.op == DEQUANTIZE:
                return None
            if data_inputs(reader) or (reader.op == CAST and integer(int(reader.attrs["to"]))):
                if id(reader) not in seen:
                    seen.add(id(reader))
                    pending.append(reader)
            else:
                other = other or reader
    if other is None:
        return HalfPair(quantize, "input", quantize.outputs[0].name)
    return HalfPair(quantize, "operator", other.name, other.op)


def existing(tensor: gs.Tensor, precision: Precision | None = None) -> gs.Node | None:
    """The QuantizeLinear of a symmetric per-tensor pair that a float tensor already has, or None.

    With ``precision``, only a pair of that type counts.
    """
    for quantize in tensor.outputs:
        if quantize.op != QUANTIZE or quantize.inputs[0] is not tensor:
            continue
        blocks = block_type(quantize)
        if blocks is not None:
            if blocks is precision:
                return quantize
            continue
        scale, zero = quantize.inputs[1], quantize.inputs[2] if len(quantize.inputs) > 2 else None
        if not isinstance(scale, gs.Constant) or int(np.prod(scale.shape or (1,))) != 1:
            continue
        if not isinstance(zero, gs.Constant) or np.any(values_of(zero).astype(np.float32) != 0):
            continue
        kind = Precision.from_onnx(onnx_type(zero.dtype))
        if kind is None or not kind.quantized or (precision is not None and kind is not precision):
            continue
        return quantize
    return None
