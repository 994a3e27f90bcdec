"""The node for which onnxruntime refuses a model, if its error names none: errors of missing kernels do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolkit.base.errors import ModelError
from toolkit.graph.proto.light import LightModel
from toolkit.graph.proto.nodes import all_nodes, keep_first_nodes

_MOST_NODES, _MOST_BYTES = 5_000, 256 << 20
"""Models with more nodes or bytes of weights are not searched, since that means loading parts of them."""


def with_node(error: ModelError, model: LightModel, load: Callable[[LightModel], Any]) -> str:
    """The text of a loading error, with the name of the responsible node if it can be found by bisection.

    Args:
        error: the error that ``load`` raised for the model.
        model: not changed.
        load: loads a part of the model.
    """
    if len(model.proto.graph.node) > _MOST_NODES or model.weight_bytes > _MOST_BYTES:
        return error.what
    nodes = list(model.proto.graph.node)
    named = (mark for node in all_nodes(nodes) for mark in (f"({node.name})", f"'{node.name}'", f'"{node.name}"'))
    if any(mark in error.what for mark in named):
        return error.what
    low, high = 0, len(nodes)
    if not _refused(model, high, load):
        return error.what
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _refused(model, middle, load) else (middle + 1, high)
    if not low:
        return error.what
    node = nodes[low - 1]
    return error.what.replace("the model", f"the model for node '{node.name}' ({node.op_type})", 1)


def _refused(model: LightModel, count: int, load: Callable[[LightModel], Any]) -> bool:
    """Whether the first ``count`` nodes alone are refused."""
    part = model.copy()
    has_outputs = keep_first_nodes(part.proto.graph, count)
    try:
        load(part.drop_unread())
    except ModelError:
        return has_outputs
    return False
