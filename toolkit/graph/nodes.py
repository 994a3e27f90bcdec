"""Walking the nodes of an ONNX message, subgraphs included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes with those of their subgraphs, each behind the node that holds it."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for sub in (attribute.g, *attribute.graphs):
                yield from all_nodes(sub.node)


def subgraphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The subgraphs of a graph, at any depth."""
    for node in graph.node:
        for attribute in node.attribute:
            for sub in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                yield sub
                yield from subgraphs_of(sub)
