"""How many tokens a model knows: what it looks up by the numbers that an input holds."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from toolkit.graph.model import Model

_PASSING = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Clip"})


def vocabularies(model: Model) -> frozenset[int]:
    """The lengths of the tables [tokens, width] in which the values of an input are looked up."""
    inputs = {id(tensor) for tensor in model.graph.inputs}
    found = set()
    for node in model.nodes:
        if node.op != "Gather" or node.attrs.get("axis", 0) != 0:
            continue
        table = model.constant(node.inputs[0])
        if table is not None and table.ndim == 2 and id(_origin(node.inputs[1])) in inputs:
            found.add(int(table.shape[0]))
    return frozenset(found)


def _origin(tensor: gs.Tensor) -> gs.Tensor:
    while tensor.inputs and tensor.inputs[0].op in _PASSING:
        tensor = tensor.inputs[0].inputs[0]
    return tensor
