"""Move Q/DQ pairs from the inputs of a Concat to its output if all inputs have the same pair.

Engines quantize all inputs of a Concat with one scale, which takes as many pairs as inputs. A pair rounds element-wise,
so a single pair after the Concat gives exactly the same values. For a graph of wide Concats this reduces a session's
nodes to little more than half.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from itertools import chain

import onnx

from toolkit.graph.proto.names import Names
from toolkit.graph.proto.nodes import opset_of, reads_of
from toolkit.graph.proto.strangers import operator_of

_TYPES_APART = 23
"""The opset from which QuantizeLinear's input may differ in type from its scale: inputs with one scale may differ."""
_PAIR = _QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def move_pairs_after_concats(proto: onnx.ModelProto) -> int:
    """Move pairs from before Concats to after them in the main graph; the message is changed.

    A pair stays if a tensor inside it has other readers, if its scale is not a scalar constant, or if its result is a
    model output.

    Returns:
        The number of pairs removed.
    """
    if opset_of(proto) >= _TYPES_APART:
        return 0
    graph, ops = proto.graph, [operator_of(node) for node in proto.graph.node]
    concats = [node for node, op in zip(graph.node, ops) if op == "Concat" and not node.domain]
    if not concats or _DEQUANTIZE not in ops:
        return 0
    made = {node.output[0]: node for node, op in zip(graph.node, ops) if op in _PAIR and not node.domain}
    if not any(all(name in made for name in node.input) for node in concats):
        return 0
    moved = _Moved(graph, made)
    gone = sum(map(moved.move_after, concats))
    if gone:
        moved.rebuild()
    return gone


class _Moved:
    """The pairs of a graph that are moved.

    Args:
        made: the nodes of pairs, by their output.
    """

    def __init__(self, graph: onnx.GraphProto, made: dict[str, onnx.NodeProto]) -> None:
        self._graph, self._made = graph, made
        given = {value.name for value in graph.input}
        self._stored = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in given}
        self._outputs = {value.name for value in graph.output}
        self._readers = Counter(chain.from_iterable(map(_reads, graph.node)))
        self._names = Names(self._readers)
        self._names.update(chain.from_iterable(node.output for node in graph.node))
        self._keys: dict[str, bytes | None] = {}
        self._gone: set[str] = set()
        self._after: dict[str, list[onnx.NodeProto]] = {}

    def move_after(self, concat: onnx.NodeProto) -> int:
        """Move all pairs that every input of a Concat has to its output; returns the number of pairs removed."""
        gone, after = 0, list[onnx.NodeProto]()
        while concat.input and (first := self._pair(concat.input[0])) is not None:
            pairs = {name: pair for name in concat.input if (pair := self._pair(name)) is not None}
            if len(pairs) < 2 or not all(name in pairs for name in concat.input):
                # moving a single pair removes none
                break
            keys = {self._key(pair) for pair in pairs.values()}
            if len(keys) > 1 or None in keys:
                break
            whole = concat.output[0]
            joined, levels = self._names.take(f"{whole} joined"), self._names.take(f"{whole} quantized")
            made = []
            for node, read, given in zip(first, (joined, levels), (levels, whole)):
                copy = onnx.NodeProto.FromString(node.SerializeToString())
                copy.input[0], copy.output[0] = read, given
                self._made[given], self._readers[read] = copy, 1
                made.append(copy)
            self._gone.update(node.output[0] for pair in pairs.values() for node in pair)
            concat.input[:] = [pairs[name][0].input[0] for name in concat.input]
            concat.output[0] = joined
            after = [*made, *after]
            gone += len(pairs) - 1
        if after:
            self._after[concat.output[0]] = after
        return gone

    def rebuild(self) -> None:
        """Rebuild the list of nodes."""
        kept = [
            one
            for node in self._graph.node
            for one in (node, *self._after.get(node.output[0] if node.output else "", ()))
            if not one.output or one.output[0] not in self._gone
        ]
        del self._graph.node[:]
        self._graph.node.extend(kept)

    def _pair(self, name: str) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
        """The pair that produces a tensor, if nothing else reads the tensor or the tensors inside the pair."""
        dequantize = self._made.get(name)
        if dequantize is None or operator_of(dequantize) != _DEQUANTIZE or not self._read_once(name):
            return None
        quantize = self._made.get(dequantize.input[0])
        if quantize is None or operator_of(quantize) != _QUANTIZE or not self._read_once(dequantize.input[0]):
            return None
        return quantize, dequantize

    def _read_once(self, name: str) -> bool:
        return self._readers[name] == 1 and name not in self._outputs

    def _key(self, pair: tuple[onnx.NodeProto, onnx.NodeProto]) -> bytes | None:
        """A key that identifies the function of a pair; None if it is not the same for all values."""
        found = []
        for node in pair:
            found += [one.SerializeToString(deterministic=True) for one in node.attribute]
            for name in list(node.input)[1:]:
                held = self._constant(name) if name else b""
                if held is None:
                    return None
                found.append(held)
            found.append(node.op_type.encode())
        return repr(found).encode()

    def _constant(self, name: str) -> bytes | None:
        """A stored scalar with its type, serialized without its name; None if the tensor is not a stored scalar."""
        if name not in self._keys:
            tensor, key = self._stored.get(name), None
            if tensor is not None and all(size == 1 for size in tensor.dims) and len(tensor.dims) < 2:
                copy = deepcopy(tensor)
                copy.ClearField("name")
                key = copy.SerializeToString(deterministic=True)
            self._keys[name] = key
        return self._keys[name]


def _reads(node: onnx.NodeProto) -> Iterable[str]:
    """The names that a node reads, without duplicates if it may have any; fast, as it is called for all nodes."""
    if operator_of(node) in _PAIR:
        return node.input
    return reads_of(node)
