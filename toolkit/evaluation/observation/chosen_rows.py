"""Find tensors whose number of rows depends on the inputs' values, like one list of a whole batch's detections."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from toolkit.graph.interface.used_inputs import varying_tensors
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts
from toolkit.graph.surgery.assemble import bodies, reads

_CHOOSING = frozenset({"NonZero", "NonMaxSuppression", "Compress", "Unique"})
"""Operators whose number of results depends on the values of their inputs."""
_COUNTING = frozenset({"Shape", "Size", "ScatterND", "ScatterElements", "Scatter", "OneHot"})
"""Operators whose output size does not follow from the number of rows that they read."""


def chosen_rows(model: Model) -> set[str]:
    """Names of the tensors with rows that were selected by values, and of those computed from them row by row.

    Such rows may come from any sample of a batch; samples have to be run one by one to assign rows to them.
    """
    found = set[str]()
    if not any(node.op in _CHOOSING for node, _ in model.walk()):
        return found
    varying, facts = varying_tensors(model), model.facts()
    for node in model.nodes:
        read = set(reads(node))
        chooses = bool(read & varying) and any(one.op in _CHOOSING for one in _all(node))
        if chooses or (read & found and node.op not in _COUNTING and not _ends_rows(node, facts)):
            found |= {tensor.name for tensor in node.outputs}
    return found


def _all(node: gs.Node) -> list[gs.Node]:
    """The node and all nodes in its subgraphs."""
    return [node, *(inner for body in bodies(node) for one in body.nodes for inner in _all(one))]


def _ends_rows(node: gs.Node, facts: Facts) -> bool:
    """Whether an operator reduces the first axis or selects a fixed number of rows, so that rows no longer vary."""
    rank = facts.rank(node.inputs[0].name) if node.inputs else None
    first = {0} if rank is None else {0, -rank}
    if node.op == "TopK":
        return node.attrs.get("axis", -1) in first
    if node.op in ("ArgMax", "ArgMin"):
        return node.attrs.get("axis", 0) in first
    if not node.op.startswith("Reduce"):
        return False
    given = node.inputs[1] if len(node.inputs) > 1 and node.inputs[1].name else None
    if given is not None and not isinstance(given, gs.Constant):
        return False
    axes = node.attrs.get("axes", []) if given is None else given.values.tolist()
    return not first.isdisjoint(axes) if axes else not node.attrs.get("noop_with_empty_axes", 0)
