"""Switches: an ``If`` with the same nodes in both branches, fake-quantized in one and float in the other."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import onnx
from onnx import TensorProto, helper, numpy_helper

from toolkit.base.types import Array
from toolkit.simulation.paired_graph import PairedGraph


class Branch:
    """One branch of a switch: nodes with names of their own, and the constants that they read.

    Attributes:
        nodes: the branch's nodes.
        constants: the branch's own constants, by name.
        shared: values by name of constants that it reads from the piece's main graph, if weights are too large for
            copies.
        result: name of the tensor that the branch returns.
    """

    def __init__(self, graph: PairedGraph, members: Sequence[onnx.NodeProto], word: str) -> None:
        self._graph, self._members = graph, members
        self._prefix = f"qtool {members[0].name or members[0].output[0]} {word} "
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.shared: dict[str, Array] = {}
        self.result = ""

    def name(self, base: str) -> str:
        """A name that is unique to this branch."""
        return self._prefix + base

    def pair(self, tensor: str, scale: str) -> str:
        """Quantize and dequantize an activation; returns the name of the result."""
        nodes, zero = self._graph.pair(tensor, scale, lambda word: self.name(f"{tensor} {word}"))
        self.constants[zero.name] = zero
        self.nodes += nodes
        return str(nodes[-1].output[0])

    def weight(self, tensor: str, axis: int | None) -> str:
        """Add the fake-quantized copy of a weight; returns its name."""
        if self._graph.shares and tensor in self._graph.weights:
            name, self.shared[name] = self._graph.shared_quantized(tensor, axis)
            return name
        name = self.name(f"{tensor} dq")
        self.constants[name] = self._graph.quantized_weight(tensor, axis, name)
        return name

    def layers(self, replaced: dict[int, str], corrected: bool = False) -> None:
        """Add copies of the layer's nodes.

        Args:
            replaced: by index, inputs of the first node to replace, with their new names.
            corrected: whether to use corrected biases, if there are any.
        """
        made: dict[str, str] = {}
        for position, node in enumerate(self._members):
            twin = deepcopy(node)
            for index, tensor in enumerate(node.input):
                if position == 0 and index in replaced:
                    twin.input[index] = replaced[index]
                elif corrected and (node.name, index) in self._graph.biases:
                    twin.input[index] = self._constant(f"{tensor} corrected", self._graph.biases[node.name, index])
                elif tensor in made:
                    twin.input[index] = made[tensor]
                elif tensor in self._graph.constants:
                    twin.input[index] = self._own(tensor)
            for index, tensor in enumerate(node.output):
                made[tensor] = twin.output[index] = self.name(tensor)
            self.nodes.append(twin)
        self.result = self.nodes[-1].output[0]

    def _own(self, tensor: str) -> str:
        weights = self._graph.weights
        if self._graph.shares and tensor in weights:
            self.shared[tensor] = weights[tensor]
            return tensor
        # onnxruntime fuses convolutions only with constants inside the branch
        if tensor not in weights:
            return self._constant(tensor, self._graph.constants[tensor])
        name = self.name(tensor)
        self.constants[name] = numpy_helper.from_array(weights[tensor], name)
        return name

    def _constant(self, base: str, values: onnx.TensorProto) -> str:
        """Add this branch's own copy of a constant; returns its name."""
        name = self.name(base)
        copy = deepcopy(values)
        copy.name = name
        self.constants[name] = copy
        return name

    def subgraph(self, like: str) -> onnx.GraphProto:
        """The branch as a subgraph whose output has the type of the tensor ``like``."""
        kind = self._graph.type_of(like) or TensorProto.FLOAT
        output = helper.make_tensor_value_info(self.result, kind, None)
        return helper.make_graph(self.nodes, "branch", [], [output], list(self.constants.values()))


def switch_node(condition: str, result: str, then: onnx.GraphProto, other: onnx.GraphProto) -> onnx.NodeProto:
    """The ``If`` that runs ``then`` if ``condition`` is true, else ``other``."""
    return helper.make_node("If", [condition], [result], name=f"{condition} if", then_branch=then, else_branch=other)
