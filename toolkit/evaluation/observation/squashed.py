"""Outputs that a Tanh or a Clip keeps within bounds of both signs, as the actions of a controller."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.graph.model import Model

_MOVES = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split"})
_AFFINE = frozenset({"Mul", "Div", "Add", "Sub"})
_MOST_STEPS = 50


def squashed(model: Model, output: gs.Tensor) -> str:
    """The operators, ``Tanh``, ``Clip`` or ``Tanh or Clip``, that all values of an output come from; empty for others.

    A Clip counts between a number below zero and one above it.

    Constants may scale and move them then, to the range that a motor takes. Scores of classes are not squashed: where a
    constant divides them before a Tanh and another multiplies them after it, they are only kept from growing, as those
    of Gemma 2 are (Gemma Team, "Gemma 2: improving open language models at a practical size", 2024, section 2).
    """
    waiting, steps, found = [output], 0, set[str]()
    while waiting and steps < _MOST_STEPS:
        steps += 1
        tensor = waiting.pop()
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None:
            return ""
        others = [one for one in node.inputs if model.constant(one) is None]
        if node.op == "Concat":
            waiting += node.inputs
        elif node.op in _MOVES:
            waiting.append(node.inputs[0])
        elif node.op in _AFFINE and len(others) == 1:
            waiting += others
        elif (node.op == "Tanh" and not _scaled(model, node.inputs[0])) or (node.op == "Clip" and _both(model, node)):
            found.add(node.op)
        else:
            return ""
    return " or ".join(sorted(found, reverse=True)) if not waiting else ""


def _scaled(model: Model, tensor: gs.Tensor) -> bool:
    """Whether a constant multiplies or divides a tensor."""
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or node.op not in ("Mul", "Div"):
        return False
    return any(model.constant(one) is not None for one in node.inputs)


def _both(model: Model, node: gs.Node) -> bool:
    """Whether a Clip has a bound on each side of zero."""
    limits = [node.attrs.get("min"), node.attrs.get("max")]
    for place, tensor in enumerate(node.inputs[1:3]):
        limits[place] = None if tensor.is_empty() else model.constant(tensor)
    low, high = (None if one is None or not np.size(one) else float(np.reshape(one, -1)[0]) for one in limits)
    return low is not None and high is not None and -1e30 < low < 0 < high < 1e30
