"""Forms of a graph that TensorRT's ONNX parsers need and ONNX leaves open."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.graph.model import Model
from toolkit.graph.names import Names
from toolkit.graph.tensors import make_constant, make_node
from toolkit.placement.existing import pairs_of
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE

_SAME_SHAPE = (QUANTIZE, DEQUANTIZE, "Cast", "Identity")


def state_kernel_shapes(model: Model, journal: Journal) -> int:
    """Write the attribute kernel_shape to every Conv and ConvTranspose that leaves it to its weights.

    ONNX allows to leave it out. TensorRT's parser reads it off weights that are constants, but of weights behind a
    DequantizeLinear it takes only the attribute: without it 8.6 refuses the node.

    Returns:
        How many nodes got it.
    """
    count = 0
    for node, _ in model.walk():
        if node.op not in ("Conv", "ConvTranspose") or "kernel_shape" in node.attrs or len(node.inputs) < 2:
            continue
        shape = _constant_shape(node.inputs[1])
        if shape is None or len(shape) < 3:
            journal.noted(Code.KERNEL_SHAPE_UNKNOWN(), node.name)
            continue
        node.attrs["kernel_shape"] = list(shape[2:])
        count += 1
    if count:
        journal.noted(Code.KERNEL_SHAPE(convolutions=count))
    return count


def _constant_shape(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """The shape of a constant that reaches ``tensor`` through nodes that keep shapes, else of the tensor itself."""
    current = tensor
    while not isinstance(current, gs.Constant) and current.inputs and current.inputs[0].op in _SAME_SHAPE:
        current = current.inputs[0].inputs[0]
    for found in (current, tensor):
        shape = found.shape
        if shape is not None and all(isinstance(size, (int, np.integer)) for size in shape):
            return tuple(int(size) for size in shape)
    return None


def float_weights(model: Model, journal: Journal) -> int:
    """Let stored INT8 weights be float32 in front of a Q/DQ pair of the same scale, the form weak typing takes.

    Quantizing the new weights gives the stored integers again.

    Returns:
        How many weights there were.
    """
    count, tensors, nodes = 0, model.tensor_names(), Names(model.node_names())
    for pair in list(pairs_of(model, subgraphs=False)):
        stored = model.constant(pair.dequantize.inputs[0])
        if pair.quantize is not None or stored is None or stored.dtype != np.int8 or pair.scale is None:
            continue
        if pair.zero is None and len(pair.dequantize.inputs) > 2 and not pair.dequantize.inputs[2].is_empty():
            journal.noted(Code.COMPUTED_ZERO_POINT(), pair.dequantize.name)
            continue
        if pair.scale.ndim > 1:
            journal.noted(Code.BLOCKS(), pair.dequantize.name)
            continue
        source = pair.dequantize.inputs[0]
        values = (stored.astype(np.float32) - _spread(pair.zero, stored, pair.axis)) * _spread(
            pair.scale, stored, pair.axis
        )
        weights = make_constant(tensors.take(f"{source.name}_float"), values.astype(np.float32), 1)
        name = nodes.take(f"{pair.dequantize.name}_{QUANTIZE}")
        integers = gs.Variable(tensors.take(f"{source.name}_quantized"), dtype=np.dtype(np.int8))
        if pair.zero is None:
            zero = make_constant(tensors.take(f"{source.name}_zero_point"), np.zeros(pair.scale.shape, np.int8))
            while len(pair.dequantize.inputs) > 2:
                pair.dequantize.inputs.pop()
            pair.dequantize.inputs.append(zero)
        scales = pair.dequantize.inputs[1:]
        attrs = {"axis": pair.dequantize.attrs["axis"]} if "axis" in pair.dequantize.attrs else {}
        model.graph.nodes.append(make_node(QUANTIZE, name, [weights, *scales], [integers], **attrs))
        pair.dequantize.inputs[0] = integers
        count += 1
    if count:
        journal.noted(Code.FLOAT_WEIGHTS(weights=count))
        model.tidy()
    return count


def _spread(values: np.ndarray[Any, Any] | None, like: np.ndarray[Any, Any], axis: int | None) -> Any:
    """Scales or zero points in a shape that broadcasts over the weights."""
    if values is None:
        return np.float32(0)
    if values.size == 1 or axis is None:
        return np.float32(values.reshape(-1)[0])
    shape = [1] * like.ndim
    shape[axis] = -1
    return values.astype(np.float32).reshape(shape)
