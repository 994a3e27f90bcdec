"""How many tokens a model knows: what it looks up by the numbers that an input holds."""

from __future__ import annotations

from toolkit.graph.model import Model
from toolkit.graph.surgery.tensors import upstream

_PASSING = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Clip"})


def vocabularies(model: Model) -> frozenset[int]:
    """The lengths of the tables [tokens, width] in which the values of an input are looked up."""
    inputs = {id(tensor) for tensor in model.graph.inputs}
    found = set()
    for node in model.nodes:
        if node.op != "Gather" or node.attrs.get("axis", 0) != 0:
            continue
        table = model.constant(node.inputs[0])
        if table is not None and table.ndim == 2 and id(upstream(node.inputs[1], _PASSING)) in inputs:
            found.add(int(table.shape[0]))
    return frozenset(found)
