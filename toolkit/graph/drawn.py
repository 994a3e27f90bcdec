"""Random numbers that are the same in every run: without that, a model differs from itself as from any other.

A node that draws is replaced by arithmetic that makes its numbers of their place in the output and of the node's name:
two models, two sessions of one and any order of the samples then see the same ones. Rows of a batch get the same
numbers too, so that a sample has the same alone and among others. Normal numbers are G. E. P. Box and M. E. Muller's,
"A note on the generation of random normal deviates", Ann. Math. Stat. 29 (1958), of two uniform ones each; these are a
place hashed by products modulo the prime 2^31 - 1, which int64 holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper, numpy_helper

from toolkit.graph.nodes import inside_out, opset_of

_ONNX = ("", "ai.onnx")
_SHAPED = frozenset({"RandomNormal", "RandomUniform"})
_LIKE = frozenset({"RandomNormalLike", "RandomUniformLike", "Bernoulli"})
STEADY = _SHAPED | _LIKE
"""The operators that are replaced."""
_PRIME = 2**31 - 1
_MIXED = (48271, 69621, 16807)
"""Primitive roots of that prime: S. K. Park and K. W. Miller, Comm. ACM 31 (1988)."""
_CAST_LIKE = 15
"""The opset from which on a type is taken from another tensor."""


def draw_the_same(proto: onnx.ModelProto) -> bool:
    """Replace what draws random numbers, in place; whether there was any.

    A node that takes its type from its input stays as it is before opset 15.
    """
    version = opset_of(proto)
    changed = False
    for graph in inside_out(proto.graph):
        if not any(_draws(node, version) for node in graph.node):
            continue
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        del graph.node[:]
        for node in nodes:
            graph.node.extend(_Drawing(node).nodes() if _draws(node, version) else [node])
        changed = True
    return changed


def is_steady(node: gs.Node, version: int) -> bool:
    """Whether ``draw_the_same`` replaces a node that draws, in a model of that opset."""
    return _replaced(node.op, node.domain or "", "dtype" in node.attrs, version)


def _draws(node: onnx.NodeProto, version: int) -> bool:
    typed = node.op_type in STEADY and any(one.name == "dtype" for one in node.attribute)
    return _replaced(node.op_type, node.domain, typed, version)


def _replaced(op: str, domain: str, typed: bool, version: int) -> bool:
    return op in STEADY and domain in _ONNX and (typed or op in _SHAPED or version >= _CAST_LIKE)


class _Drawing:
    """The nodes that stand in for one that draws."""

    def __init__(self, node: onnx.NodeProto) -> None:
        self._node, self._made = node, list[onnx.NodeProto]()
        self._given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        self._base = node.name or node.output[0]

    def nodes(self) -> list[onnx.NodeProto]:
        op = self._node.op_type
        shape, row = self._shape()
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
        """Give what was drawn, in the node's type, under the node's own name."""
        out, kind = list(self._node.output), self._given.get("dtype")
        if kind is None and self._node.op_type in _SHAPED:
            kind = TensorProto.FLOAT
        if kind is not None:
            self._made.append(helper.make_node("Cast", [drawn], out, self._base, to=kind))
        else:
            self._made.append(helper.make_node("CastLike", [drawn, self._node.input[0]], out, self._base))

    def _shape(self) -> tuple[str, str]:
        """The output's shape, int64 [rank], and how many values a row of the batch has, int64 [1]; all where there is
        no other axis.
        """
        if self._node.op_type in _SHAPED:
            sides = list(self._given["shape"])
            return self._constant(sides), self._constant([max(math.prod(sides), 1)])
        shape = self._make("Shape", [self._node.input[0]])
        size = self._make("Reshape", [self._make("Size", [self._node.input[0]]), self._constant([1])])
        rank = self._make("Shape", [shape])
        # the extents of a number are none: one in front of them is the rows of it, and of an axis alone
        extents = self._make("Concat", [self._constant([1]), shape], axis=0)
        several = self._make("Cast", [self._make("Less", [self._constant([1]), rank])], to=TensorProto.INT64)
        rows = self._make("Gather", [extents, several], axis=0)
        return shape, self._at_least_one(self._make("Div", [size, self._at_least_one(rows)]))

    def _uniform(self, shape: str, row: str, which: int) -> str:
        """Numbers between 0 and 1, neither of them among these, float32 [values]."""
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
        """Values in a shape; one of none, which no values have, is made of the one that there is then."""
        one = self._constant([1])
        empty = self._make("Equal", [self._product(shape), self._constant([0])])
        extents = self._make("Where", [empty, one, shape])
        return self._make("Add", [self._make("Reshape", [values, extents]), self._make("ConstantOfShape", [shape])])

    def _product(self, shape: str) -> str:
        """How many values a shape has, int64 [1]."""
        size = self._make("Size", [self._make("ConstantOfShape", [shape])])
        return self._make("Reshape", [size, self._constant([1])])

    def _at_least_one(self, number: str) -> str:
        return self._make("Where", [self._make("Equal", [number, self._constant([0])]), self._constant([1]), number])

    def _rest(self, values: str, divisor: str) -> str:
        """What integers leave when divided; Mod came with opset 10."""
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
