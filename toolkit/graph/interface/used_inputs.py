"""The inputs whose values a model uses, and the tensors that depend on them; nodes may be in any order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import onnx_graphsurgeon as gs

from toolkit.graph.model import Model
from toolkit.graph.surgery.assemble import reads

SIZES = frozenset({"Shape", "Size"})
"""Operators that read only a tensor's dimensions, not its values."""


def used_inputs(model: Model) -> frozenset[str]:
    """Names of the inputs whose values a node computes with.

    Other inputs are passed through unchanged, like the state input of a stateless policy, or only their dimensions are
    read, or they are not read at all.
    """
    readers = _readers_of_values(model)
    return frozenset(tensor.name for tensor in model.graph.inputs if _is_used(tensor.name, readers))


def varying_tensors(model: Model) -> set[str]:
    """Names of the inputs and of all tensors that depend on their values, not only on their sizes."""
    readers = _readers_of_values(model)
    found = {tensor.name for tensor in model.graph.inputs}
    pending = list(found)
    while pending:
        made = {tensor.name for node in readers.get(pending.pop(), ()) for tensor in node.outputs}
        pending += made - found
        found |= made
    return found


def _readers_of_values(model: Model) -> Mapping[str, Sequence[gs.Node]]:
    """For each tensor the nodes of the main graph that read its values, including reads in their subgraphs."""
    found: dict[str, list[gs.Node]] = defaultdict(list)
    for node in model.nodes:
        for name in () if node.op in SIZES else reads(node):
            found[name].append(node)
    return found


def _is_used(name: str, readers: Mapping[str, Sequence[gs.Node]]) -> bool:
    """Whether a node computes with a tensor, directly or after it is passed through Identity nodes."""
    pending = [name]
    while pending:
        nodes = readers.get(pending.pop(), ())
        if any(node.op != "Identity" for node in nodes):
            return True
        pending += [tensor.name for node in nodes for tensor in node.outputs]
    return False
