"""Matches nodes of two runs whose names differ, as with two exporters of one network.

Nodes are distinguished by operator, work and size of weights, and by their surroundings, as in the Weisfeiler-Lehman
colour refinement of graphs, starting with the widest surroundings; neighbours of matched nodes are matched next.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

from toolkit.report.schema.report import LayerInfo, Report
from toolkit.report.sections.wiring import folded, wiring

_DEPTH = 8
_MOSTLY = 0.5
"""The least share of nodes with equal names for names to be trusted: exporters that number nodes can produce equal
names by chance.
"""
_LINEAR = {"Gemm": "linear", "MatMul": "linear"}


@dataclass
class _Graph:
    """A report's layers as a graph without Q/DQ nodes and Casts.

    Attributes:
        layers: all of them.
        nodes: indices of the layers other than conversions.
        predecessors: by node, the nodes whose tensors it reads, in the order of its inputs; -1 for a model input.
        successors: by node, the nodes that read it.
        kinds: by node, its operator, multiply-accumulates and largest weight's number of elements.
        conversions: by the node downstream and the conversion's operator, the Q/DQ nodes and Casts.
    """

    layers: list[LayerInfo]
    nodes: list[int]
    predecessors: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    successors: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    kinds: dict[int, Hashable] = field(default_factory=dict)
    conversions: dict[tuple[int, str], list[int]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, report: Report) -> _Graph:
        layers = report.layers
        made = cls(layers, [index for index, layer in enumerate(layers) if not folded(layer)])
        found = wiring(report)
        for one in found.connections:
            if one.target >= 0:
                made.predecessors[one.target].append(one.source)
                if one.source >= 0:
                    made.successors[one.source].append(one.target)
        sizes = {
            tensor.name: math.prod(s for s in tensor.shape or () if isinstance(s, int)) for tensor in report.tensors
        }
        weights: dict[int, list[int]] = defaultdict(list)
        for one in found.weights:
            weights[one.target].append(sizes.get(one.tensor, 0))
        for index in made.nodes:
            layer = layers[index]
            # only the largest distinguishes layers: scales and biases differ from exporter to exporter
            made.kinds[index] = (_LINEAR.get(layer.op, layer.op), layer.macs or 0, max(weights[index], default=0))
        for index, reader in found.readers.items():
            made.conversions[reader, layers[index].op].append(index)
        return made

    def labels(self) -> list[dict[int, int]]:
        """By depth, a hash of each node's kind and of its surroundings up to that distance."""
        now = {index: hash(self.kinds[index]) for index in self.nodes}
        found = [now]
        for _ in range(_DEPTH):
            last = found[-1]
            found.append(
                {
                    index: hash(
                        (
                            last[index],
                            tuple(last.get(one, one) for one in self.predecessors[index]),
                            tuple(sorted(last.get(one, one) for one in self.successors[index])),
                        )
                    )
                    for index in self.nodes
                }
            )
        return found


def match(first: Report, other: Report) -> dict[str, str]:
    """By node of the first report, the corresponding node of the other; unmatched nodes are left out."""
    alike = _by_name(first, other)
    smaller = min(len(first.layers), len(other.layers))
    if len(alike) == smaller and len(first.layers) == len(other.layers):
        # all names correspond, so surroundings need not be compared
        return {name: name for name in alike}
    pairs = _SameNodes(_Graph.of(first), _Graph.of(other))
    places = {layer.node: index for index, layer in enumerate(other.layers)}
    own = {layer.node: index for index, layer in enumerate(first.layers)}
    if len(alike) >= _MOSTLY * smaller:
        for name in alike:
            pairs.add(own[name], places[name])
    pairs.by_structure()
    return {first.layers[a].node: other.layers[b].node for a, b in pairs.found.items()}


def _by_name(first: Report, other: Report) -> list[str]:
    """The names of nodes that both have with the same operator."""
    ops = {layer.node: layer.op for layer in other.layers}
    return [layer.node for layer in first.layers if ops.get(layer.node) == layer.op]


class _SameNodes:
    """The matched nodes of two graphs so far."""

    def __init__(self, one: _Graph, two: _Graph) -> None:
        self.one, self.two = one, two
        self.found: dict[int, int] = {}
        self.taken: set[int] = set()

    def add(self, a: int, b: int) -> bool:
        """Match two nodes; False if either is matched already."""
        if a in self.found or b in self.taken:
            return False
        self.found[a] = b
        self.taken.add(b)
        return True

    def by_structure(self) -> None:
        """Match the remaining nodes, first those that are unique by their widest surroundings."""
        self._spread(list(self.found.items()))
        for mine, theirs in zip(reversed(self.one.labels()), reversed(self.two.labels())):
            added = []
            for a, b in self._unique(mine, theirs):
                if self.add(a, b):
                    added.append((a, b))
            self._spread(added)
        self._in_order()
        self._conversions()

    def _left(self) -> tuple[list[int], list[int]]:
        return (
            [index for index in self.one.nodes if index not in self.found],
            [index for index in self.two.nodes if index not in self.taken],
        )

    def _unique(self, mine: dict[int, int], theirs: dict[int, int]) -> Iterable[tuple[int, int]]:
        left, right = self._left()
        for a, b in _grouped(left, right, mine.__getitem__, theirs.__getitem__):
            if len(a) == len(b) == 1:
                yield a[0], b[0]

    def _spread(self, pairs: list[tuple[int, int]]) -> None:
        """Match the producers of a matched pair's corresponding inputs, and its readers if unique in kind."""
        while pairs:
            a, b = pairs.pop()
            if a not in self.one.kinds or b not in self.two.kinds:
                continue
            near = list(zip(self.one.predecessors[a], self.two.predecessors[b]))
            left = [index for index in dict.fromkeys(self.one.successors[a]) if index not in self.found]
            right = [index for index in dict.fromkeys(self.two.successors[b]) if index not in self.taken]
            for readers, others in _grouped(left, right, self.one.kinds.__getitem__, self.two.kinds.__getitem__):
                near += [(readers[0], others[0])] if len(readers) == len(others) == 1 else []
            for c, d in near:
                if c >= 0 and d >= 0 and self.one.kinds[c] == self.two.kinds[d] and self.add(c, d):
                    pairs.append((c, d))

    def _in_order(self) -> None:
        """Match indistinguishable nodes in graph order, if both graphs have equally many."""
        left, right = self._left()
        for a, b in _grouped(left, right, self.one.kinds.__getitem__, self.two.kinds.__getitem__):
            if len(a) == len(b):
                for pair in zip(a, b):
                    self.add(*pair)

    def _conversions(self) -> None:
        """Match Q/DQ nodes and Casts whose following nodes match."""
        for (reader, op), mine in self.one.conversions.items():
            theirs = self.two.conversions.get((self.found.get(reader, -1), op), [])
            if len(mine) == len(theirs):
                for pair in zip(mine, theirs):
                    self.add(*pair)


def _grouped(
    left: Iterable[int], right: Iterable[int], mine: Callable[[int], Hashable], theirs: Callable[[int], Hashable]
) -> list[tuple[list[int], list[int]]]:
    """The nodes of both sides grouped by label, for labels that both have, in the order of the first side."""
    groups: dict[Hashable, tuple[list[int], list[int]]] = {}
    for index in left:
        groups.setdefault(mine(index), ([], []))[0].append(index)
    for index in right:
        groups.setdefault(theirs(index), ([], []))[1].append(index)
    return [pair for pair in groups.values() if all(pair)]
