"""Layers between two convolutions computed in the blocked layout that onnxruntime's convolutions hand on.

Its convolutions compute in blocks of 8 or 16 channels. Operators that it does not know in this layout, Q/DQ pairs and
the parts of a HardSwish among them, get what they read reordered, and what they give is reordered back. What treats
every value alike gives the same values in any order: in the model as onnxruntime has rewritten it, reordering is put
behind it, where it meets the one back and both go. On an EfficientNet-Lite with all pairs that is three tenths of a
run, bit by bit the same.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping

import onnx

from toolkit.graph.proto.names import Names
from toolkit.graph.proto.nodes import reads_of

BLOCK = 16
"""A multiple of every block: with other channel counts the last block is padded."""
_AXES = 4
"""Of what is reordered: onnxruntime computes convolutions over two axes in blocks."""
_OUT, _BACK = "ReorderOutput", "ReorderInput"
_ALIKE = frozenset({
    "QuantizeLinear", "DequantizeLinear", "Cast", "Add", "Sub", "Mul", "Div", "Min", "Max", "Clip", "Relu", "Neg",
    "Abs", "HardSigmoid", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "QuickGelu",
})  # fmt: skip
"""Operators that do the same to every value; other inputs are scalars. Of the last four onnxruntime moves some itself.
"""
_TYPES = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})
"""Those whose result has another type than what they read."""


def reorders_to_plain(node: onnx.NodeProto) -> bool:
    """Whether a node does nothing but bring whole blocks of channels into the plain layout."""
    whole = node.op_type == _OUT and attribute_of(node, "channels") % BLOCK == 0
    return whole and not attribute_of(node, "channels_last")


def keep_blocked_layout(proto: onnx.ModelProto, any_order: bool = False) -> bool:
    """Compute what lies between convolutions in their layout, in place; returns whether anything has changed.

    Args:
        proto: a model as onnxruntime has rewritten it, its nodes in order.
        any_order: whether outputs need not be in plain layout in the end.
    """
    regions = _Regions(proto.graph, any_order)
    roots = regions.worthwhile()
    if roots:
        nodes = regions.rewritten(roots)
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
    return bool(roots)


class _Regions:
    """Tensors that could be in blocked layout, each with the output of the node that first reorders them, its root.

    Args:
        graph: the graph.
        any_order: see ``keep_blocked_layout``.

    Attributes:
        root: by tensor the output of its root.
        orders: by such an output its node.
        narrow: the tensors whose type is not float32, which onnxruntime does not reorder.
        useful: the tensors that are reordered back, or of which such tensors are made.
        plain: the useful tensors that others read, or that are outputs.
        gone: by root what the nodes that reorder back give.
    """

    def __init__(self, graph: onnx.GraphProto, any_order: bool) -> None:
        self.graph, self.root, self.narrow = graph, dict[str, str](), set[str]()
        self.orders: dict[str, onnx.NodeProto] = {}
        self.useful: set[str] = set()
        self.gone: dict[str, list[str]] = defaultdict(list)
        self._outputs = {value.name for value in graph.output}
        self._any_order = any_order
        self._follow()
        read = self._look_back()
        self.plain = self.useful & (read | self._outputs)
        self._counted = self.useful & read if any_order else self.plain

    def _follow(self) -> None:
        scalars = _scalars(self.graph)
        for node in self.graph.node:
            made = node.output[0]
            if reorders_to_plain(node):
                self.root[made], self.orders[made] = made, node
            elif node.op_type in _ALIKE and len(node.output) == 1:
                read = [name for name in node.input if name and name not in scalars]
                # tensors of one root have one shape
                roots = {self.root.get(name) for name in read}
                if len(roots) == 1 and (only := roots.pop()) is not None:
                    self.root[made] = only
                    kept = node.op_type not in _TYPES and not self.narrow.isdisjoint(read)
                    cast = node.op_type == "Cast" and attribute_of(node, "to") != onnx.TensorProto.FLOAT
                    if kept or cast or node.op_type == "QuantizeLinear":
                        self.narrow.add(made)

    def _look_back(self) -> set[str]:
        """Find which tensors are useful; returns those that are read in plain layout."""
        inner = {name for node in self.graph.node for name in set(reads_of(node)).difference(node.input)}
        read = set[str]()
        for node in reversed(self.graph.node):
            made = node.output[0]
            if self._is_back(node) and made not in inner:
                self.useful.add(node.input[0])
                self.gone[self.root[node.input[0]]].append(made)
            elif made in self.root and made not in self.orders and self._is_useful(made):
                self.useful.add(made)
                self.useful.update(name for name in node.input if name in self.root)
            else:
                read.update(reads_of(node))
        return read

    def _is_useful(self, made: str) -> bool:
        return made in self.useful or (self._any_order and made in self._outputs)

    def _is_back(self, node: onnx.NodeProto) -> bool:
        return node.op_type == _BACK and node.input[0] in self.root and not attribute_of(node, "channels_last")

    def worthwhile(self) -> set[str]:
        """The roots behind which less is reordered than before."""
        left = Counter(self.root[name] for name in self._counted)
        never = {self.root[name] for name in self.plain & self.narrow}
        roots = {self.root[name] for name in self.useful}
        return {root for root in roots if left[root] < 1 + len(self.gone[root])} - never

    def rewritten(self, roots: Collection[str]) -> list[onnx.NodeProto]:
        """The nodes, with what is made behind these roots in blocked layout."""
        names = Names({name for node in self.graph.node for name in (*reads_of(node), *node.output)})
        gone = {name for root in roots for name in self.gone[root]}
        nodes, blocked, taken = list[onnx.NodeProto](), dict[str, str](), dict[str, str]()
        for node in self.graph.node:
            made = node.output[0]
            if made in gone:
                taken[made] = blocked[node.input[0]]
            elif made in self.useful and self.root[made] in roots:
                if made in self.orders:
                    blocked[made] = taken.get(node.input[0], node.input[0])
                else:
                    blocked[made] = names.take(f"{made} blocked")
                    nodes.append(_twin(node, blocked, blocked[made]))
                if made in self.plain:
                    order = _twin(self.orders[self.root[made]], {}, made)
                    order.name, order.input[0] = "", blocked[made]
                    nodes.append(order)
            else:
                nodes.append(_twin(node, taken, made))
        return nodes


def _twin(node: onnx.NodeProto, names: Mapping[str, str], output: str) -> onnx.NodeProto:
    """A node that reads other tensors in the place of some, and whose first output has a name of its own."""
    if output == node.output[0] and names.keys().isdisjoint(node.input):
        return node
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    twin.output[0] = output
    for index, name in enumerate(twin.input):
        twin.input[index] = names.get(name, name)
    return twin


def _scalars(graph: onnx.GraphProto) -> set[str]:
    """Tensors of one value that do not depend on others in the graph, and do not give what is combined more axes."""
    held = (tensor for tensor in graph.initializer if len(tensor.dims) <= _AXES)
    found = {tensor.name for tensor in held if math.prod(tensor.dims) == 1}
    for value in graph.input:
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and not tensor.shape.dim:
            found.add(value.name)
    return found


def attribute_of(node: onnx.NodeProto, name: str) -> int:
    """An attribute that is an integer; 0 where it is not there."""
    return next((one.i for one in node.attribute if one.name == name), 0)
