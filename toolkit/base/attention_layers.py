"""Letting TensorRT compute attention by several kernels where it has no single one for it."""

from __future__ import annotations

from typing import Any


def make_decomposable(trt: Any, network: Any) -> int:
    """Allow every ``IAttention`` of a ``trt.INetworkDefinition`` to be computed by several kernels.

    The parser makes an IAttention of each Attention node. TensorRT computes it by one fused kernel if it has one for
    its head size, types and mask; otherwise the build fails, unless ``IAttention.decomposable`` is set, which changes
    nothing where there is such a kernel (NVIDIA's documentation of IAttention).

    Args:
        trt: TensorRT's module, or TensorRT-RTX's.
        network: the parsed network, changed in place.

    Returns:
        How many there are; 0 in versions that have none.
    """
    begins = getattr(trt.LayerType, "ATTENTION_INPUT", None)
    found = 0
    for index in range(network.num_layers if begins is not None else 0):
        layer = network.get_layer(index)
        if layer.type == begins:
            # the bindings give every layer its base class
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True
            found += 1
    return found
