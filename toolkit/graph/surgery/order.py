"""Sorting a graph's nodes and dropping unused ones like onnx-graphsurgeon, but in linear time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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
    levels: dict[int, int] = {}
    ordered: list[gs.Node] = []
    inside: set[int] | None = None
    last, rising = 0, True
    for node in graph.nodes:
        if id(node) in levels:
            continue
        level = _level_at_once(node, levels)
        if level is not None:
            levels[id(node)] = level
            ordered.append(node)
            rising, last = rising and level >= last, level
        else:
            inside = inside if inside is not None else {id(one) for one in graph.nodes}
            _level(node, inside, levels, ordered)
            rising = False
    if not rising:
        keys = [levels[id(node)] for node in ordered]
        ordered = [ordered[place] for place in sorted(range(len(keys)), key=keys.__getitem__)]
    graph.nodes = ordered


def _level_at_once(node: gs.Node, levels: Mapping[int, int]) -> int | None:
    """The level of a node after all its producers, as in nearly all cases; None if it must be searched for."""
    if node.attrs and gs.Graph in map(type, node.attrs.values()):
        return None
    highest = -1
    try:
        for tensor in node.inputs:
            for maker in tensor.inputs:
                level = levels[id(maker)]
                if level > highest:
                    highest = level
    except KeyError:
        return None
    return highest + 1


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
    return [sub for node in graph.nodes for sub in bodies(node)]


def drop_unused(graph: gs.Graph) -> None:
    """Drop nodes that no output of their graph depends on, subgraphs first; inputs and outputs stay."""
    for sub in _directly_in(graph):
        drop_unused(sub)
    for tensor in graph.inputs:
        tensor.inputs.clear()
    unread = _unread(graph)
    if unread:
        detach(unread)
        gone = {id(node) for node in unread}
        graph.nodes = [node for node in graph.nodes if id(node) not in gone]


def _unread(graph: gs.Graph) -> list[gs.Node]:
    """The nodes of a graph that no output depends on."""
    needed = {id(tensor) for tensor in graph.outputs}
    unread = []
    for node in reversed(graph.nodes):
        for tensor in node.outputs:
            if id(tensor) in needed:
                needed.update(map(id, node.inputs))
                if node.attrs:
                    needed.update(map(id, _read_inside(node)))
                break
        else:
            unread.append(node)
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


def _read_inside(node: gs.Node) -> Iterator[gs.Tensor]:
    """The tensors that a node's subgraphs read and return."""
    for sub in bodies(node, recursive=True):
        yield from sub.outputs
        for inner in sub.nodes:
            yield from inner.inputs
