"""A weakly typed network gets its layer precisions and, for implicit quantization, its dynamic ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from toolkit.backends.network import metadata_nodes

_TYPES = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}
_FLOATS = ("FLOAT", "HALF", "BF16")
_NO_KERNEL = ("SHAPE", "CONSTANT", "QUANTIZE", "DEQUANTIZE", "CONDITION", "TRIP_LIMIT", "ITERATOR", "ASSERTION")
_QUANTIZABLE = ("CONVOLUTION", "DECONVOLUTION", "FULLY_CONNECTED", "MATRIX_MULTIPLY")
_SAME_VALUES = ("SHUFFLE", "IDENTITY", "SLICE", "GATHER", "SQUEEZE", "UNSQUEEZE", "CAST")


def set_precisions(trt: Any, network: Any, plan: Mapping[str, str], rest: str, implicit: bool) -> int:
    """Set the compute precision and output types of every layer whose node was asked for a float type.

    Asks for a quantized type are not set: pairs, or ranges, make them. With implicit quantization TensorRT would give
    INT8 to any layer whose tensors have ranges, so convolutions and products that nobody asked INT8 for get ``rest``.
    Where ``rest`` is fp32 and somebody asked for less, the layers of all other nodes get FP32.

    Args:
        trt: the TensorRT module.
        network: the parsed ``trt.INetworkDefinition``; it is changed.
        plan: node name to precision.
        rest: the precision of nodes that nobody asked about.
        implicit: whether quantization is implicit.

    Returns:
        How many layers were set.
    """
    outputs = {network.get_output(i).name for i in range(network.num_outputs)}
    spread = rest == "fp32" and any(word in ("fp16", "bf16") for word in plan.values())
    count = 0
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name in _NO_KERNEL:
            continue
        made = [layer.get_output(i) for i in range(layer.num_outputs)]
        if not made or any(t is None or t.dtype.name not in _FLOATS or t.is_shape_tensor for t in made):
            continue
        word = next((plan[node] for node in _nodes(layer) if node in plan), None)
        if word is None and (spread or (implicit and layer.type.name in _QUANTIZABLE)):
            word = rest
        if word not in _TYPES:
            continue
        kind = getattr(trt.DataType, _TYPES[word])
        layer.precision = kind
        for position, tensor in enumerate(made):
            # A network output keeps the type that the model gives it.
            if tensor.name not in outputs:
                layer.set_output_type(position, kind)
        count += 1
    return count


def set_ranges(trt: Any, network: Any, amax: Mapping[str, float]) -> list[str]:
    """Set the dynamic range of every float tensor that has one, or that has the values of one that has.

    Tensors inside one ONNX node (the product before Gemm's bias) and before a ReLU get the range of the tensor after
    them: these run in one kernel. Constants get their own.

    Returns:
        Names of the float tensors that are left without a range.
    """
    known = {name: float(value) for name, value in amax.items() if value > 0}
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    for layer in layers:
        if layer.type.name == "CONSTANT" and layer.get_output(0).dtype.name in _FLOATS:
            layer.__class__ = trt.IConstantLayer
            values = np.abs(np.asarray(layer.weights, dtype=np.float64))
            if values.size and values.max() > 0:
                known.setdefault(layer.get_output(0).name, float(values.max()))
    for layer in layers:
        if _keeps_values(trt, layer) and layer.get_input(0) is not None:
            source, result = layer.get_input(0).name, layer.get_output(0).name
            if source in known:
                known.setdefault(result, known[source])
    for layer in reversed(layers):
        before, after = layer.get_input(0), layer.get_output(0) if layer.num_outputs else None
        if before is None or after is None or after.name not in known:
            continue
        if _keeps_values(trt, layer) or _rectifies(trt, layer) or _inner(layers, layer, before):
            known.setdefault(before.name, known[after.name])
    tensors = {network.get_input(i).name: network.get_input(i) for i in range(network.num_inputs)}
    tensors |= {t.name: t for layer in layers for i in range(layer.num_outputs) if (t := layer.get_output(i))}
    missing = []
    for name, tensor in tensors.items():
        if name in known:
            tensor.set_dynamic_range(-known[name], known[name])
        elif tensor.dtype.name in _FLOATS and not tensor.is_shape_tensor:
            missing.append(name)
    return missing


def _nodes(layer: Any) -> tuple[str, ...]:
    """The ONNX nodes of a layer: by its metadata, or by its name where the version has none."""
    return metadata_nodes(str(getattr(layer, "metadata", ""))) or (layer.name,)


def _keeps_values(trt: Any, layer: Any) -> bool:
    if layer.type.name == "POOLING":
        layer.__class__ = trt.IPoolingLayer
        return bool(layer.type == trt.PoolingType.MAX)
    return layer.type.name in _SAME_VALUES


def _rectifies(trt: Any, layer: Any) -> bool:
    if layer.type.name != "ACTIVATION":
        return False
    layer.__class__ = trt.IActivationLayer
    return bool(layer.type in (trt.ActivationType.RELU, trt.ActivationType.CLIP))


def _inner(layers: list[Any], layer: Any, tensor: Any) -> bool:
    """Whether a tensor lies inside the ONNX node that ``layer`` belongs to."""
    mine = set(_nodes(layer))
    makers = [one for one in layers for i in range(one.num_outputs) if one.get_output(i).name == tensor.name]
    return any(mine & set(_nodes(one)) for one in makers)
