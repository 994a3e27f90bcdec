"""Along which axis the first states of recurrent layers hold samples: told by the operators that read them."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from toolkit.graph.dimensions import is_batch_name
from toolkit.graph.model import Model

_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
"""By recurrent operator the inputs that hold the states that it begins with."""
_KEEPING = frozenset({"Identity", "Cast", "Slice", "Split"})
"""Operators behind which each axis of their first input is where it was."""
_MADE_UP = "batch"


def shapes_to_join(model: Model) -> dict[str, list[int | str | None]]:
    """``Model.input_shapes``, in which the samples' dimension of a recurrent layer's first state has their name.

    A state is [directions, batch, hidden], of ONNX's LSTM, GRU and RNN with ``layout`` 1 [batch, directions, hidden],
    and its batch that of the layer's input, whatever the model calls it. A fixed one stays fixed.
    """
    shapes = model.input_shapes()
    states = _state_axes(model)
    declared = {name: shapes[name][axis] for name, axis in states.items() if axis < len(shapes[name])}
    unnamed = [name for name, dim in declared.items() if not isinstance(dim, int) and not is_batch_name(dim)]
    named = [dim for dims in shapes.values() for dim in dims if is_batch_name(dim)]
    firsts = {dims[0] for name, dims in shapes.items() if name not in states and dims}
    # theirs where they have one, that of all first axes, or where these have none one that counts samples with them
    names = named[:1] or list(firsts)
    if len(names) != 1 or isinstance(names[0], int):
        return shapes
    for name in unnamed:
        shapes[name][states[name]] = names[0] or _MADE_UP
    return shapes


def _state_axes(model: Model) -> dict[str, int]:
    """By input that is the first state of a recurrent layer, or of several, its axis of samples."""
    inputs = {id(tensor): tensor.name for tensor in model.graph.inputs}
    found = {}
    for node in (node for node in model.nodes if node.op in _STATES):
        axis = 0 if node.attrs.get("layout", 0) else 1
        for place in _STATES[node.op]:
            for tensor in node.inputs[place : place + 1]:
                begin, where = _begin(tensor, axis)
                if id(begin) in inputs:
                    found[inputs[id(begin)]] = where
    return found


def _begin(tensor: gs.Tensor, axis: int) -> tuple[gs.Tensor, int]:
    """What a tensor is a part of, and where its axis lies in that."""
    while tensor.inputs:
        node = tensor.inputs[0]
        if node.op == "Transpose":
            order = node.attrs.get("perm")
            if order is None:
                break
            axis = int(order[axis])
        elif node.op not in _KEEPING:
            break
        tensor = node.inputs[0]
    return tensor, axis
