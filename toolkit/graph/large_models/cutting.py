"""Partitioning of a graph into parts whose weights fit into memory, or that have a limited number of nodes.

Cuts are made before nodes with weights, where few tensors are alive and onnxruntime fuses nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from onnx import TensorProto

from toolkit.base.errors import ModelError
from toolkit.base.types import Array
from toolkit.graph.large_models.memory import least_limit
from toolkit.graph.proto.light import LightModel
from toolkit.graph.proto.nodes import all_nodes, reads_of
from toolkit.graph.proto.strangers import operator_of

Operators = Collection[tuple[str, str]]
"""Domains and names of operators."""
SHARE = 2
"""A partition may use this fraction (1/2) of the memory for weights, since float and quantized model run together."""
MOST_BLOCKED = 5_000
"""Largest number of nodes of a graph in which onnxruntime's blocked layout of convolution results is considered."""
_WITH_WEIGHTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "QuantizeLinear"})
"""Operators that almost always begin a layer with weights, however small these are."""
_FUSED = frozenset({"Transpose", "Mul", "Div", "Pad", "QuantizeLinear", "DequantizeLinear"})
"""Operators that onnxruntime may fuse with a following node with weights."""
_BLOCKED = frozenset({"Conv", "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"})
"""Operators with results in onnxruntime's blocked layout; an Add that reads one is fused into a convolution."""
_KEEP_BLOCKED = frozenset({
    "BatchNormalization", "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "Add", "Sum", "Mul", "Concat",
    "Resize", "Upsample",
})  # fmt: skip
_HALF_KERNELS = frozenset({
    "Cast", "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
})  # fmt: skip
"""Operators whose results onnxruntime rounds to float16 or not, depending on the neighbouring nodes."""
_FLOAT16 = TensorProto.FLOAT16
_WIDE = 4
"""Bytes of a float32."""
_NO_TENSOR = ("Sequence", "Optional", "SplitToSequence")


@dataclass(frozen=True)
class Partition:
    """Consecutive nodes of a model.

    Attributes:
        nodes: indices of nodes in the main graph; nodes that compute constants for several partitions are in each of
            these.
        weights: the large weights that they read.
        reads: tensors that they read from earlier partitions, and inputs of the model.
        gives: tensors that later partitions read, and outputs of the model.
        constants: all initializers that they read, including large ones, in the model's order.
    """

    nodes: Sequence[int]
    weights: Sequence[str]
    reads: Sequence[str]
    gives: Sequence[str]
    constants: Sequence[str] = ()

    @classmethod
    def whole(cls, model: LightModel) -> Partition:
        """The partition of a model that is not cut."""
        return cls(range(len(model.proto.graph.node)), list(model.weights), [], [])


def by_nodes(model: LightModel, most: int, operators: Operators | None = None) -> list[Partition]:
    """Partition a model into parts of roughly at most ``most`` nodes; one part if it is smaller or cannot be cut.

    ``operators`` are those of the model, possibly with others; None if unknown.
    """
    if len(model.proto.graph.node) <= most or not _hands_on_tensors(model, operators):
        return [Partition.whole(model)]
    cut = Cut(model, most)
    return cut.partitions() if cut.makes_outputs() else [Partition.whole(model)]


def by_widened(model: LightModel, most: int) -> list[Partition]:
    """Partition a model so that its weights with less than 32 bits need at most ``most`` bytes per part when widened.

    onnxruntime computes nodes that depend on no input before they are needed, 1.32 at the beginning of a run: an uncut
    model in float16 or with weights stored in INT8 would have all its weights in memory in float32 at once. A partition
    of one node may exceed the limit.
    """
    sizes = {name: widened_bytes(values) for name, values in model.weights.items() if values.itemsize < _WIDE}
    if sum(sizes.values()) <= most or not _hands_on_tensors(model):
        return [Partition.whole(model)]
    cut = Cut(model, most, sizes, at_least_one=True)
    return cut.partitions() if cut.makes_outputs() else [Partition.whole(model)]


def widened_bytes(values: Array) -> int:
    """Bytes that a weight needs in a run: integers and float16 are widened to float32."""
    return values.size * max(values.itemsize, _WIDE)


def _hands_on_tensors(model: LightModel, operators: Operators | None = None) -> bool:
    """Whether all values between nodes are known to be tensors; for ``operators`` see ``by_nodes``."""
    graph = model.proto.graph
    if graph.sparse_initializer or not all(_kinds(model)):
        return False
    if operators is not None and not any(op.startswith(_NO_TENSOR) for _, op in operators):
        return True
    # operators that are not known beforehand may produce sequences too
    return not any(operator_of(node).startswith(_NO_TENSOR) for node in all_nodes(graph.node))


def _kinds(model: LightModel) -> list[int]:
    graph = model.proto.graph
    return [value.type.tensor_type.elem_type for value in graph.input] + [one.data_type for one in graph.initializer]


