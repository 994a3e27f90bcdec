"""Marking inner tensors of a network so that the inspector shows more of its blocks, inside the child process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def mark_tensors(trt: Any, network: Any, names: Sequence[str], half: bool) -> list[str]:
    """Mark tensors as debug tensors if the module supports them (TensorRT 10 on), else as network outputs (8.6).

    A network output is float32 by default, which would itself rule out kernels that write float16; it is therefore set
    to float16 if the network may use float16 and the tensor's type was not set.

    Args:
        trt: the TensorRT module.
        network: the parsed ``trt.INetworkDefinition``; modified in place.
        names: names of the tensors.
        half: whether the rest of a weakly typed network may run in float16.

    Returns:
        The names that are not in the network.
    """
    outputs = {network.get_output(i).name for i in range(network.num_outputs)}
    makers = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for position in range(layer.num_outputs):
            tensor = layer.get_output(position)
            if tensor is not None:
                makers[tensor.name] = (layer, position, tensor)
    for name in names:
        if name in outputs or name not in makers:
            continue
        layer, position, tensor = makers[name]
        if hasattr(network, "mark_debug"):
            network.mark_debug(tensor)
            continue
        network.mark_output(tensor)
        if half and tensor.dtype == trt.DataType.FLOAT and not layer.output_type_is_set(position):
            tensor.dtype = trt.DataType.HALF
    return [name for name in names if name not in makers]
