"""Reorder rounding Casts and Q/DQ pairs so that onnxruntime can fuse the nodes that they separate.

The values do not change. Rounding is monotonic and keeps zeros and 16-bit numbers, so it may follow an operator that
selects among such values. A pair quantizes each element separately, so it may precede a Pad.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from toolkit.graph.proto.light import LightModel, is_detached
from toolkit.graph.proto.nodes import reads_of
from toolkit.graph.proto.strangers import operator_of
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE

_ACTIVATIONS = frozenset({"Relu", "Clip"})
"""Operators that onnxruntime fuses into the convolution before them."""


def fused_more(model: LightModel, outputs: Collection[str]) -> LightModel:
    """Move rounding after activations and Pads after pairs, in place; returns the model.

    Args:
        model: the result of ``with_rounding``.
        outputs: names of the tensors needed besides the graph's outputs; the values of other inner tensors may change.
    """
    graph = model.proto.graph
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    reads = Counter(name for node in nodes for name in reads_of(node))
    reads.update([*outputs, *(value.name for value in graph.output)])
    order = _RoundingOrder(nodes, reads, {tensor.name: tensor for tensor in graph.initializer})
    for node in nodes:
        if operator_of(node) in _ACTIVATIONS:
            order.round_after(node)
        elif operator_of(node) == DEQUANTIZE:
            order.pad_after(node)
    del graph.node[:]
    graph.node.extend(order.nodes())
    return model


class _RoundingOrder:
    """Moves nodes within a graph and keeps the list of nodes sorted.

    Args:
        nodes: the graph's nodes, which are changed.
        reads: by tensor, the number of nodes and requested outputs that read it.
        constants: the graph's initializers by name.
    """

    def __init__(
        self, nodes: Sequence[onnx.NodeProto], reads: Mapping[str, int], constants: Mapping[str, TensorProto]
    ) -> None:
        self._nodes, self._reads, self._constants = nodes, reads, constants
        self._makers = {name: node for node in nodes for name in node.output}
        self._after: dict[int, list[onnx.NodeProto]] = {}
        self._place: dict[int, int] = {}

    def nodes(self) -> Iterator[onnx.NodeProto]:
        """All nodes in their new order."""
        for node in self._nodes:
            if id(node) not in self._place:
                yield from (node, *self._after.get(id(node), ()))

    def round_after(self, activation: onnx.NodeProto) -> None:
        """Round an activation's output instead of its input, if no other node reads the rounded input."""
        before, after = activation.input[0], activation.output[0]
        widened = self._before(activation, "Cast")
        narrowed = self._before(widened, "Cast") if widened is not None else None
        if widened is None or narrowed is None or not _rounds(narrowed, widened):
            return
        activation.input[0], activation.output[0] = narrowed.input[0], before
        narrowed.input[0], widened.output[0] = before, after
        self._move({before: activation, after: widened}, activation, [narrowed, widened])

    def pad_after(self, dequantize: onnx.NodeProto) -> None:
        """Pad a pair's output instead of its input, if only the pair reads the Pad and the pair keeps zeros."""
        quantize = self._before(dequantize, QUANTIZE)
        pad = self._before(quantize, "Pad") if quantize is not None else None
        if quantize is None or pad is None or not self._keeps_zeros(quantize, dequantize) or not self._pads_zeros(pad):
            return
        before, after = pad.output[0], dequantize.output[0]
        quantize.input[0], dequantize.output[0] = pad.input[0], before
        pad.input[0], pad.output[0] = before, after
        self._move({before: dequantize, after: pad}, dequantize, [pad])

    def _move(self, made: Mapping[str, onnx.NodeProto], first: onnx.NodeProto, moved: list[onnx.NodeProto]) -> None:
        self._makers.update(made)
        for node in moved:
            if id(node) in self._place:
                earlier = self._place[id(node)]
                self._after[earlier] = [one for one in self._after[earlier] if one is not node]
            self._place[id(node)] = id(first)
        self._after[id(first)] = moved

    def _before(self, node: onnx.NodeProto, op: str) -> onnx.NodeProto | None:
        """The node that computes a node's first input, if it is this operator and no other node reads the result."""
        name = node.input[0]
        maker = self._makers.get(name)
        alone = self._reads[name] == 1 and list(node.input).count(name) == 1
        return maker if maker is not None and operator_of(maker) == op and alone else None

    def _keeps_zeros(self, quantize: onnx.NodeProto, dequantize: onnx.NodeProto) -> bool:
        """Whether a pair has scalar scales, and the same zero point in both nodes, so that it keeps zeros."""
        scales = [self._constants.get(node.input[1]) for node in (quantize, dequantize)]
        if any(scale is None or math.prod(scale.dims) != 1 for scale in scales):
            return False
        zero, other = (node.input[2] if len(node.input) > 2 else "" for node in (quantize, dequantize))
        if zero == other:
            return True
        values = [numpy_helper.to_array(self._constants[name]) for name in (zero, other) if name in self._constants]
        return len(values) == 2 and np.array_equal(*values)

    def _pads_zeros(self, pad: onnx.NodeProto) -> bool:
        """Whether a Pad pads with zeros or with elements of its input."""
        given = {attribute.name: attribute for attribute in pad.attribute}
        if "mode" in given and given["mode"].s != b"constant":
            return True
        if len(pad.input) < 3 or not pad.input[2]:
            return "value" not in given or given["value"].f == 0
        value = self._constants.get(pad.input[2])
        return value is not None and not is_detached(value) and not np.any(numpy_helper.to_array(value))


def _rounds(narrowed: onnx.NodeProto, widened: onnx.NodeProto) -> bool:
    kinds = [attribute.i for cast in (narrowed, widened) for attribute in cast.attribute if attribute.name == "to"]
    return kinds in ([TensorProto.FLOAT16, TensorProto.FLOAT], [TensorProto.BFLOAT16, TensorProto.FLOAT])
