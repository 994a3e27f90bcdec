"""Move large weights in Constant nodes or in bodies of If, Loop and Scan to initializers of the main graph.

Only initializers can be stored outside a message: weights in a node or body are part of it, however large.
"""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import TensorProto

from toolkit.graph.proto.light import is_large
from toolkit.graph.proto.names import Names
from toolkit.graph.proto.nodes import held_by, subgraphs_of
from toolkit.graph.proto.strangers import operator_of

_OLDEST_IR = 4
"""Older IR versions require initializers to be inputs too."""


def hoist_weights(proto: onnx.ModelProto) -> int:
    """Make large tensors with external data initializers of the main graph, in place; returns their number.

    Bodies can read the values of enclosing graphs (docs/IR.md, "Graphs"). A name that is defined more than once is made
    unique with a number. Outputs of their own graph are not moved.
    """
    graph = proto.graph
    if proto.ir_version < _OLDEST_IR:
        return 0
    bodies = list(subgraphs_of(graph))
    given = Counter(name for one in (graph, *bodies) for name in _given(one))
    taken, found = Names(given), list[TensorProto]()
    # inner graphs first, since a graph's nodes may be replaced by copies
    for body in (*reversed(bodies), graph):
        outputs = {value.name for value in body.output}
        for name, tensor in _taken_out(body, outputs, body is graph):
            found.append(TensorProto())
            found[-1].CopyFrom(tensor)
            found[-1].name = name
            if given[name] > 1:
                found[-1].name = taken.take(name)
                _call(body, name, found[-1].name)
    graph.initializer.extend(found)
    return len(found)


def _given(graph: onnx.GraphProto) -> list[str]:
    """The names that a graph defines: inputs, initializers and node outputs."""
    made = [name for node in graph.node for name in node.output if name]
    return [*made, *(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)]


def _taken_out(body: onnx.GraphProto, outputs: set[str], main: bool) -> list[tuple[str, TensorProto]]:
    """Remove large tensors with external data from one graph; returns them with their names in it."""
    found, kept, nodes = list[tuple[str, TensorProto]](), list[TensorProto](), list[onnx.NodeProto]()
    for tensor in () if main else body.initializer:
        apart = _is_apart(tensor) and tensor.name not in outputs
        found += [(tensor.name, tensor)] if apart else []
        kept += [] if apart else [tensor]
    for node in body.node:
        held = node.attribute[0] if operator_of(node) == "Constant" and len(node.attribute) == 1 else None
        apart = held is not None and held.name == "value" and _is_apart(held.t) and node.output[0] not in outputs
        found += [(node.output[0], held.t)] if held is not None and apart else []
        nodes += [] if apart else [node]
    # copy the tensors, which are freed with the list they are in
    found = [(name, TensorProto.FromString(tensor.SerializeToString())) for name, tensor in found]
    if len(nodes) < len(body.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del body.node[:]
        body.node.extend(copies)
    if not main and len(kept) < len(body.initializer):
        tensors = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del body.initializer[:]
        body.initializer.extend(tensors)
    return found


def _is_apart(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL and is_large(tensor)


def _call(body: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a tensor in the inputs of a body's nodes, and in inner bodies that define no other tensor of its name."""
    for node in body.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new
        for sub in held_by(node):
            if old not in _given(sub):
                _call(sub, old, new)
