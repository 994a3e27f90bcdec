"""The order of a graph's nodes, and dropping those that no output needs: onnx-graphsurgeon's, in linear time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import onnx_graphsurgeon as gs

from toolkit.base.errors import PassError
from toolkit.graph.assemble import detach, subgraphs


def sort(graph: gs.Graph, recurse: bool = True) -> None:
    """Put every node behind those whose results it reads, by how many lie before it at most; subgraphs too.

    The order is the one that ``Graph.toposort`` of onnx-graphsurgeon gives.

    Raises:
        PassError: the graph has a cycle.
    """
    for sub in list(_directly_in(graph)) if recurse else ():
        sort(sub)
    levels: dict[int, int] = {}
    ordered: list[gs.Node] = []
    inside: set[int] | None = None
    for node in graph.nodes:
        highest: int | None = -1
        for tensor in node.inputs:
            for maker in tensor.inputs:
                level = levels.get(id(maker))
                highest = None if level is None or highest is None else max(highest, level)
        if highest is not None and gs.Graph not in map(type, node.attrs.values()):
            # nearly all nodes stand behind what they read
            if id(node) not in levels:
                levels[id(node)] = highest + 1
                ordered.append(node)
        elif id(node) not in levels:
            inside = inside if inside is not None else {id(one) for one in graph.nodes}
            _level(node, inside, levels, ordered)
    keys = [levels[id(node)] for node in ordered]
    if any(before > after for before, after in pairwise(keys)):
        ordered = [ordered[place] for place in sorted(range(len(keys)), key=keys.__getitem__)]
    graph.nodes = ordered


def _level(first: gs.Node, inside: set[int], levels: dict[int, int], ordered: list[gs.Node]) -> None:
    """Give a node its level, and before it those that it depends on where they have none yet."""
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


def drop_unused(graph: gs.Graph) -> None:
    """Drop the nodes that no output of their graph needs, in subgraphs first; inputs and outputs stay."""
    for sub in list(_directly_in(graph)):
        drop_unused(sub)
    for tensor in graph.inputs:
        tensor.inputs.clear()
    inside = {id(node) for node in graph.nodes}
    pending = [maker for tensor in graph.outputs for maker in tensor.inputs if id(maker) in inside]
    used = {id(node) for node in pending}
    while pending:
        for maker in _makers(pending.pop(), inside):
            if id(maker) not in used:
                used.add(id(maker))
                pending.append(maker)
    if len(used) < len(inside):
        detach(node for node in graph.nodes if id(node) not in used)
        graph.nodes = [node for node in graph.nodes if id(node) in used]


def _makers(node: gs.Node, inside: set[int]) -> list[gs.Node]:
    """The nodes of a graph whose results a node reads, itself or by its subgraphs."""
    found = []
    for tensor in node.inputs:
        for maker in tensor.inputs:
            if id(maker) in inside:
                found.append(maker)
    for value in node.attrs.values():
        if isinstance(value, gs.Graph):
            for sub in (value, *subgraphs(value)):
                read = (*sub.outputs, *(tensor for inner in sub.nodes for tensor in inner.inputs))
                found += [maker for tensor in read for maker in tensor.inputs if id(maker) in inside]
    return found


def _directly_in(graph: gs.Graph) -> Iterator[gs.Graph]:
    for node in graph.nodes:
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                yield value
