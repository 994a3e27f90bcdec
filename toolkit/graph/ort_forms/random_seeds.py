"""Random numbers that are the same in every run; otherwise two runs of one model would differ like two models.

A random node is replaced by arithmetic that computes its numbers from their position in the output and from the node's
name, so that two models, two sessions of one model and any order of samples get the same numbers. All rows of a batch
get the same numbers too, so that a sample's result does not depend on its batch. Normal numbers are computed from two
uniform ones each (G. E. P. Box and M. E. Muller, "A note on the generation of random normal deviates", Ann. Math. Stat.
29 (1958)). Uniform numbers are positions hashed by multiplication modulo the prime 2^31 - 1, within the range of int64.
A class is drawn as the argmax of logits plus Gumbel noise (E. J. Gumbel, "Statistical theory of extreme values", 1954).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper, numpy_helper

from toolkit.graph.proto.light import is_detached
from toolkit.graph.proto.nodes import ONNX_DOMAINS, inside_out, opset_of, subgraphs_of
from toolkit.graph.proto.stored import constants_of
from toolkit.graph.proto.strangers import operator_of

_SHAPED = frozenset({"RandomNormal", "RandomUniform"})
_LIKE = frozenset({"RandomNormalLike", "RandomUniformLike", "Bernoulli", "Dropout"})
STEADY = _SHAPED | _LIKE | {"Multinomial"}
"""The operators that are replaced, including a Dropout that may be in training mode."""
_TRAINS = 2
"""Index of the Dropout input that enables training mode."""
_PRIME = 2**31 - 1
_MIXED = (48271, 69621, 16807)
"""Primitive roots modulo that prime: S. K. Park and K. W. Miller, Comm. ACM 31 (1988)."""
_CAST_LIKE = 15
"""The opset from which CastLike can take a type from another tensor."""


def fix_random_seeds(proto: onnx.ModelProto, operators: Collection[tuple[str, str]] | None = None) -> bool:
    """Replace random nodes by deterministic arithmetic, in place; returns whether there were any.

    Before opset 15, a node that takes its type from its input is not replaced if inference does not know that type.
    ``operators`` are those of the message, by domain and name, if known.
    """
    if operators is not None and STEADY.isdisjoint(op for _, op in operators):
        return False
    version = opset_of(proto)
    graphs = [graph for graph in inside_out(proto.graph) if any(map(_may_draw, graph.node))]
    if not graphs:
        return False
    idle = _false_constants(proto)
    untyped = version < _CAST_LIKE and any(_by_input(node) for graph in graphs for node in graph.node)
    kinds = _kinds(proto) if untyped else {}
    changed = False
    for graph in graphs:
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        del graph.node[:]
        for node in nodes:
            by_input = untyped and _by_input(node)
            kind = kinds.get(node.input[0]) if by_input else None
            drops = operator_of(node) != "Dropout" or not idle.issuperset(node.input[_TRAINS : _TRAINS + 1])
            if not _may_draw(node) or not drops or (by_input and not kind):
                graph.node.append(node)
                continue
            graph.node.extend(_Drawing(node, kind).nodes())
            changed = True
    return changed


def is_deterministic(node: gs.Node, version: int, kinds: Mapping[str, int]) -> bool:
    """Whether ``fix_random_seeds`` replaces a random node, in a model of opset ``version``.

    ``kinds`` are the inferred element types, by tensor.
    """
    if node.op not in STEADY or node.domain not in ONNX_DOMAINS:
        return False
    typed = node.op in _SHAPED or node.op == "Multinomial" or "dtype" in node.attrs
    return typed or version >= _CAST_LIKE or bool(kinds.get(node.inputs[0].name))


def _may_draw(node: onnx.NodeProto) -> bool:
    if node.op_type not in STEADY or node.domain not in ONNX_DOMAINS:
        return False
    return operator_of(node) != "Dropout" or (len(node.input) > _TRAINS and bool(node.input[_TRAINS]))


def _by_input(node: onnx.NodeProto) -> bool:
    """Whether a random node's output has the type of its input."""
    return operator_of(node) in _LIKE and not any(one.name == "dtype" for one in node.attribute)


def _false_constants(proto: onnx.ModelProto) -> set[str]:
    """The names of stored booleans that are false: a Dropout with one of them as training flag never trains."""
    found = set[str]()
    for graph in (proto.graph, *subgraphs_of(proto.graph)):
        for name, tensor in constants_of(graph):
            in_message = tensor.data_type == TensorProto.BOOL and not is_detached(tensor)
            if in_message and not numpy_helper.to_array(tensor).any():
                found.add(name)
    return found


