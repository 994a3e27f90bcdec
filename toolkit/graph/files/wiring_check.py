"""Check for tensors that are read but never produced, and for cycles; onnxruntime does not name the node."""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

import onnx

from toolkit.base.errors import ModelError
from toolkit.graph.proto.nodes import held_by, reads_of

_AGAIN = "export the model again"
_SHOWN = 4


def check_wiring(proto: onnx.ModelProto, where: str) -> None:
    """Check the graph, its subgraphs and the model's functions.

    Raises:
        ModelError: a node reads a tensor that nothing produces, or produces one that is an input or weight; nodes form
            a cycle; or a function has an output that none of its nodes produces.
    """
    _check_graph(proto.graph, (), where)
    for function in proto.functions:
        given, place = set(function.input), f"function '{function.name}'"
        _check(function.node, (given,), place, where)
        made = {name for node in function.node for name in node.output}
        for name in function.output:
            if name not in made:
                what = "is one of its inputs" if name in given else "none of its nodes produces"
                raise ModelError(f"{place} gives '{name}', which {what}", where=where, remedy=_AGAIN)


def _check_graph(graph: onnx.GraphProto, around: tuple[set[str], ...], where: str) -> None:
    given = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    given |= {sparse.values.name for sparse in graph.sparse_initializer}
    _check(graph.node, (*around, given), f"graph '{graph.name}'", where)


def _check(nodes: Iterable[onnx.NodeProto], known: tuple[set[str], ...], place: str, where: str) -> None:
    """Refuse tensors that are produced twice or never, and cycles, in one graph and its subgraphs."""
    made: dict[str, int] = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    scopes = (*known, set(made))
    in_order = True
    for index, node in enumerate(nodes):
        for name in node.output:
            if name and name in known[-1]:
                raise ModelError(
                    f"{_named(node)} of {place} produces '{name}', which is also an input or a weight",
                    where=where,
                    remedy=_AGAIN,
                )
        for name in node.input:
            if name and not any(name in scope for scope in scopes):
                raise ModelError(
                    f"{_named(node)} of {place} reads '{name}', which is neither an input nor a weight "
                    "nor the output of a node",
                    where=where,
                    remedy=_AGAIN,
                )
            in_order = in_order and made.get(name, -1) < index
        for sub in held_by(node):
            _check_graph(sub, scopes, where)
            in_order = False
    if not in_order:
        _refuse_circles(list(nodes), made, place, where)


def _refuse_circles(nodes: list[onnx.NodeProto], made: dict[str, int], place: str, where: str) -> None:
    reads = ((index, {made[name] for name in reads_of(node) if name in made}) for index, node in enumerate(nodes))
    try:
        TopologicalSorter(dict(reads)).prepare()
    except CycleError as error:
        # each node's result is read by the next, and the first is repeated at the end
        circle = [_named(nodes[index]) for index in error.args[1]]
        shown = circle if len(circle) <= _SHOWN + 1 else [*circle[:_SHOWN], "...", circle[-1]]
        raise ModelError(f"{place} has a cycle: {' -> '.join(shown)}", where=where, remedy=_AGAIN) from error


def _named(node: onnx.NodeProto) -> str:
    name = f"'{node.name}'" if node.name else f"of '{next((out for out in node.output if out), '')}'"
    return f"node {name} ({node.op_type})"
