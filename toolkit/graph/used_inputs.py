"""The inputs whose values a model computes with."""

from __future__ import annotations

from toolkit.graph.assemble import reads
from toolkit.graph.model import Model

SIZES = frozenset({"Shape", "Size"})
"""Operators that read a tensor's dimensions and none of its values."""


def used_inputs(model: Model) -> frozenset[str]:
    """Names of the inputs whose values a node computes with.

    Others are passed on as they are, as a policy without a state does with one, have only their dimensions read, or are
    not read at all.
    """
    begins = {tensor.name: tensor.name for tensor in model.graph.inputs}
    found = set[str]()
    for node in model.nodes:
        if node.op in SIZES:
            continue
        read = {begins[name] for name in reads(node) if name in begins}
        if node.op == "Identity":
            begins.update((tensor.name, name) for name in read for tensor in node.outputs)
        else:
            found |= read
    return frozenset(found)


def varying_tensors(model: Model) -> set[str]:
    """Names of the inputs and of all tensors that their values reach, not those that only their sizes reach."""
    found = {tensor.name for tensor in model.graph.inputs}
    for node in model.nodes:
        if node.op not in SIZES and not found.isdisjoint(reads(node)):
            found.update(tensor.name for tensor in node.outputs)
    return found
