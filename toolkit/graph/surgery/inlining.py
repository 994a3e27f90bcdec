"""Inlining of an If with a constant condition: it is replaced by the nodes of the branch that is taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx_graphsurgeon as gs

from toolkit.graph.proto.names import Names
from toolkit.graph.surgery.assemble import bodies
from toolkit.graph.surgery.tensors import make_node, reroute

_BRANCHES = ("then_branch", "else_branch")


class Inliner:
    """Replaces Ifs by branches. A branch's nodes keep their names, its tensors too if these are unused elsewhere.

    Args:
        graph: the main graph; names must be unique in it and all its subgraphs.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self._nodes = Names(node.name for node in nodes_of(graph))
        self._holders = Counter(tensor.name for tensor in _tensors(graph))

    def inline(self, graph: gs.Graph, index: int, condition: bool) -> str:
        """Replace the If at ``index`` of a graph or subgraph by a branch; returns which, ``then`` or ``else``.

        Outputs of the If keep their names, since they may be outputs of the graph. An Identity is inserted for a result
        that no node of the branch produces (a constant, or one that the branch outputs twice). The branch's declared
        shape of a result is dropped: exporters declare shapes of other cases, and inference finds the true one.
        """
        node = graph.nodes[index]
        taken, left = _BRANCHES if condition else _BRANCHES[::-1]
        branch: gs.Graph = node.attrs[taken]
        self._drop(node.attrs[left])
        self._rename(branch)
        results = list(node.outputs)
        node.inputs.clear()
        # onnx-graphsurgeon removes tensors from this list during a loop that clears their producers: clear it at once
        node.outputs.clear()
        nodes = list(branch.nodes)
        makers = {id(tensor): maker for maker in nodes for tensor in maker.outputs}
        named: dict[int, gs.Tensor] = {}
        for result, inner in zip(results, branch.outputs):
            if result.is_empty():
                continue
            result.dtype = result.dtype if result.dtype is not None else inner.dtype
            maker = makers.pop(id(inner), None)
            if maker is None:
                name = self._nodes.take(f"{node.name}_{result.name}")
                nodes.append(make_node("Identity", name, [named.get(id(inner), inner)], [result]))
                continue
            named[id(inner)] = result
            place = next(i for i, tensor in enumerate(maker.outputs) if tensor is inner)
            maker.outputs[place] = result
            reroute(inner, result)
        graph.nodes[index : index + 1] = nodes
        return taken.partition("_")[0]

    def _drop(self, branch: gs.Graph) -> None:
        """Release the names of a branch that is never taken, and remove it from the readers of its tensors."""
        self._holders.subtract(tensor.name for tensor in _tensors(branch))
        for node in nodes_of(branch):
            node.inputs.clear()

    def _rename(self, branch: gs.Graph) -> None:
        """Rename the branch's tensors that have the name of another tensor in the model."""
        for tensor in _tensors(branch):
            if self._holders[tensor.name] > 1:
                self._holders[tensor.name] -= 1
                base, number = tensor.name, 2
                while self._holders[f"{base}_{number}"]:
                    number += 1
                tensor.name = f"{base}_{number}"
                self._holders[tensor.name] = 1


def nodes_of(graph: gs.Graph) -> Iterator[gs.Node]:
    """The nodes of a graph and its subgraphs, each after the node that contains it."""
    for node in list(graph.nodes):
        yield node
        for sub in bodies(node):
            yield from nodes_of(sub)


def _tensors(graph: gs.Graph) -> list[gs.Tensor]:
    """The tensors of a graph and its subgraphs that no enclosing graph uses, without duplicates."""
    nodes = list(nodes_of(graph))
    inside = {id(node) for node in nodes}
    found = {id(tensor): tensor for tensor in (*graph.inputs, *graph.outputs)}
    for node in nodes:
        found.update((id(tensor), tensor) for tensor in node.outputs)
        for sub in bodies(node):
            found.update((id(tensor), tensor) for tensor in (*sub.inputs, *sub.outputs))
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant) and all(id(reader) in inside for reader in tensor.outputs):
                found[id(tensor)] = tensor
    return [tensor for tensor in found.values() if not tensor.is_empty()]