def _kinds(proto: onnx.ModelProto) -> dict[str, int]:
    """The inferred element types, by tensor, including subgraphs."""
    try:
        inferred = onnx.shape_inference.infer_shapes(proto)
    except Exception:  # whatever it raises: the types stay unknown
        inferred = proto
    found = dict[str, int]()
    for graph in (inferred.graph, *subgraphs_of(inferred.graph)):
        for value in (*graph.value_info, *graph.input, *graph.output):
            found[value.name] = value.type.tensor_type.elem_type
        found.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
    return found


class _Drawing:
    """The nodes that replace a random node; ``kind`` is the type of its input, needed before opset 15."""

    def __init__(self, node: onnx.NodeProto, kind: int | None) -> None:
        self._node, self._kind, self._made = node, kind, list[onnx.NodeProto]()
        self._given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        self._base = node.name or node.output[0]

    def nodes(self) -> list[onnx.NodeProto]:
        op = self._node.op_type
        if op == "Multinomial":
            return self._classes()
        shape, row = self._shape()
        if op == "Dropout":
            return self._dropped(shape, row)
        if op == "Bernoulli":
            likely = self._make("Cast", [self._node.input[0]], to=TensorProto.FLOAT)
            drawn = self._make("Less", [self._shaped(self._uniform(shape, row, 0), shape), likely])
        elif "Normal" in op:
            drawn = self._shaped(self._normal(shape, row), shape)
            drawn = self._scaled(drawn, self._given.get("scale", 1.0), self._given.get("mean", 0.0))
        else:
            low, high = self._given.get("low", 0.0), self._given.get("high", 1.0)
            drawn = self._shaped(self._uniform(shape, row, 0), shape)
            drawn = self._scaled(drawn, high - low, low)
        self._typed(drawn)
        return self._made

    def _typed(self, drawn: str) -> None:
        """Output the drawn numbers in the node's type, under the node's own output name."""
        out, kind = list(self._node.output), self._given.get("dtype")
        if kind is None and operator_of(self._node) in _SHAPED:
            kind = TensorProto.FLOAT
        if kind is not None:
            self._made.append(helper.make_node("Cast", [drawn], out, self._base, to=kind))
        else:
            self._made.append(self._like_input(drawn, out[0], self._base))

    def _like_input(self, values: str, out: str, name: str) -> onnx.NodeProto:
        """A node that converts values to the type of the node's first input."""
        if self._kind is not None:
            return helper.make_node("Cast", [values], [out], name, to=self._kind)
        return helper.make_node("CastLike", [values, self._node.input[0]], [out], name)

    def _dropped(self, shape: str, row: str) -> list[onnx.NodeProto]:
        """Replace a Dropout (ONNX's Operators.md).

        In training mode, values are kept if a uniform number is at least the ratio, and scaled by 1 / (1 - ratio);
        otherwise all values pass through unchanged.
        """
        data, ratio, trains = self._node.input
        share = self._make("Cast", [ratio], to=TensorProto.FLOAT) if ratio else self._float(0.5)
        idle = self._make("Not", [trains])
        below = self._make("Less", [self._shaped(self._uniform(shape, row, 0), shape), share])
        kept = self._make("Or", [self._make("Not", [below]), idle])
        one = self._float(1.0)
        scale = self._make("Where", [idle, one, self._make("Div", [one, self._make("Sub", [one, share])])])
        factor = self._make("Mul", [self._make("Cast", [kept], to=TensorProto.FLOAT), scale])
        typed = f"{self._base}/drawn factor"
        self._made.append(self._like_input(factor, typed, typed))
        outs = [*self._node.output, ""]
        if outs[0]:
            self._made.append(helper.make_node("Mul", [data, typed], [outs[0]], self._base))
        if outs[1]:
            self._made.append(helper.make_node("Identity", [kept], [outs[1]], f"{self._base}/drawn mask"))
        return self._made

    def _classes(self) -> list[onnx.NodeProto]:
        """Replace a Multinomial (ONNX's Operators.md): classes from unnormalized log-probabilities [rows, classes]."""
        logits = self._make("Cast", [self._node.input[0]], to=TensorProto.FLOAT)
        classes = self._make("Gather", [self._make("Shape", [logits]), self._constant([1])], axis=0)
        shape = self._make("Concat", [self._constant([self._given.get("sample_size", 1)]), classes], axis=0)
        uniform = self._shaped(self._uniform(shape, self._at_least_one(self._product(shape)), 0), shape)
        inner = self._make("Neg", [self._make("Log", [uniform])])
        gumbel = self._make("Neg", [self._make("Log", [inner])])
        apart = self._make("Concat", [self._constant([-1, 1]), classes], axis=0)
        scores = self._make("Add", [self._make("Reshape", [logits, apart]), gumbel])
        drawn = self._make("ArgMax", [scores], axis=2, keepdims=0)
        kind = self._given.get("dtype", TensorProto.INT32)
        self._made.append(helper.make_node("Cast", [drawn], list(self._node.output), self._base, to=kind))
        return self._made

    def _shape(self) -> tuple[str, str]:
        """The output's shape, int64 [rank], and the number of values per row of the batch, int64 [1].

        Without a batch axis that is the number of all values.
        """
        if operator_of(self._node) in _SHAPED:
            sides = list(self._given["shape"])
            return self._constant(sides), self._constant([max(math.prod(sides), 1)])
        shape = self._make("Shape", [self._node.input[0]])
        size = self._make("Reshape", [self._make("Size", [self._node.input[0]]), self._constant([1])])
        rank = self._make("Shape", [shape])
        # rows are the first dimension if there are several, else 1, also for a scalar
        extents = self._make("Concat", [self._constant([1]), shape], axis=0)
        several = self._make("Cast", [self._make("Less", [self._constant([1]), rank])], to=TensorProto.INT64)
        rows = self._make("Gather", [extents, several], axis=0)
        return shape, self._at_least_one(self._make("Div", [size, self._at_least_one(rows)]))

    def _uniform(self, shape: str, row: str, which: int) -> str:
        """Uniform numbers between 0 and 1, both excluded, float32 [values]."""
        seed = crc32(f"{self._base}/{which}/{self._given.get('seed', 0.0)}".encode()) % _PRIME
        one = numpy_helper.from_array(np.array([1], np.int64))
        ones = self._make("ConstantOfShape", [self._at_least_one(self._product(shape))], value=one)
        place = self._make("Reshape", [self._make("NonZero", [ones]), self._constant([-1])])
        place = self._rest(place, row)
        prime, hashed = self._constant([_PRIME]), place
        for factor in _MIXED:
            shifted = self._make("Add", [hashed, self._constant([seed + 1])])
            hashed = self._rest(self._make("Mul", [shifted, self._constant([factor])]), prime)
            hashed = self._rest(self._make("Mul", [hashed, hashed]), prime)
        number = self._make("Cast", [hashed], to=TensorProto.FLOAT)
        return self._make("Mul", [self._make("Add", [number, self._float(0.5)]), self._float(1 / (_PRIME + 1))])

    def _normal(self, shape: str, row: str) -> str:
        first, second = (self._uniform(shape, row, which) for which in (0, 1))
        reach = self._make("Sqrt", [self._make("Mul", [self._make("Log", [first]), self._float(-2.0)])])
        angle = self._make("Cos", [self._make("Mul", [second, self._float(2 * math.pi)])])
        return self._make("Mul", [reach, angle])

    def _shaped(self, values: str, shape: str) -> str:
        """Reshape values; an empty shape needs the single value that exists in that case."""
        one = self._constant([1])
        empty = self._make("Equal", [self._product(shape), self._constant([0])])
        extents = self._make("Where", [empty, one, shape])
        return self._make("Add", [self._make("Reshape", [values, extents]), self._make("ConstantOfShape", [shape])])

    def _product(self, shape: str) -> str:
        """The number of values of a shape, int64 [1]."""
        size = self._make("Size", [self._make("ConstantOfShape", [shape])])
        return self._make("Reshape", [size, self._constant([1])])

    def _at_least_one(self, number: str) -> str:
        return self._make("Where", [self._make("Equal", [number, self._constant([0])]), self._constant([1]), number])

    def _rest(self, values: str, divisor: str) -> str:
        """The remainder of an integer division; Mod exists only from opset 10 on."""
        whole = self._make("Mul", [self._make("Div", [values, divisor]), divisor])
        return self._make("Sub", [values, whole])

    def _scaled(self, values: str, scale: float, shift: float) -> str:
        return self._make("Add", [self._make("Mul", [values, self._float(scale)]), self._float(shift)])

    def _float(self, value: float) -> str:
        return self._stored(np.array(value, np.float32))

    def _constant(self, values: Sequence[int]) -> str:
        return self._stored(np.array(values, np.int64))

    def _stored(self, values: Any) -> str:
        return self._make("Constant", [], value=numpy_helper.from_array(values))

    def _make(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"{self._base}/drawn {len(self._made)}"
        self._made.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name
