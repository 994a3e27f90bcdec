"""Sorting a graph's nodes and dropping unused ones like onnx-graphsurgeon, but in linear time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from operator import gt

import onnx_graphsurgeon as gs

from toolkit.base.errors import PassError
from toolkit.graph.surgery.assemble import bodies, detach


def sort(graph: gs.Graph, recurse: bool = True) -> None:
    """Sort nodes by their greatest depth, so that each is after the producers of its inputs; subgraphs too.

    The order is the same as that of onnx-graphsurgeon's ``Graph.toposort``.

    Raises:
        PassError: the graph has a cycle.
    """
    for sub in _directly_in(graph) if recurse else ():
        sort(sub)
    _place(graph, _stored_order(graph))


def tidy(graph: gs.Graph) -> None:
    """Like ``drop_unused`` and then ``sort``, in one pass over a graph that is sorted and has no unused nodes."""
    for sub in _directly_in(graph):
        drop_unused(sub)
    _disconnect_inputs(graph)
    found = _stored_order(graph)
    if found is None:
        _drop_unread(graph)
    elif found.unread.difference(map(id, graph.outputs)):
        levels = {id(node): level for node, level in zip(graph.nodes, found.levels)}
        if _drop_unread(graph):
            # all producers of the nodes that remain do so too
            found = _StoredOrder([levels[id(node)] for node in graph.nodes], found.unread)
    for sub in _directly_in(graph):
        sort(sub)
    _place(graph, found)


@dataclass(frozen=True)
class _StoredOrder:
    """The order of a graph's nodes, each of which is stored after the producers of its inputs.

    Attributes:
        levels: the level of each node.
        unread: ids of the tensors that none of the nodes reads.
    """

    levels: list[int]
    unread: set[int]


def _stored_order(graph: gs.Graph) -> _StoredOrder | None:
    """The order of a graph whose nodes are each stored after the producers of their inputs, as in nearly all cases.

    None otherwise, and if a node is stored twice or has no outputs, or two nodes produce one tensor.
    """
    levels: list[int] = []
    read: list[int] = []
    made: dict[int, int] = {}
    known, add = made.get, read.append
    inside: set[int] = set()
    outputs = 0
    for node in graph.nodes:
        highest = -1
        attrs = node.attrs
        for tensor in node.inputs if not attrs or gs.Graph not in map(type, attrs.values()) else _read_outside(node):
            number = id(tensor)
            level = known(number)
            if level is not None:
                add(number)
                if level > highest:
                    highest = level
            elif tensor.inputs:
                inside = inside or {id(one) for one in graph.nodes}
                if any(id(maker) in inside for maker in tensor.inputs):
                    return None
        highest += 1
        levels.append(highest)
        gives = node.outputs
        if not gives:
            return None
        outputs += len(gives)
        for tensor in gives:
            made[id(tensor)] = highest
    return _StoredOrder(levels, made.keys() - read) if len(made) == outputs else None


def _place(graph: gs.Graph, found: _StoredOrder | None) -> None:
    """Store the nodes of a graph by their levels; ``found`` is their order if it is known.

    Raises:
        PassError: the graph has a cycle.
    """
    ordered, levels = _searched(graph) if found is None else (list(graph.nodes), found.levels)
    if any(map(gt, levels, islice(levels, 1, None))):
        ordered = [ordered[place] for place in sorted(range(len(levels)), key=levels.__getitem__)]
    graph.nodes = ordered


def _searched(graph: gs.Graph) -> tuple[list[gs.Node], list[int]]:
    """The nodes, each after the producers of its inputs, and the level of each.

    Raises:
        PassError: the graph has a cycle.
    """
    levels: dict[int, int] = {}
    ordered: list[gs.Node] = []
    inside = {id(node) for node in graph.nodes}
    for node in graph.nodes:
        if id(node) not in levels:
            _level(node, inside, levels, ordered)
    return ordered, [levels[id(node)] for node in ordered]


def _level(first: gs.Node, inside: set[int], levels: dict[int, int], ordered: list[gs.Node]) -> None:
    """Determine the level of a node, after the levels of its producers that have none yet."""
    pending = [(first, iter(_makers(first, inside)))]
    entered = {id(first)}
    highest = [-1]
    while pending:
        node, makers = pending[-1]
        for maker in makers:
            level = levels.get(id(maker))
            if level is None:
                if id(maker) in entered:
                    raise PassError(f"the graph has a cycle through node '{maker.name}'")
                entered.add(id(maker))
                pending.append((maker, iter(_makers(maker, inside))))
                highest.append(-1)
                break
            highest[-1] = max(highest[-1], level)
        else:
            pending.pop()
            entered.discard(id(node))
            levels[id(node)] = level = highest.pop() + 1
            ordered.append(node)
            if highest:
                highest[-1] = max(highest[-1], level)


def _directly_in(graph: gs.Graph) -> list[gs.Graph]:
    return [sub for node in graph.nodes if node.attrs for sub in bodies(node)]


def drop_unused(graph: gs.Graph) -> None:
    """Drop nodes that no output of their graph depends on, subgraphs first; inputs and outputs stay."""
    for sub in _directly_in(graph):
        drop_unused(sub)
    _disconnect_inputs(graph)
    _drop_unread(graph)


def _disconnect_inputs(graph: gs.Graph) -> None:
    for tensor in graph.inputs:
        tensor.inputs.clear()


def _drop_unread(graph: gs.Graph) -> bool:
    """Drop nodes that no output of a graph depends on; returns whether there were any."""
    unread = _unread(graph)
    if unread:
        detach(unread)
        gone = {id(node) for node in unread}
        graph.nodes = [node for node in graph.nodes if id(node) not in gone]
    return bool(unread)


def _unread(graph: gs.Graph) -> list[gs.Node]:
    """The nodes of a graph that no output depends on."""
    needed = set(map(id, graph.outputs))
    add = needed.update
    unread = []
    for node in reversed(graph.nodes):
        if needed.isdisjoint(map(id, node.outputs)):
            unread.append(node)
            continue
        add(map(id, node.inputs))
        if node.attrs and gs.Graph in map(type, node.attrs.values()):
            add(map(id, _read_inside(node)))
    if not any(id(tensor) in needed for node in unread for tensor in node.outputs):
        return unread
    # a node is stored after one of its readers: traverse from node to node instead
    inside = {id(node) for node in graph.nodes}
    pending = [maker for tensor in graph.outputs for maker in tensor.inputs if id(maker) in inside]
    used = {id(node) for node in pending}
    while pending:
        for maker in _makers(pending.pop(), inside):
            if id(maker) not in used:
                used.add(id(maker))
                pending.append(maker)
    return [node for node in unread if id(node) not in used]


def _makers(node: gs.Node, inside: set[int]) -> list[gs.Node]:
    """The nodes of a graph that produce a node's inputs, including reads in its subgraphs."""
    read = (*node.inputs, *_read_inside(node))
    return [maker for tensor in read for maker in tensor.inputs if id(maker) in inside]


def _read_outside(node: gs.Node) -> list[gs.Tensor]:
    """The tensors that a node and its subgraphs read, without those that are produced in its subgraphs."""
    inner = {id(tensor) for sub in bodies(node, recursive=True) for one in sub.nodes for tensor in one.outputs}
    return [tensor for tensor in (*node.inputs, *_read_inside(node)) if id(tensor) not in inner]


def _read_inside(node: gs.Node) -> Iterator[gs.Tensor]:
    """The tensors that a node's subgraphs read and return."""
    for sub in bodies(node, recursive=True):
        yield from sub.outputs
        for inner in sub.nodes:
            yield from inner.inputs
