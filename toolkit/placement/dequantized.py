"""The Q/DQ pair that a tensor comes from: its DequantizeLinear, its type, the float tensor behind it, what is wrong."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.base.precision import Precision
from toolkit.graph.model import Model
from toolkit.graph.tensors import onnx_type
from toolkit.placement.moved import data_inputs
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE

ForeignPair = Literal["uint8", "computed-zero-point", "zero-point"]
"""What TensorRT refuses: an unsigned type, a zero point that is computed, or one that is not 0."""


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
    """The quantized type that a DequantizeLinear reads, or None where it is not said or not one of ours."""
    stored = node.inputs[0]
    if len(node.inputs) > 2 and not node.inputs[2].is_empty():
        return Precision.from_onnx(onnx_type(node.inputs[2].dtype))
    return Precision.from_onnx(onnx_type(stored.dtype)) if stored.dtype is not None else None


def source(tensor: gs.Tensor) -> gs.Tensor:
    """The float tensor that was quantized to make this one, also where operators lie between the pair's halves.

    The tensor itself where it comes from no pair, or from one that several tensors go into.
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


def foreign_pair(tensor: gs.Tensor, model: Model) -> ForeignPair | None:
    """What TensorRT refuses about the pair on a tensor; None where it has none, or one that TensorRT takes."""
    node = dequantizer(tensor)
    if node is None or len(node.inputs) < 3:
        return None if node is None or not _unsigned(node.inputs[0]) else "uint8"
    zero = model.constant(node.inputs[2])
    if zero is None:
        return "computed-zero-point"
    if zero.dtype == np.uint8:
        return "uint8"
    if np.any(zero.astype(np.float32) != 0):
        return "zero-point"
    return None


def _unsigned(tensor: gs.Tensor) -> bool:
    return tensor.dtype is not None and not isinstance(tensor.dtype, int) and np.dtype(tensor.dtype) == np.uint8
