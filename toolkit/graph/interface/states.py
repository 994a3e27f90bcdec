"""The batch axis of the initial states of recurrent layers, inferred from the operators that read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_graphsurgeon as gs

from toolkit.graph.model import Model
from toolkit.graph.shape_inference.dimensions import is_batch_name

STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
"""The inputs with the initial states, by recurrent operator."""
_KEEPING = frozenset({"Identity", "Cast", "Slice", "Split"})
"""Operators whose outputs have the same axes as their first input."""
_RANK = 3
"""The rank of a state as recurrent operators read it."""
_MADE_UP = "batch"


def shapes_to_join(model: Model) -> dict[str, list[int | str | None]]:
    """``Model.input_shapes``, with the name of the batch for the batch dimension of recurrent layers' initial states.

    A state is [directions, batch, hidden], with ``layout`` 1 of ONNX's LSTM, GRU and RNN [batch, directions, hidden].
    Its batch is that of the layer's input, whatever its name in the model. Fixed dimensions stay fixed.
    """
    shapes = model.input_shapes()
    states = _state_axes(model)
    declared = {name: shapes[name][axis] for name, axis in states.items() if axis < len(shapes[name])}
    unnamed = [name for name, dim in declared.items() if not isinstance(dim, int) and not is_batch_name(dim)]
    named = [dim for dims in shapes.values() for dim in dims if is_batch_name(dim)]
    firsts = {dims[0] for name, dims in shapes.items() if name not in states and dims}
    # the name of the batch if an input has one, else the common name of all first axes, or a new name if they have none
    names = named[:1] or list(firsts)
    if len(names) != 1 or isinstance(names[0], int):
        return shapes
    for name in unnamed:
        shapes[name][states[name]] = names[0] or _MADE_UP
    return shapes


def _state_axes(model: Model) -> dict[str, int]:
    """The batch axis of each input that is the initial state of one or several recurrent layers."""
    inputs = {id(tensor): tensor.name for tensor in model.graph.inputs}
    found = {}
    for node in (node for node in model.nodes if node.op in STATES):
        axis = 0 if node.attrs.get("layout", 0) else 1
        for place in STATES[node.op]:
            for tensor in node.inputs[place : place + 1]:
                begin, where = _begin(model, tensor, axis)
                if id(begin) in inputs:
                    found[inputs[id(begin)]] = where
    return found


def _begin(model: Model, tensor: gs.Tensor, axis: int) -> tuple[gs.Tensor, int]:
    """The tensor that a state is a part of, and the axis in it."""
    rank = _RANK
    while tensor.inputs:
        node = tensor.inputs[0]
        before = _before(model, node, rank, axis)
        if before is None:
            break
        rank, axis = before
        tensor = node.inputs[0]
    return tensor, axis


def _before(model: Model, node: gs.Node, rank: int, axis: int) -> tuple[int, int] | None:
    """The rank of a node's first input and the axis in it that corresponds to an output's axis; None if unknown."""
    if node.op in _KEEPING:
        return rank, axis
    if node.op == "Transpose":
        order = node.attrs.get("perm")
        return rank, int(order[axis]) if order is not None else rank - 1 - axis
    if node.op == "Gather":
        at, places = node.attrs.get("axis", 0), _rank_of(model, node.inputs[1])
        if places is None:
            return None
        within = rank - places + 1
        return _taken(within, axis, int(at) % within, places)
    if node.op in ("Squeeze", "Unsqueeze"):
        axes = _axes(model, node)
        if axes is None:
            return None
        whole = rank + len(axes) if node.op == "Squeeze" else rank
        gone = {one % whole for one in axes}
        left = [place for place in range(whole) if place not in gone]
        if node.op == "Squeeze":
            return whole, left[axis]
        return (len(left), left.index(axis)) if axis in left else None
    return _unshaped(model, node, axis) if node.op == "Reshape" else None


def _taken(rank: int, axis: int, at: int, places: int) -> tuple[int, int] | None:
    """``_before`` for a Gather along ``at`` by indices of rank ``places``."""
    if at <= axis < at + places:
        # the size of this axis is the number of indices
        return (rank, axis) if places == 1 else None
    return rank, axis if axis < at else axis - places + 1


def _rank_of(model: Model, tensor: gs.Tensor) -> int | None:
    values = model.constant(tensor)
    if values is not None:
        return int(values.ndim)
    return len(tensor.shape) if tensor.shape is not None else None


def _axes(model: Model, node: gs.Node) -> list[int] | None:
    """The axes that a node removes or inserts; None if they are computed, or not given (all axes of size 1)."""
    given = node.attrs.get("axes")
    if given is None and len(node.inputs) > 1:
        given = model.constant(node.inputs[1])
    return None if given is None else [int(one) for one in given]


def _unshaped(model: Model, node: gs.Node, axis: int) -> tuple[int, int] | None:
    """``_before`` for a Reshape: the axis with as many values to its left and right as in the output."""
    shape, before = model.constant(node.inputs[1]), node.inputs[0].shape
    if shape is None or before is None or axis >= len(shape):
        return None
    # 0 copies the size at the same position
    target = [before[place] if one == 0 and place < len(before) else int(one) for place, one in enumerate(shape)]
    for place in range(len(before)):
        sides = (target[:axis], before[:place]), (target[axis + 1 :], before[place + 1 :])
        if all(_as_much(made, read) for made, read in sides):
            return len(before), place
    return None


def _as_much(made: Sequence[Any], read: Sequence[Any]) -> bool:
    """Whether two parts of a shape are known to hold equally many values."""
    if not all(isinstance(one, int) and one > 0 for one in (*made, *read)):
        return False
    return math.prod(made) == math.prod(read)
