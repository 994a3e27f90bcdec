"""Inserts an operation between a Cast to float32 and a recurrent layer, without which TensorRT-RTX fails to build."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from toolkit.graph.model import Model
from toolkit.graph.proto.names import Names
from toolkit.graph.proto.nodes import SAME_VALUES
from toolkit.graph.surgery import assemble
from toolkit.graph.surgery.tensors import SHORT_FLOATS, make_constant, make_node, onnx_type, upstream

RECURRENT = ("LSTM", "GRU", "RNN")


def computed_before_loops(model: Model) -> list[tuple[str, str]]:
    """Add 0 to a recurrent layer's input if it was cast from 16 bits to float32 with only view operators in between.

    Otherwise the build ends in an error in the shapes of the loop (observed with TensorRT-RTX 1.7.1). TensorRT removes
    a product with 1 and an Identity, but not a sum with 0, which is exact except for the sign of zero.

    Args:
        model: a lowered graph, modified in place.

    Returns:
        The names of the new nodes, each with the name of its layer.
    """
    layers = [node for node in model.nodes if node.op in RECURRENT and _widened(node.inputs[0])]
    if not layers:
        return []
    found, tensors, nodes = [], model.tensor_names(), Names(model.node_names())
    for node in layers:
        read, name = node.inputs[0], nodes.take(f"{node.name}_input_sum")
        zero = make_constant(tensors.take(f"{read.name}_zero"), np.zeros((), np.float32))
        made = assemble.variable(tensors.take(f"{read.name}_sum"), dtype=np.dtype(np.float32), shape=read.shape)
        model.graph.nodes.append(make_node("Add", name, [read, zero], [made]))
        node.inputs[0] = made
        found.append((name, node.name))
    model.tidy()
    return found


def _widened(tensor: gs.Tensor) -> bool:
    """Whether a tensor is a view of the output of a Cast from a 16-bit type to float32."""
    tensor = upstream(tensor, SAME_VALUES)
    cast = tensor.inputs[0] if tensor.inputs else None
    if cast is None or cast.op != "Cast" or int(cast.attrs["to"]) != TensorProto.FLOAT:
        return False
    return onnx_type(cast.inputs[0].dtype) in SHORT_FLOATS
