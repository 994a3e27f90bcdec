"""What numbers beside NonMaxSuppression's boxes are, read off the graph: the boxes' classes, or their places."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from toolkit.graph.model import Model

CLASS, PLACE = "class", "place"
_COLUMNS = {1: CLASS, 2: PLACE}
_CHOOSING = frozenset({"Gather", "GatherElements", "GatherND", "Slice", "Split"})
_PASSING = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}) | _CHOOSING
_MOST_STEPS = 50


def chosen_column(model: Model, output: gs.Tensor) -> str:
    """Whether an output holds ``CLASS`` numbers or the ``PLACE``s of boxes; empty where the graph does not tell.

    Columns 1 and 2 of NonMaxSuppression's rows are class and place; what is gathered from the best class of each box
    (ArgMax, or the second output of a TopK of one) are classes.
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
    """Which one of a row's numbers a node takes; -1 where it takes none of them, several, or the first rows."""
    split = node.op == "Split"
    column = next(i for i, one in enumerate(node.outputs) if one is tensor) if split else _number(model, node)
    return column if column in _COLUMNS else -1


def _number(model: Model, node: gs.Node) -> int:
    """The single number that a node's second input is: an index, a start or a count; -1 where it is none."""
    value = model.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return int(value.reshape(-1)[0]) if value is not None and value.size == 1 else -1
