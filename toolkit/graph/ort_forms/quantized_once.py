"""Weights read by a QuantizeLinear, quantized once: sessions that keep no copies of weights would do it in every run.

Where weights are too many for copies, onnxruntime folds no constants, and of a large model with pairs on its float
weights it quantizes all of them for every sample, at some 30 ns a value. What is stored here takes a quarter of the
weights, on disk where it is much, and is shared by all sessions.
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
    """Put the values that QuantizeLinear makes of large float32 weights in its place; the model is changed.

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
    """What a node makes of a weight, in eight bits; None where it does something else."""
    weight = weights.get(node.input[0])
    # the scales of a wide layer are as many as a large constant has values, and beside the message like it
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
            # it is not known whether it will still be the same
            return found
        _known[key] = spilled(found)
        weakref.finalize(weight, _known.pop, key, None).atexit = False
    return _known[key]


def _rounded(weight: Array, scale: Array, zero: Array) -> Array | None:
    limits, found = np.iinfo(zero.dtype), np.empty(weight.shape, zero.dtype)
    for part in parts_of(weight):
        steps = looked_at(weight[part]) / along(part, scale, weight)
        if not np.isfinite(steps).all():
            # what comes of these is the kernel's business
            return None
        np.rint(steps, out=steps)
        if zero.any():
            steps += along(part, zero, weight)
        found[part] = np.clip(steps, limits.min, limits.max, out=steps)
    return found


def _values(name: str, weights: Mapping[str, Array], constants: Mapping[str, TensorProto]) -> Array | None:
    """The values of a constant, in the message or beside it; None where it is none."""
    if name in weights:
        return weights[name]
    tensor = constants.get(name)
    if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
        return None
    return np.asarray(numpy_helper.to_array(tensor))
