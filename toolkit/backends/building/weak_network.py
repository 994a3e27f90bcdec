"""Sets layer precisions and, for implicit quantization, dynamic ranges in a weakly typed network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.backends.layers.network import metadata_nodes

_TYPES = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}
_FLOATS = ("FLOAT", "HALF", "BF16")
_NO_KERNEL = ("SHAPE", "CONSTANT", "QUANTIZE", "DEQUANTIZE", "CONDITION", "TRIP_LIMIT", "ITERATOR", "ASSERTION")
_QUANTIZABLE = ("CONVOLUTION", "DECONVOLUTION", "FULLY_CONNECTED", "MATRIX_MULTIPLY")
_SAME_VALUES = ("SHUFFLE", "IDENTITY", "SLICE", "GATHER", "SQUEEZE", "UNSQUEEZE", "CAST")


def set_precisions(trt: Any, network: Any, plan: Mapping[str, str], rest: str, implicit: bool) -> int:
    """Set the compute precision and output types of every layer for whose node a float type was requested.

    Requests for quantized types are not set: pairs or ranges determine these. With implicit quantization TensorRT would
    choose INT8 for any layer whose tensors have ranges, so convolutions and matrix products without a request for INT8
    get ``rest``. If ``rest`` is fp32 and a smaller type was requested anywhere, layers of all other nodes are set to
    FP32.

    Args:
        trt: the TensorRT module.
        network: the parsed ``trt.INetworkDefinition``; modified in place.
        plan: node name to precision.
        rest: the precision of nodes without a request.
        implicit: whether quantization is implicit.

    Returns:
        The number of layers that were set.
    """
    outputs = {network.get_output(i).name for i in range(network.num_outputs)}
    spread = spreads(plan, rest)
    count = 0
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name in _NO_KERNEL:
            continue
        made = [layer.get_output(i) for i in range(layer.num_outputs)]
        if not made or any(t is None or t.dtype.name not in _FLOATS or t.is_shape_tensor for t in made):
            continue
        word = next((plan[node] for node in _nodes(layer) if node in plan), None)
        if implicit and word not in _TYPES and layer.type.name == "DECONVOLUTION" and trt.__version__.startswith("8."):
            word = rest  # see weak.NO_INT8_KERNEL
        if word is None and (spread or (implicit and layer.type.name in _QUANTIZABLE)):
            word = rest
        if word not in _TYPES:
            continue
        kind = getattr(trt.DataType, _TYPES[word])
        layer.precision = kind
        for position, tensor in enumerate(made):
            # Network outputs keep the types that the model declares.
            if tensor.name not in outputs:
                layer.set_output_type(position, kind)
        count += 1
    return count


def spreads(plan: Mapping[str, str], rest: str) -> bool:
    """Whether nodes without a request are set to ``rest``: some request is for less than FP32."""
    return rest == "fp32" and any(word in ("fp16", "bf16") for word in plan.values())


def allowed_types(plan: Mapping[str, str], rest: str, quantized: bool) -> list[str]:
    """The types that a weakly typed builder may use besides FP32.

    Args:
        plan: node name to precision.
        rest: the precision of nodes without a request.
        quantized: whether pairs or ranges quantize any tensor.
    """
    wanted = {*plan.values(), rest}
    if quantized:
        wanted.add("fp8" if "fp8" in wanted else "int8")
    return [word for word in ("fp16", "bf16", "int8", "fp8") if word in wanted]


@dataclass
class _LayerStep:
    """What ``set_ranges`` needs to know about a layer with float outputs.

    Attributes:
        before: its first input tensor.
        after: its first output tensor.
        same_values: whether its output values are all input values.
        rectifies: whether it only clips values.
        nodes: the ONNX nodes that it was parsed from.
    """

    before: str
    after: str
    same_values: bool
    rectifies: bool
    nodes: frozenset[str]


def set_ranges(trt: Any, network: Any, amax: Mapping[str, float]) -> list[str]:
    """Set the dynamic range of every float tensor with a known range, or with the values of a tensor that has one.

    Tensors inside one ONNX node (such as the product before Gemm's bias) and before a ReLU get the range of the tensor
    after them, since they run in one kernel. Constants get the range of their values.

    Returns:
        Names of the float tensors without a range.
    """
    known = {name: float(value) for name, value in amax.items() if value > 0}
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    tensors = {network.get_input(i).name: network.get_input(i) for i in range(network.num_inputs)}
    tensors |= {tensor.name: tensor for layer in layers for tensor in _made(layer)}
    floats = [layer for layer in layers if (made := _made(layer)) and made[0].dtype.name in _FLOATS]
    for layer in floats:
        made = _made(layer)[0]
        if layer.type.name == "CONSTANT" and made.dtype.name in ("FLOAT", "HALF"):
            known.setdefault(made.name, _constant_amax(trt, layer))
    _spread_ranges(trt, floats, known)
    missing = []
    for name, tensor in tensors.items():
        if known.get(name, 0.0) > 0:
            tensor.set_dynamic_range(-known[name], known[name])
        elif tensor.dtype.name in _FLOATS and not tensor.is_shape_tensor:
            missing.append(name)
    return missing


def _made(layer: Any) -> list[Any]:
    """The output tensors of a layer."""
    return [tensor for i in range(layer.num_outputs) if (tensor := layer.get_output(i)) is not None]


def _spread_ranges(trt: Any, layers: Sequence[Any], known: dict[str, float]) -> None:
    """Spread known ranges to tensors with the same values or in the same kernel: downstream first, then upstream."""
    steps: list[_LayerStep] = []
    makers: dict[str, frozenset[str]] = {}
    for layer in layers:
        nodes, made = frozenset(_nodes(layer)), _made(layer)
        makers |= {tensor.name: nodes for tensor in made}
        first = layer.get_input(0) if layer.num_inputs else None
        if first is not None:
            steps.append(_LayerStep(first.name, made[0].name, *_keeps(trt, layer), nodes))
    for step in steps:
        if step.same_values and step.before in known:
            known.setdefault(step.after, known[step.before])
    for step in reversed(steps):
        inner = bool(step.nodes & makers.get(step.before, frozenset()))
        if step.after in known and (step.same_values or step.rectifies or inner):
            known.setdefault(step.before, known[step.after])


def _keeps(trt: Any, layer: Any) -> tuple[bool, bool]:
    """Whether a layer's output values are all input values, and whether it only clips values."""
    kind = layer.type.name
    if kind == "POOLING":
        # The cast makes pooling attributes accessible; from then on ``type`` is the type of pooling.
        layer.__class__ = trt.IPoolingLayer
        return bool(layer.type == trt.PoolingType.MAX), False
    if kind == "ACTIVATION":
        layer.__class__ = trt.IActivationLayer
        return False, bool(layer.type in (trt.ActivationType.RELU, trt.ActivationType.CLIP))
    return kind in _SAME_VALUES, False


def _constant_amax(trt: Any, layer: Any) -> float:
    layer.__class__ = trt.IConstantLayer
    values = np.abs(np.asarray(layer.weights, dtype=np.float64))
    return float(values.max()) if values.size else 0.0


def _nodes(layer: Any) -> tuple[str, ...]:
    """The ONNX nodes of a layer: from its metadata, or its name in versions without metadata."""
    return metadata_nodes(str(getattr(layer, "metadata", ""))) or (layer.name,)
