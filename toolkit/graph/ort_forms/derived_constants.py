"""Constants that a graph computes from others in bfloat16: an engine rounds them like stored constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper

from toolkit.graph.proto.nodes import ONNX_DOMAINS, held_by
from toolkit.graph.proto.strangers import operator_of

_COMPUTES = frozenset(
    {"Abs", "Add", "Div", "Exp", "Log", "Mean", "MatMul", "Max", "Min", "Mul", "Neg", "Pow", "Reciprocal", "ReduceMax",
     "ReduceMean", "ReduceSum", "Sqrt", "Sub", "Sum", "Tanh"}
)  # fmt: skip
"""Operators whose result has the type of their first input."""
_MOVES = frozenset({"Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose",
                    "Unsqueeze"})  # fmt: skip


def made_in_bfloat16(
    graph: onnx.GraphProto, outside: Mapping[str, int] | None = None
) -> list[tuple[onnx.GraphProto, list[str]]]:
    """The tensors that nodes compute from constants only, in bfloat16, in the order of the nodes.

    Moved values (Reshape and the like) and stored values are not included, since they are already rounded.

    Args:
        graph: the graph; the bodies of its nodes count too.
        outside: the element types of constants in the enclosing graphs, by name.

    Returns:
        Each graph with such tensors, with their names.
    """
    kinds = {**(outside or {}), **{one.name: one.data_type for one in graph.initializer}}
    for one in graph.input:
        kinds.pop(one.name, None)
    found, bodies = list[str](), list[onnx.GraphProto]()
    for node in graph.node:
        bodies += held_by(node)
        of_constants = all(not name or name in kinds for name in node.input)
        if node.domain not in ONNX_DOMAINS or len(node.output) != 1 or not of_constants:
            continue
        kind = _kind(node, [kinds[name] for name in node.input if name])
        if kind is None:
            continue
        kinds[node.output[0]] = kind
        if kind == TensorProto.BFLOAT16 and operator_of(node) in _COMPUTES | {"Cast"}:
            found.append(node.output[0])
    within = [each for body in bodies for each in made_in_bfloat16(body, kinds)]
    return [*([(graph, found)] if found else []), *within]


def _kind(node: onnx.NodeProto, of: Sequence[int]) -> int | None:
    """The element type of a node's result; None if it is unknown here."""
    op = operator_of(node)
    if op == "Cast":
        return next((one.i for one in node.attribute if one.name == "to"), None)
    if op == "Constant":
        return next((one.t.data_type for one in node.attribute if one.name == "value"), None)
    return of[0] if of and op in _COMPUTES | _MOVES else None


def round_as_bfloat16(graph: onnx.GraphProto, tensors: Sequence[str]) -> None:
    """Insert a Cast to bfloat16 and back after the nodes that produce some float32 tensors, in place."""
    wanted, nodes = set(tensors), list(graph.node)
    if not wanted:
        return
    del graph.node[:]
    for node in nodes:
        graph.node.append(node)
        for index, name in enumerate(node.output):
            if name in wanted:
                before, half = f"{name} before rounding", f"{name} rounded"
                graph.node[-1].output[index] = before
                graph.node.append(helper.make_node("Cast", [before], [half], f"{name} round", to=TensorProto.BFLOAT16))
                graph.node.append(helper.make_node("Cast", [half], [name], f"{name} widen", to=TensorProto.FLOAT))
