"""Outputs whose number of rows depends on the samples' values, as the detections of a whole batch in one list."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from toolkit.graph.assemble import bodies, reads
from toolkit.graph.model import Model
from toolkit.graph.used_inputs import varying_tensors

_CHOOSING = frozenset({"NonZero", "NonMaxSuppression", "Compress", "Unique"})
"""Operators that give as many elements as their inputs' values say."""
_COUNTING = frozenset({"Shape", "Size", "ScatterND", "ScatterElements", "Scatter", "OneHot"})
"""Operators whose result has another size than the rows that they read."""


def chosen_rows(model: Model) -> set[str]:
    """Names of the tensors that hold what was chosen by values, or are computed from it row by row.

    Such rows may come from any sample of a batch: only a sample by itself tells which are its own.
    """
    varying, found = varying_tensors(model), set[str]()
    for node in model.nodes:
        read = set(reads(node))
        chooses = bool(read & varying) and any(one.op in _CHOOSING for one in _all(node))
        if chooses or (read & found and node.op not in _COUNTING and not _ends_rows(node)):
            found |= {tensor.name for tensor in node.outputs}
    return found


def _all(node: gs.Node) -> list[gs.Node]:
    """The node and those of its subgraphs."""
    return [node, *(inner for body in bodies(node) for one in body.nodes for inner in _all(one))]


def _ends_rows(node: gs.Node) -> bool:
    """Whether an operator reduces along the first axis, or picks a fixed number there."""
    if node.op == "TopK":
        return node.attrs.get("axis", -1) == 0
    if node.op in ("ArgMax", "ArgMin"):
        return bool(node.attrs.get("axis", 0) == 0)
    if not node.op.startswith("Reduce"):
        return False
    given = node.inputs[1] if len(node.inputs) > 1 else None
    axes = node.attrs.get("axes", given.values.tolist() if isinstance(given, gs.Constant) else None)
    return axes is None or 0 in axes
