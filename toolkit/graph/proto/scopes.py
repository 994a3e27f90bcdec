"""Unique names of tensors in subgraphs: none shadows a tensor of an enclosing graph."""

from __future__ import annotations

from collections.abc import Mapping, Set

import onnx

from toolkit.graph.proto.names import Names
from toolkit.graph.proto.nodes import held_by, subgraphs_of


def unshadowed(graph: onnx.GraphProto) -> int:
    """Rename, in place, tensors of subgraphs with the name of a tensor in an enclosing graph; returns their number.

    ONNX requires names to be unique in a graph and its enclosing graphs (docs/IR.md, "Names Within a Graph"), but
    onnxruntime runs a body that reuses the name of a tensor computed later. Code that identifies tensors by name would
    confuse the two.
    """
    inner = list(subgraphs_of(graph))
    if not inner:
        return 0
    taken = Names(name for one in (graph, *inner) for name in defined(one))
    around = defined(graph)
    return sum(_rename(sub, around, {}, taken) for node in graph.node for sub in held_by(node))


def defined(graph: onnx.GraphProto) -> set[str]:
    """The names of the tensors that a graph defines itself: inputs, initializers and node outputs."""
    made = {name for node in graph.node for name in node.output if name}
    return made | {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}


def _rename(graph: onnx.GraphProto, around: Set[str], renamed: Mapping[str, str], taken: Names) -> int:
    """Rename tensors that a subgraph defines; ``renamed`` has the new names of tensors in enclosing graphs."""
    own = defined(graph)
    fresh = {name: taken.take(name) for name in sorted(own & around)}
    # a name that is read before the subgraph defines it refers to the outer tensor
    known = {name: new for name, new in renamed.items() if name not in own}
    for value in (*graph.input, *graph.initializer):
        if value.name in fresh:
            known[value.name] = fresh[value.name]
            value.name = fresh[value.name]
    count = len(fresh)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = known.get(name, renamed.get(name, name))
        for sub in held_by(node):
            count += _rename(sub, around | own, {**renamed, **known}, taken)
        for place, name in enumerate(node.output):
            if name in fresh:
                known[name] = node.output[place] = fresh[name]
    for value in (*graph.output, *graph.value_info):
        value.name = fresh.get(value.name, known.get(value.name, renamed.get(value.name, value.name)))
    return count
