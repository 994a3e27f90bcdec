"""Recording a parsed network, in the child process, without loading other modules."""

from __future__ import annotations

from typing import Any


def walk_network(network: Any) -> dict[str, Any]:
    """A JSON-able record of a ``trt.INetworkDefinition``: inputs, outputs, and every layer in order."""
    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        layers.append(
            {
                "name": layer.name,
                "type": layer.type.name,
                "inputs": [_tensor(layer.get_input(i)) for i in range(layer.num_inputs) if layer.get_input(i)],
                "outputs": [_tensor(layer.get_output(i)) for i in range(layer.num_outputs) if layer.get_output(i)],
                "metadata": str(getattr(layer, "metadata", "")),
            }
        )
    return {
        "inputs": [_tensor(network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [_tensor(network.get_output(i)) for i in range(network.num_outputs)],
        "layers": layers,
    }


def _tensor(tensor: Any) -> dict[str, Any]:
    try:
        shape = [int(size) for size in tensor.shape]
    except ValueError:
        # The rank of a tensor after a data-dependent shape is not known yet.
        shape = []
    return {"name": tensor.name, "type": tensor.dtype.name, "shape": shape}
