"""Find the vocabulary sizes of a model: the lengths of the tables that it indexes with an input."""

from __future__ import annotations

from toolkit.graph.model import Model
from toolkit.graph.surgery.tensors import upstream

_PASSING = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Clip"})


def vocabularies(model: Model) -> dict[str, frozenset[int]]:
    """By input, the lengths of the constant tables [tokens, width] that it indexes; inputs without one are missing."""
    inputs = {id(tensor): tensor.name for tensor in model.graph.inputs}
    found: dict[str, set[int]] = {}
    for node in model.nodes:
        if node.op != "Gather" or node.attrs.get("axis", 0) != 0:
            continue
        table = model.constant(node.inputs[0])
        name = inputs.get(id(upstream(node.inputs[1], _PASSING))) if table is not None and table.ndim == 2 else None
        if table is not None and name is not None:
            found.setdefault(name, set()).add(int(table.shape[0]))
    return {name: frozenset(rows) for name, rows in found.items()}