def _rounded_or_not(model: LightModel) -> set[str]:
    """The float16 results of ``_HALF_KERNELS``; in a model with float16 tensors also results of unknown type."""
    graph = model.proto.graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    if _FLOAT16 not in (*kinds.values(), *_kinds(model)):
        return set()
    for node in graph.node:
        if operator_of(node) == "Cast":
            kinds.update((name, one.i) for name in node.output for one in node.attribute if one.name == "to")
    made = (name for node in graph.node if operator_of(node) in _HALF_KERNELS for name in node.output if name)
    return {name for name in made if kinds.get(name, 0) in (0, _FLOAT16)}


class Cut:
    """Chooses the places where a graph is cut.

    Args:
        model: the model, its nodes sorted.
        limit: the limit of a partition, as bytes of large weights or as number of nodes.
        sizes: bytes of each large weight; None to count nodes instead, in which case a partition exceeds the limit if
            there is no place without fusion.
        at_least_one: whether a partition of one node may exceed the limit.
    """

    def __init__(
        self,
        model: LightModel,
        limit: int,
        sizes: Mapping[str, int] | None = None,
        at_least_one: bool = False,
    ) -> None:
        graph = model.proto.graph
        self._where, self._weights, self._limit, self._sizes = model.where, model.weights, limit, sizes
        self._at_least_one = at_least_one
        self._nodes = list(graph.node)
        self._ops = [operator_of(node) for node in self._nodes]
        self._makes = [list(node.output) for node in self._nodes]
        self._outputs = {value.name for value in graph.output}
        self._reads = [reads_of(node) for node in self._nodes]
        self._half = _rounded_or_not(model)
        self._constants = {tensor.name: place for place, tensor in enumerate(graph.initializer)}
        self._constant_makers = self._constant_nodes()
        self._begins = [
            op in _WITH_WEIGHTS if sizes is None else not reads.isdisjoint(sizes)
            for op, reads in zip(self._ops, self._reads)
        ]
        self._order = self._ordered()
        self._own = [self._with_constants(index) for index in self._order]
        self._holds: list[set[Any]] = list(self._own)
        if sizes is not None:
            self._holds = [{name for i in own for name in self._reads[i] if name in sizes} for own in self._own]
        self._lives = self._find_lives()

    @property
    def largest(self) -> int:
        """The size of the node with the largest weights."""
        return max(map(self._size, self._holds), default=0)

    def makes_outputs(self) -> bool:
        """Whether each of the graph's outputs is produced by a node."""
        return self._outputs <= {name for made in self._makes for name in made}

    def partitions(self) -> list[Partition]:
        """The graph in partitions that respect the limit."""
        places = [0, *self._places(), len(self._order)]
        found, made_before = list[tuple[list[int], set[str], set[str]]](), set[str]()
        for first, last in pairwise(places):
            nodes = sorted({index for own in self._own[first:last] for index in own})
            made = {name for index in nodes for name in self._makes[index] if name}
            reads = {name for index in nodes for name in self._reads[index]} - made - self._constants.keys()
            found.append((nodes, reads, made))
        last_read = {name: number for number, (_, reads, _) in enumerate(found) for name in reads}
        result: list[Partition] = []
        for number, (nodes, reads, made) in enumerate(found):
            later = {name for name in made if last_read.get(name, -1) > number}
            # tensors computed from constants exist in several partitions; the first one passes them on
            given = (later | made & self._outputs) - made_before
            made_before |= given
            gives = sorted(given)
            stored = {name for index in nodes for name in self._reads[index] if name in self._constants}
            weights = sorted(name for name in stored if name in self._weights)
            constants = sorted(stored, key=lambda name: self._constants[name])
            result.append(Partition(nodes, weights, sorted(reads), gives, constants))
        return result

    def _constant_nodes(self) -> dict[int, set[int]]:
        """Nodes that compute constants from constants, each with the others it needs; they are copied to readers."""
        makers: dict[str, int] = {}
        found: dict[int, set[int]] = {}
        known = set(self._constants)
        for index, (op, reads) in enumerate(zip(self._ops, self._reads)):
            if (
                reads <= known
                and not op.startswith(("Random", "Multinomial"))
                and self._outputs.isdisjoint(self._makes[index])
            ):
                needed = {makers[name] for name in reads if name in makers}
                found[index] = needed.union(*(found[other] for other in needed))
                makers.update((name, index) for name in self._makes[index] if name)
                known.update(filter(None, self._makes[index]))
        self._makers = makers
        return found

    def _ordered(self) -> list[int]:
        """The nodes except those of constants; nodes that lead only to outputs, such as taps, as early as possible."""
        order = [index for index in range(len(self._nodes)) if index not in self._constant_makers]
        inner: set[str] = set()
        early: set[int] = set()
        for index in reversed(order):
            if inner.isdisjoint(self._makes[index]) and not self._begins[index]:
                early.add(index)
            else:
                inner |= self._reads[index]
        ready: dict[str, int] = {}
        keys: dict[int, int] = {}
        for index in order:
            keys[index] = key = (
                max((ready.get(name, -1) for name in self._reads[index]), default=-1) if index in early else index
            )
            for name in self._makes[index]:
                ready[name] = key
        return sorted(order, key=lambda index: (keys[index], index))

    def _with_constants(self, index: int) -> set[int]:
        reads = self._reads[index]
        if self._makers.keys().isdisjoint(reads):
            return {index}
        needed = {self._makers[name] for name in reads if name in self._makers}
        return {index, *needed, *(one for other in needed for one in self._constant_makers[other])}

    def _find_lives(self) -> dict[str, tuple[int, int]]:
        """For each tensor the first and last place at which it is alive; a place is the position before a node.

        Storing the set of live tensors at every place would need a gigabyte for a few hundred thousand nodes.
        """
        last: dict[str, int] = {}
        for place, index in enumerate(self._order):
            for name in self._reads[index]:
                last[name] = place
        return {
            name: (place + 1, last[name])
            for place, index in enumerate(self._order)
            for name in self._makes[index]
            if last.get(name, -1) > place
        }

    def _alive(self, among: Collection[str] | None = None) -> list[int]:
        """The number of tensors alive before each node, counting only those in ``among`` if it is given."""
        more = [0] * (len(self._order) + 1)
        for name, (first, last) in self._lives.items():
            if among is None or name in among:
                more[first] += 1
                more[last + 1] -= 1
        return list(accumulate(more[:-1]))

    def _places(self) -> list[int]:
        """The places at which the graph is cut."""
        makers = {name: self._ops[index] for index in self._order for name in self._makes[index]}
        clean, possible = self._clean(makers), list[int]()
        if self._sizes is not None:
            # cutting between nodes that onnxruntime would fuse is the last resort
            others = self._alive({name for name, op in makers.items() if op.startswith(_NO_TENSOR)})
            possible = [place for place, number in enumerate(others) if not number]
        alive, found = self._alive(), list[int]()
        start, held, total = 0, set[Any](), 0
        for place, holds in enumerate(self._holds):
            if self._sizes is not None and not self._at_least_one and self._size(holds) > self._limit:
                raise self._too_large()
            total += self._size(holds - held)
            held |= holds
            while total > self._limit:
                options = _within(clean, start + 1, place) or _within(possible, start + 1, place)
                if not options and (self._sizes is None or place == start):
                    break
                half = self._half_full(start, place)
                options = [one for one in options or [place] if one >= half] or options or [place]
                start = min(options, key=lambda one: (alive[one], -one))
                found.append(start)
                held = set().union(*self._holds[start : place + 1])
                total = self._size(held)
        return found

    def _clean(self, makers: Mapping[str, str]) -> list[int]:
        """The places before nodes with weights where onnxruntime fuses nothing."""
        fused = {name for name, op in makers.items() if op in _FUSED} | self._half
        if len(self._nodes) <= MOST_BLOCKED:
            fused |= self._blocked()
        return [
            place
            for place, (own, number) in enumerate(zip(self._own, self._alive(fused)))
            if not number and any(self._begins[index] for index in own)
        ]

    def _blocked(self) -> set[str]:
        """The tensors that may be in blocked layout."""
        found: set[str] = set()
        for node, op in zip(self._nodes, self._ops):
            if op in _BLOCKED or (op in _KEEP_BLOCKED and found.intersection(node.input)):
                found.update(node.output)
        return found

    def _half_full(self, start: int, place: int) -> int:
        """The first place at which the partition from ``start`` on reaches half of its limit."""
        seen, total = set[Any](), 0
        for one in range(start, place):
            total += self._size(self._holds[one] - seen)
            seen |= self._holds[one]
            if 2 * total >= self._limit:
                return one + 1
        return place

    def _size(self, holds: set[Any]) -> int:
        return len(holds) if self._sizes is None else sum(self._sizes[name] for name in holds)

    def _too_large(self) -> ModelError:
        sizes = [self._size(weights) for weights in self._holds]
        size = max(sizes)
        node = self._nodes[self._order[sizes.index(size)]]
        return ModelError(
            f"node '{node.name}' ({node.op_type}) alone needs {size / 1e6:,.2f} MB for its weights, and the memory "
            f"limit leaves {self._limit / 1e6:,.2f} MB for a partition",
            where=self._where,
            remedy=f'set [run] memory to "{-(-least_limit(size * SHARE) // 10**6)}MB" or more',
        )


def _within(places: list[int], first: int, last: int) -> list[int]:
    """The places from ``first`` to ``last``, both included, of a sorted list."""
    return places[bisect_left(places, first) : bisect_left(places, last + 1)]
