"""Lets TensorRT compute attention with several kernels if it has no fused kernel for it."""

from __future__ import annotations

from typing import Any


def make_decomposable(trt: Any, network: Any) -> int:
    """Allow TensorRT to decompose every ``IAttention`` of a ``trt.INetworkDefinition`` into several kernels.

    The parser creates an IAttention for each Attention node. TensorRT computes it with one fused kernel if it has one
    for the head size, types and mask; otherwise the build fails, unless ``IAttention.decomposable`` is set, which has
    no effect if there is a fused kernel (NVIDIA's documentation of IAttention).

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        network: the parsed network, modified in place.

    Returns:
        The number of IAttention layers; 0 in versions that have none.
    """
    begins = getattr(trt.LayerType, "ATTENTION_INPUT", None)
    found = 0
    for index in range(network.num_layers if begins is not None else 0):
        layer = network.get_layer(index)
        if layer.type == begins:
            # the Python bindings return every layer as its base class
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True
            found += 1
    return found
