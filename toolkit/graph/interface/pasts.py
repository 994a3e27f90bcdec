"""Outputs that the next inference reads: a decoder's keys and values with the new ones appended, and updated states."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_graphsurgeon as gs

from toolkit.graph.model import Model
from toolkit.graph.surgery.assemble import reads
from toolkit.graph.surgery.tensors import upstream

_PASSING = frozenset({"Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand"})
_GROWS = frozenset({"TensorScatter", "ScatterND", "ScatterElements"})
"""Operators that insert new values into a past."""
_HANDS_ON = {"Attention": {1: 4, 2: 5}, "GroupQueryAttention": {1: 3, 2: 4}}
"""Operators that append to a past themselves: the input for each output."""
_RENEWS = {"LSTM": {1: 5, 2: 6}, "GRU": {1: 5}, "RNN": {1: 5}}
"""Recurrent operators: for each output with the final state, the input with the initial state."""
_PARTS = _PASSING | {"Slice", "Split", "Gather"}
"""Operators whose outputs are parts of their first input, such as the states of single layers."""


def continued_inputs(model: Model) -> dict[str, str]:
    """The outputs that continue an input, each with that input: ``present.0.key`` and ``past_key_values.0.key``."""
    inputs = {id(tensor): tensor.name for tensor in model.graph.inputs}
    found = {}
    for output in model.graph.outputs:
        maker = upstream(output, _PASSING)
        past = next((inputs[id(one)] for one in _held(maker, output) if id(one) in inputs), None)
        if past is not None:
            found[output.name] = past
    return found


def renewed(model: Model) -> set[tuple[str, str]]:
    """The inputs that an output replaces in the next step, each with that output, inferred from its producers.

    Such an output is the final state of one or several recurrent layers that start from the input; or the input with
    new values appended and its oldest ones cut off, in the shape of the input.
    """
    inputs = {id(tensor): tensor.name for tensor in model.graph.inputs}
    return {
        (inputs[id(one)], output.name)
        for output in model.graph.outputs
        for one in _renewed(output)
        if id(one) in inputs
    }


def reached(model: Model, outputs: Iterable[str]) -> dict[str, set[str]]:
    """For each output the names of all tensors that it depends on, including inputs and weights."""
    makers = {tensor.name: node for node in model.nodes for tensor in node.outputs}
    # omitted inputs have an empty name
    read = {id(node): [name for name in reads(node) if name] for node in model.nodes}
    found: dict[str, set[str]] = {}
    for output in outputs:
        found[output], pending = {output}, [output]
        while pending:
            node = makers.get(pending.pop())
            fresh = [name for name in read[id(node)] if name not in found[output]] if node is not None else []
            found[output].update(fresh)
            pending += fresh
    return found


def _renewed(output: gs.Tensor) -> list[gs.Tensor]:
    """The tensors whose values a state continues; empty if the output is not a state."""
    found, pending = [], [(output, False, False)]
    seen: set[tuple[int, bool, bool]] = set()
    while pending:
        tensor, cut, new = pending.pop()
        if (id(tensor), cut, new) in seen:
            continue
        seen.add((id(tensor), cut, new))
        if new and (not cut or _alike(tensor, output)):
            found.append(tensor)
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None:
            continue
        if node.op in _RENEWS:
            places = {id(made): place for place, made in enumerate(node.outputs)}
            pending += [(one, False, True) for one in _input(node, _RENEWS[node.op].get(places[id(tensor)]))]
        elif node.op == "Concat":
            pending += [(one, cut, new or cut) for one in node.inputs]
        elif node.op in _PARTS:
            pending.append((node.inputs[0], cut or (node.op == "Slice" and not new), new))
    return found


def _alike(one: gs.Tensor, other: gs.Tensor) -> bool:
    """Whether two tensors may have the same shape, as far as it is known."""
    if one.shape is None or other.shape is None:
        return True
    fixed = [(a, b) for a, b in zip(one.shape, other.shape) if isinstance(a, int) and isinstance(b, int)]
    return len(one.shape) == len(other.shape) and all(a == b for a, b in fixed)


def _held(tensor: gs.Tensor, output: gs.Tensor) -> list[gs.Tensor]:
    """The tensors that may be the past to which the producer of ``tensor`` appends; empty if it does not append."""
    if not tensor.inputs:
        return []
    node = tensor.inputs[0]
    if node.op in _HANDS_ON:
        places = {id(made): place for place, made in enumerate(node.outputs)}
        held = _input(node, _HANDS_ON[node.op].get(places[id(tensor)]))
    elif node.op == "Concat":
        axis = int(node.attrs.get("axis", 0))
        held = [one for one in node.inputs if _may_grow(upstream(one, _PASSING), axis)]
    elif node.op in _GROWS:
        held = _input(node, 0)
    else:
        return []
    pasts = [upstream(one, _PASSING) for one in held]
    # a Concat of features with an input that is not a past has another rank
    return [one for one in pasts if one.shape is None or output.shape is None or len(one.shape) == len(output.shape)]


def _may_grow(tensor: gs.Tensor, axis: int) -> bool:
    """Whether a tensor may grow along an axis: it has no fixed size there, or a name with past or cache."""
    shape = tensor.shape
    fixed = shape is not None and -len(shape) <= axis < len(shape) and isinstance(shape[axis], int)
    return not fixed or any(word in tensor.name.lower() for word in ("past", "cache"))


def _input(node: gs.Node, index: int | None) -> list[gs.Tensor]:
    return list(node.inputs[index : index + 1]) if index is not None else []
