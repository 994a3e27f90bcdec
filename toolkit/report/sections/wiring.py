"""The connections of a report's nodes, with Q/DQ pairs and Casts folded into them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple

from toolkit.graph.layers.work import CONVERSIONS
from toolkit.placement.ops import DEQUANTIZE
from toolkit.report.schema.report import LayerInfo, Report


class Mark(IntFlag):
    """The conversions on a connection."""

    PAIR = 1
    CAST = 2


_BARE, _PAIR, _CAST = Mark(0), Mark.PAIR, Mark.CAST
_SIZES = frozenset({"Shape", "Size"})


class Connection(NamedTuple):
    """A tensor's path from its producer to one reader.

    Attributes:
        source: index of the producer among the layers; -1 for an input of the model.
        target: index of the reader; -1 for an output of the model.
        tensor: the producer's output tensor.
        carried: the tensor in between: the quantized one of a pair, else the reader's input tensor.
        marks: the folded conversions.
    """

    source: int
    target: int
    tensor: str
    carried: str
    marks: Mark


@dataclass(frozen=True)
class Wiring:
    """All connections of a report's layers, by reader.

    Attributes:
        connections: between nodes other than conversions, from the model's inputs and to its outputs.
        weights: from constants to the layers that read them; ``source`` is -1.
        outputs: names of the model's outputs, in the order of the connections to them.
        readers: by index of a conversion, the first layer downstream that is not one; at an output, the first upstream.
        folded: by layer, whether it is a conversion that is folded into a connection.
    """

    connections: list[Connection]
    weights: list[Connection]
    readers: dict[int, int]
    outputs: list[str]
    folded: list[bool]


def folded(layer: LayerInfo) -> bool:
    """Whether a layer is a conversion that is folded into a connection."""
    return layer.op in CONVERSIONS and layer.role == "convert" and bool(layer.inputs)


def wiring(report: Report) -> Wiring:
    """The connections, in linear time; a report of an older version, whose layers name no tensors, has none."""
    found = _Connector(report)
    for index, layer in enumerate(report.layers):
        if not found.is_folded[index]:
            for name in found.read_by(layer):
                found.connect(name, index)
    outputs = [tensor.name for tensor in report.model.outputs if found.reaches(tensor.name)]
    for name in outputs:
        found.connect(name, -1)
    return Wiring(found.connections, found.weights, found.beside, outputs, found.is_folded)


class _Connector:
    """The connections of a report's layers so far.

    Attributes:
        is_folded: by layer whether it is drawn as a mark on a connection.
        connections, weights, beside: see ``Wiring``.
    """

    def __init__(self, report: Report) -> None:
        self.connections: list[Connection] = []
        self.weights: list[Connection] = []
        self.beside: dict[int, int] = {}
        self._layers, self.is_folded = report.layers, [folded(layer) for layer in report.layers]
        self._makers = {name: index for index, layer in enumerate(self._layers) for name in layer.outputs}
        self._given = {tensor.name for tensor in report.model.inputs}
        self._begins = {
            inner: outside for layer in self._layers if layer.begins for inner, outside in layer.begins.items()
        }
        self._origins = self._followed()

    def _followed(self) -> dict[str, tuple[str, str, Mark]]:
        """For each tensor that folded layers make: the tensor they begin with, the one carried, and the mark."""
        origins: dict[str, tuple[str, str, Mark]] = {}
        # in the graph's order, so that what comes before is known already
        for layer in (layer for index, layer in enumerate(self._layers) if self.is_folded[index]):
            start = self.outside(layer.inputs[0])
            before, carried, marks = origins.get(start, (start, "", _BARE))
            own = _CAST if layer.op.startswith("Cast") else _PAIR
            made = layer.outputs[0] if layer.outputs and layer.op != DEQUANTIZE else carried or before
            both = (before, made, marks | own if marks is not _BARE and marks is not own else own)
            origins.update(dict.fromkeys(layer.outputs, both))
        return origins

    def read_by(self, layer: LayerInfo) -> Iterable[str]:
        """The tensors that a layer and its bodies read, each once, by their names outside bodies."""
        names = (*layer.inputs, *layer.ends)
        return dict.fromkeys(map(self.outside, names) if self._begins else names)

    def outside(self, name: str) -> str:
        """The tensor outside a body that an input of the body begins with; any other tensor itself."""
        while name in self._begins and name not in self._makers:
            name = self._begins[name]
        return name

    def reaches(self, name: str) -> bool:
        """Whether a layer makes a tensor, or it is an input."""
        return name in self._makers or name in self._given

    def connect(self, name: str, target: int) -> None:
        """Connect a tensor to a layer, or to an output where ``target`` is -1."""
        maker = self._makers.get(name, -1)
        if name in self._origins:
            origin, carried, marks = self._origins[name]
            source = self._makers.get(origin, -1)
        else:
            origin, carried, marks, source = name, name, _BARE, maker
        found = Connection(source, target, origin, carried or name, marks)
        if source >= 0 or origin in self._given:
            self.connections.append(found)
        elif target >= 0:
            self.weights.append(found)
        while maker >= 0 and self.is_folded[maker]:
            self.beside.setdefault(maker, target if target >= 0 else source)
            maker = self._makers.get(self.outside(self._layers[maker].inputs[0]), -1)


def on_data(layers: Sequence[LayerInfo], found: Wiring) -> set[int]:
    """Indices of the layers without float computation that still pass on data, not only sizes.

    They are on a path from an input or a layer that computes in float to another such layer or an output: for example a
    Gather of tokens, or one of classes by the indices of NonMaxSuppression.
    """
    passing = {index for index, layer in enumerate(layers) if layer.role == "other" and layer.op not in _SIZES}
    if not passing:
        return set()
    successors: dict[int, list[int]] = defaultdict(list)
    predecessors: dict[int, list[int]] = defaultdict(list)
    for one in found.connections:
        successors[one.source].append(one.target)
        predecessors[one.target].append(one.source)
    floats = [index for index, layer in enumerate(layers) if layer.role == "compute"]
    ends = [-1, *floats]
    return _reached(successors, ends, passing) & _reached(predecessors, ends, passing)


def _reached(along: Mapping[int, Sequence[int]], starts: Iterable[int], passing: Container[int]) -> set[int]:
    reached, pending = set[int](), list(starts)
    while pending:
        for index in along.get(pending.pop(), ()):
            if index in passing and index not in reached:
                reached.add(index)
                pending.append(index)
    return reached
