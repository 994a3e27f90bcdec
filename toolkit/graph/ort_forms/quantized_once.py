"""Quantize weights that a QuantizeLinear reads once, in sessions that would otherwise do it in every run.

If weights are too large for copies, onnxruntime does not fold constants. For a large model with Q/DQ pairs on float
weights it then quantizes all weights for every sample, at about 30 ns per value. The quantized weights take a quarter
of the memory, are stored on disk if large, and are shared by all sessions.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from toolkit.base.mapped import looked_at
from toolkit.base.parts import along, parts_of
from toolkit.base.types import Array
from toolkit.graph.proto.light import LightModel, large_header
from toolkit.graph.proto.nodes import reads_of
from toolkit.graph.proto.on_disk import spilled

_STORED = {TensorProto.INT8: np.int8, TensorProto.UINT8: np.uint8}
_known: dict[tuple[int, bytes], Array] = {}


def quantize_weights(model: LightModel) -> None:
    """Replace QuantizeLinear nodes on large float32 weights by their results; the model is changed.

    A QuantizeLinear that nobody reads is dropped.

    https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html: x / scale in float32, rounded to the nearest, ties to
    even, the zero point added, saturated.
    """
    graph = model.proto.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    read = outputs.union(*map(reads_of, graph.node))
    made: dict[str, Array] = {}
    unread = set[str]()
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and not node.domain and node.output[0] not in outputs:
            if node.output[0] not in read:
                # onnxruntime refuses to be given values that nothing reads, and would compute them in every run
                unread.add(node.output[0])
                continue
            found = _quantized(node, model.weights, constants)
            if found is not None:
                made[node.output[0]] = found
    if not made and not unread:
        return
    gone = made.keys() | unread
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node if gone.isdisjoint(node.output)]
    del graph.node[:]
    graph.node.extend(nodes)
    read = outputs.union(*map(reads_of, nodes))
    for name in [name for name in model.weights if name not in read]:
        del model.weights[name]
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for name, values in made.items():
        kind = TensorProto.INT8 if values.dtype == np.int8 else TensorProto.UINT8
        graph.initializer.append(large_header(name, kind, values.shape))
        model.weights[name] = values


def _quantized(
    node: onnx.NodeProto, weights: Mapping[str, Array], constants: Mapping[str, TensorProto]
) -> Array | None:
    """A node's result for a weight, as 8-bit integers; None if the node does not quantize a weight to 8 bits."""
    weight = weights.get(node.input[0])
    # the scales of a wide layer may be large too, and are then stored outside the message
    given = [_values(name, weights, constants) for name in node.input[1:] if name]
    attributes = {entry.name: entry for entry in node.attribute}
    if weight is None or weight.dtype != np.float32 or any(value is None for value in given):
        return None
    scale, zero = given[0], given[1] if len(given) > 1 else np.zeros((), np.uint8)
    assert scale is not None and zero is not None
    if zero.dtype not in _STORED.values() or scale.dtype != np.float32 or scale.ndim > 1:
        return None
    if attributes.keys() - {"axis", "saturate"}:
        return None
    axis = attributes["axis"].i if "axis" in attributes else 1
    key = id(weight), b"".join([scale.tobytes(), zero.tobytes(), zero.dtype.str.encode(), str(axis).encode()])
    if key not in _known:
        shape = [1] * weight.ndim
        if scale.size > 1:
            shape[axis] = -1
        found = _rounded(weight, scale.reshape(shape), zero.reshape(shape))
        if found is None or weight.flags.writeable:
            # a writable array may change later
            return found
        _known[key] = spilled(found)
        weakref.finalize(weight, _known.pop, key, None).atexit = False
    return _known[key]


def _rounded(weight: Array, scale: Array, zero: Array) -> Array | None:
    limits, found = np.iinfo(zero.dtype), np.empty(weight.shape, zero.dtype)
    for part in parts_of(weight):
        steps = looked_at(weight[part]) / along(part, scale, weight)
        if not np.isfinite(steps).all():
            # leave non-finite values to the kernel
            return None
        np.rint(steps, out=steps)
        if zero.any():
            steps += along(part, zero, weight)
        found[part] = np.clip(steps, limits.min, limits.max, out=steps)
    return found


def _values(name: str, weights: Mapping[str, Array], constants: Mapping[str, TensorProto]) -> Array | None:
    """The values of a constant, in the message or outside; None if it is not a constant."""
    if name in weights:
        return weights[name]
    tensor = constants.get(name)
    if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
        return None
    return np.asarray(numpy_helper.to_array(tensor))
