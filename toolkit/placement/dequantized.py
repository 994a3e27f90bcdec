"""The Q/DQ pair that a tensor comes from: its DequantizeLinear, its type, its float input, and its faults."""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs
from onnx import TensorProto

from toolkit.base.block_scales import can_store
from toolkit.base.precision import Precision
from toolkit.contract.findings import Code, Finding
from toolkit.graph.layers.constants import is_stored
from toolkit.graph.model import Model
from toolkit.graph.surgery.tensors import onnx_type
from toolkit.placement.existing import ExistingPair, HalfPair, pair_at
from toolkit.placement.grid import Grid, block_type, grid_of
from toolkit.placement.moved import data_inputs, picks, rank_of
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE


def dequantizer(tensor: gs.Tensor) -> gs.Node | None:
    """The DequantizeLinear that a tensor comes from, directly or through operators that only move values."""
    while tensor.inputs:
        node = tensor.inputs[0]
        if node.op == DEQUANTIZE:
            return node
        if node.op not in ("Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Dropout"):
            return None
        tensor = node.inputs[0]
    return None


def pair_type(node: gs.Node) -> Precision | None:
    """The quantized type of a QuantizeLinear or DequantizeLinear; None if it is not given or not supported."""
    blocks = block_type(node)
    if blocks is not None:
        return blocks
    return Precision.from_onnx(stored_type(node), int(node.attrs.get("block_size", 0) or 0))


def stored_type(node: gs.Node) -> int:
    """The ONNX element type of the quantized values of a pair; 0 if it is not given."""
    stored = node.outputs[0] if node.op == QUANTIZE else node.inputs[0]
    if len(node.inputs) > 2 and not node.inputs[2].is_empty():
        stored = node.inputs[2]
    return onnx_type(stored.dtype)


def source(tensor: gs.Tensor) -> gs.Tensor:
    """The float tensor that a pair quantized to give this one, even with operators between the pair's halves.

    The tensor itself if it comes from no pair, or from a pair with several float inputs.
    """
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or node.op != DEQUANTIZE:
        return tensor
    stored = node.inputs[0]
    while stored.inputs:
        maker = stored.inputs[0]
        if maker.op == QUANTIZE:
            return maker.inputs[0]
        data = data_inputs(maker)
        if len(data) != 1:
            break
        stored = maker.inputs[data[0]]
    return tensor


def foreign_pair(tensor: gs.Tensor, model: Model) -> Finding | None:
    """What TensorRT refuses about the pair on a tensor; None if it has none, or one that TensorRT accepts."""
    node = dequantizer(tensor)
    if node is None:
        return None
    found = pair_at(model, node)
    cast = 0 if isinstance(found, HalfPair) else found.cast
    if isinstance(found, HalfPair) or cast:
        # TensorRT sees the type that the DequantizeLinear reads
        grid = grid_of(model, node, onnx_type(node.inputs[0].dtype) or cast)
    else:
        grid = found.grid
    fault = fault_of(model, node, grid)
    if fault is None:
        return None
    if isinstance(found, HalfPair) and input_border(model, node) is None:
        # then removing pairs would not help
        fault["left"] = Code.NO_PAIR(why=found.why, at=found.at, op=found.op)
    return Code.FOREIGN_PAIR(tensor=tensor.name, **fault)


def input_border(model: Model, node: gs.Node) -> ExistingPair | None:
    """A DequantizeLinear of the model's inputs as a pair without its other half, if TensorRT refuses it as it stands.

    None for any other, and for those that float operators cannot replace: of other types than 8-bit integers, with
    blocks, with a scale or zero point that is computed, or behind operators that round.
    """
    if not isinstance(pair_at(model, node), HalfPair):
        return None
    found = pair_at(model, node, inputs=True)
    if isinstance(found, HalfPair) or not spellable(model, node, found.grid):
        return None
    # a Resize that interpolates rounds between integers, and a float one does not
    exact = all(picks(one) for one in found.between if one.op in ("Resize", "Upsample"))
    return found if exact else None


def spellable(model: Model, node: gs.Node, grid: Grid) -> bool:
    """Whether TensorRT refuses a half of a pair that float operators can replace exactly."""
    known = grid.scale is not None and grid.zero is not None
    channels = grid.axis is None or rank_of(model, node.inputs[0]) is not None
    plain = known and channels and not grid.block and grid.kind in (TensorProto.UINT8, TensorProto.INT8)
    return plain and fault_of(model, node, grid) is not None


def fault_of(model: Model, node: gs.Node, grid: Grid) -> dict[str, Any] | None:
    """What TensorRT refuses about a half of a pair, as values for FOREIGN_PAIR."""
    precision = grid.precision
    if grid.kind == TensorProto.UINT8:
        return {"fault": "uint8"}
    if grid.kind and (precision is None or not precision.quantized):
        return {"fault": "unsupported", "has": grid.kind_name}
    scale = model.constant(grid.tensors[0]) if block_type(node) is None else None
    if precision is not None and precision.block and scale is not None and not can_store(scale, precision):
        return {"fault": "block-scales", "has": str(precision)}
    if grid.zero is None:
        return {"fault": "computed-zero-point"}
    if grid.zero.any():
        return {"fault": "zero-point"}
    if len(grid.tensors) > 1 and not is_stored(grid.tensors[1]):
        return {"fault": "unfolded-zero-point"}
    return None
