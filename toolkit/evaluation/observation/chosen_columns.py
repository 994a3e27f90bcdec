"""Find out from the graph whether integers next to NonMaxSuppression's boxes are the boxes' classes or indices."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from toolkit.graph.model import Model

CLASS, PLACE = "class", "place"
_COLUMNS = {1: CLASS, 2: PLACE}
_CHOOSING = frozenset({"Gather", "GatherElements", "GatherND", "Slice", "Split"})
_PASSING = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}) | _CHOOSING
_MOST_STEPS = 50


def chosen_column(model: Model, output: gs.Tensor) -> str:
    """Whether an output holds class numbers (``CLASS``) or box indices (``PLACE``); empty if the graph shows neither.

    Columns 1 and 2 of NonMaxSuppression's rows are class and box index. Values gathered from the best class of each box
    (ArgMax, or the second output of a TopK with k = 1) are classes.
    """
    tensor, column = output, -1
    for _ in range(_MOST_STEPS):
        if not tensor.inputs:
            return ""
        node = tensor.inputs[0]
        if node.op == "NonMaxSuppression":
            return _COLUMNS.get(column, "")
        if node.op == "ArgMax" or (node.op == "TopK" and tensor is node.outputs[1] and _number(model, node) == 1):
            return CLASS
        if node.op not in _PASSING or not node.inputs:
            return ""
        if node.op in _CHOOSING and column < 0:
            column = _column(model, node, tensor)
        tensor = node.inputs[0]
    return ""


def _column(model: Model, node: gs.Node, tensor: gs.Tensor) -> int:
    """The column, 1 or 2, that a Gather, Slice or Split takes from rows; -1 if it takes anything else."""
    split = node.op == "Split"
    column = next(i for i, one in enumerate(node.outputs) if one is tensor) if split else _number(model, node)
    return column if column in _COLUMNS else -1


def _number(model: Model, node: gs.Node) -> int:
    """The value of a node's second input (an index, a start or a count) if it is a single constant; else -1."""
    value = model.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return int(value.reshape(-1)[0]) if value is not None and value.size == 1 else -1
