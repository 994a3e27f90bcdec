"""Find outputs that a Tanh or a Clip bounds on both sides of zero, such as the actions of a controller."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.graph.model import Model

_MOVES = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split"})
_AFFINE = frozenset({"Mul", "Div", "Add", "Sub"})
_MOST_STEPS = 50


def squashed(model: Model, output: gs.Tensor) -> str:
    """The operators that bound all values of an output: ``Tanh``, ``Clip``, ``Tanh or Clip``, or empty if none does.

    A Clip counts if its lower limit is negative and its upper limit positive. Constants may then scale and shift the
    values, for example to the range of a motor. A Tanh of values that a constant scales does not count: it is the soft
    cap of class scores, as in Gemma 2 (Gemma Team, "Gemma 2: improving open language models at a practical size", 2024,
    section 2).
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
    """Whether a tensor is the result of a multiplication or division with a constant."""
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or node.op not in ("Mul", "Div"):
        return False
    return any(model.constant(one) is not None for one in node.inputs)


def _both(model: Model, node: gs.Node) -> bool:
    """Whether a Clip has a negative lower and a positive upper limit, both of magnitude below 1e30."""
    limits = [node.attrs.get("min"), node.attrs.get("max")]
    for place, tensor in enumerate(node.inputs[1:3]):
        limits[place] = None if tensor.is_empty() else model.constant(tensor)
    low, high = (None if one is None or not np.size(one) else float(np.reshape(one, -1)[0]) for one in limits)
    return low is not None and high is not None and -1e30 < low < 0 < high < 1e30
