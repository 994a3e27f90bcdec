"""The error of each quantized layer's output by channel, from one run of the samples.

Every layer reads the float model's input, so that only its own rounding counts, not that of earlier layers. A twin of
the layer reads the same input through its Q/DQ pair and has the rounded weights; sums are computed in the graph, since
layers' outputs are too large to return.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.graph.layers.constants import constant_value
from toolkit.graph.layers.layer_weights import bias_of, has_other_bias
from toolkit.graph.model import Model
from toolkit.graph.proto.names import Names
from toolkit.graph.sessions.runnable import not_run
from toolkit.graph.sessions.session import session
from toolkit.graph.surgery import assemble
from toolkit.graph.surgery.tensors import make_constant, onnx_type
from toolkit.placement.dequantized import dequantizer
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE, TARGETS
from toolkit.placement.qdq import without_pairs
from toolkit.simulation.switches import fake_quantized

if TYPE_CHECKING:
    from toolkit.data.dataset import CalibrationData

_BATCH = 8
_VARIES = 1e-6


@dataclass
class ChannelErrors:
    """Sums over all values of each output channel of a quantized layer without its bias, float64 [channels out].

    With q the quantized layer's output and d the float layer's output minus q:

    Attributes:
        count: number of values per channel.
        error: sum of d.
        value: sum of q.
        product: sum of d q.
        square: sum of q q.
        noise: sum of d d.
    """

    count: Array
    error: Array
    value: Array
    product: Array
    square: Array
    noise: Array

    def plus(self, other: ChannelErrors | None) -> ChannelErrors:
        """The sums over the values of both."""
        return self if other is None else ChannelErrors(
            self.count + other.count, self.error + other.error, self.value + other.value,
            self.product + other.product, self.square + other.square, self.noise + other.noise,
        )  # fmt: skip

    def factor(self) -> Array:
        """The factor a of q = y / a + e by least squares, with y the float output, float64 [channels out].

        It is 1 for channels that hardly vary. The reverse, y = a q + b, would be closer to the layer's own output, but
        shrinks it by the share of noise, and the shrinking multiplies over the layers of a deep model.
        """
        count = np.maximum(self.count, 1)
        error, value, square = self.error / count, self.value / count, self.square / count
        spread, common = square - value**2, self.product / count - error * value
        both = spread + common
        live = (both > _VARIES * square) & (spread > _VARIES * square)
        factor = np.ones(len(error))
        factor[live] += (common + self.noise / count - error**2)[live] / both[live]
        return factor

    def number(self, factor: Array) -> Array:
        """The offset b of a q + b for a factor a, float64 [channels out]."""
        return (self.error - (factor - 1) * self.value) / np.maximum(self.count, 1)


@dataclass(frozen=True)
class RoundedLayer:
    """A layer whose weights have a Q/DQ pair.

    Attributes:
        node: the layer.
        quantize: the QuantizeLinear of its weights.
        dequantize: the DequantizeLinear.
        weight: the float weights, in the node's own layout.
        scale: the pair's scales.
        precision: its type.
        along: the axis of the scales; None for one scale per tensor.
        block: number of values per scale; 0 without block scales.
    """

    node: gs.Node
    quantize: gs.Node
    dequantize: gs.Node
    weight: Array
    scale: Array
    precision: Precision
    along: int | None
    block: int

    @property
    def axis(self) -> int | None:
        """The channel axis of the scales; None if scales are not per channel."""
        return None if self.block else self.along

    def rounded(self) -> Array:
        """The weights, quantized and dequantized by the pair; computed on each call."""
        return fake_quantized(self.weight, self.scale, self.along, self.precision, self.block)


def rounded_layers(model: Model) -> Iterator[RoundedLayer]:
    """The Conv, ConvTranspose, Gemm and MatMul nodes whose second input is a constant read through a Q/DQ pair.

    Operators that only move values, such as a Transpose, may be between pair and node.
    """
    for node in model.nodes:
        back = dequantizer(node.inputs[1]) if node.op in TARGETS and len(node.inputs) > 1 else None
        if back is None or not back.inputs[0].inputs or back.inputs[0].inputs[0].op != QUANTIZE:
            continue
        quantize = back.inputs[0].inputs[0]
        values, scale = model.constant(quantize.inputs[0]), model.constant(quantize.inputs[1])
        if values is None or scale is None or values.ndim < 2:
            continue
        axis = int(quantize.attrs.get("axis", 1)) % values.ndim if scale.size > 1 else None
        read = _moved(model, node.inputs[1], back, _Read(values, np.atleast_1d(scale), axis))
        if read is None:
            continue
        zero = quantize.inputs[2] if len(quantize.inputs) > 2 else None
        precision = Precision.from_onnx(onnx_type(zero.dtype)) if zero is not None else None
        block = int(quantize.attrs.get("block_size", 0))
        yield RoundedLayer(
            node, quantize, back, read.weight, read.scale, precision or Precision.INT8, read.along, block
        )


class _Read(NamedTuple):
    """A weight, its scales and their axis, as a node reads them."""

    weight: Array
    scale: Array
    along: int | None


def _moved(model: Model, tensor: gs.Tensor, back: gs.Node, stored: _Read) -> _Read | None:
    """What a pair's DequantizeLinear ``back`` returns, moved as ``tensor`` is; None if its scales then fit no axis."""
    node = tensor.inputs[0]
    if node is back:
        return stored
    before = _moved(model, node.inputs[0], back, stored)
    if before is None or node.op in ("Identity", "Dropout"):
        return before
    weight, scale, along = before
    blocked = scale.ndim > 1
    if node.op == "Transpose":
        perm = [int(axis) for axis in node.attrs.get("perm", range(weight.ndim)[::-1])]
        turned = scale.transpose(perm) if blocked else scale
        return _Read(weight.transpose(perm), turned, None if along is None else perm.index(along))
    made = constant_value(model, node.outputs[0])
    if made is None or blocked or (along is not None and made.shape[: along + 1] != weight.shape[: along + 1]):
        return None
    return _Read(weight.reshape(made.shape), scale, along)


def collect_output_errors(
    model: Model, layers: Iterable[RoundedLayer], data: CalibrationData, samples: int
) -> dict[str, ChannelErrors]:
    """Collect the sums by layer name.

    Layers that onnxruntime cannot compute, and those with another bias (see ``has_other_bias``), are left out.

    Args:
        model: the graph with its pairs; not changed.
        layers: the layers to measure.
        samples: stop after this many.
    """
    plain = without_pairs(model)
    left = not_run(plain).tensors
    nodes = {node.name: node for node in plain.nodes if not any(tensor.name in left for tensor in node.outputs)}
    probe = _Twins(plain)
    for layer in layers:
        if layer.node.name in nodes:
            probe.add(layer, nodes[layer.node.name])
    if not probe.sums:
        return {}
    loaded = session(plain, outputs=[name for sums in probe.sums.values() for name in sums.values()])
    found: dict[str, ChannelErrors] = {}
    seen = 0
    for batch in data.batches(_BATCH):
        if all(value.size for value in batch.inputs.values()):
            values = loaded.run(batch.inputs)
            for layer_name, sums in probe.sums.items():
                new = {part: np.asarray(values[name], np.float64) for part, name in sums.items()}
                found[layer_name] = probe.without_bias(layer_name, new).plus(found.get(layer_name))
        seen += batch.count
        if seen >= samples:
            break
    return found


class _Twins:
    """Adds quantized twins of layers to a float model, and nodes that compute the sums of their differences.

    Attributes:
        sums: by layer, the names of the tensors with its sums.
        biases: by layer, the bias of its float output, float64 [channels] or [1]; the twin has none.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.tensors, self.nodes = model, model.tensor_names(), Names(model.node_names())
        self.sums: dict[str, dict[str, str]] = {}
        self.biases: dict[str, Array] = {}

    def add(self, layer: RoundedLayer, node: gs.Node) -> None:
        """Add the twin of one layer; ``node`` is its counterpart in the float model."""
        if has_other_bias(self.model, node):
            return
        given = node.op != "MatMul" and bias_of(self.model, node) is not None
        values = self.model.constant(node.inputs[2]) if given else np.zeros(1)
        self.biases[node.name] = np.asarray(values, np.float64).reshape(-1) * float(node.attrs.get("beta", 1.0))
        weight = make_constant(
            self.tensors.take(f"{node.name} rounded"), layer.rounded(), onnx_type(layer.weight.dtype)
        )
        twin = self._made(node.op, [self._as_read(layer.node.inputs[0], node.inputs[0]), weight], **node.attrs)
        last = node.op in ("Gemm", "MatMul")
        wide = [self._made("Cast", [tensor], to=int(TensorProto.FLOAT)) for tensor in (node.outputs[0], twin)]
        if node.op == "MatMul":
            # works for inputs of unknown rank
            rows = self._numbers("rows", [-1, layer.weight.shape[-1]])
            wide = [self._made("Reshape", [tensor, rows]) for tensor in wide]
        error, value = self._made("Sub", wide), wide[1]
        axes = self._numbers("axes", [0] if last else [0, *range(2, layer.weight.ndim)])
        tensors = {"error": error, "value": value, "product": self._made("Mul", [error, value]),
                   "square": self._made("Mul", [value, value]), "noise": self._made("Mul", [error, error])}  # fmt: skip
        self.sums[node.name] = {
            part: self._made("ReduceSum", [tensor, axes], keepdims=0).name for part, tensor in tensors.items()
        }
        self.sums[node.name]["count"] = self._made("Size", [error]).name

    def without_bias(self, name: str, sums: Mapping[str, Array]) -> ChannelErrors:
        """The sums of one batch for a layer, corrected for its bias."""
        count = np.full(len(sums["error"]), float(sums["count"]) / len(sums["error"]))
        bias = self.biases[name]
        error, value = sums["error"], sums["value"]
        return ChannelErrors(
            count, error - count * bias, value, sums["product"] - value * bias, sums["square"],
            sums["noise"] - 2 * error * bias + count * bias**2,
        )  # fmt: skip

    def _as_read(self, read: gs.Tensor, plain: gs.Tensor) -> gs.Tensor:
        """A float tensor after the Q/DQ pair through which the quantized layer reads, if there is one."""
        back = read.inputs[0] if read.inputs else None
        if back is None or back.op != DEQUANTIZE or not back.inputs[0].inputs:
            return plain
        quantize = back.inputs[0].inputs[0]
        if quantize.op != QUANTIZE:
            return plain
        # constants cannot be shared between graphs
        grid = [assemble.constant(self.tensors.take(f"{t.name} twin"), t._values) for t in quantize.inputs[1:]]
        stored = self._like(quantize, [plain, *grid])
        return self._like(back, [stored, *grid])

    def _numbers(self, word: str, values: list[int]) -> gs.Tensor:
        return make_constant(self.tensors.take(word), np.asarray(values, np.int64))

    def _made(self, op: str, inputs: list[gs.Tensor], **attrs: Any) -> gs.Tensor:
        return self._like(gs.Node(op, attrs=attrs), inputs)

    def _like(self, node: gs.Node, inputs: list[gs.Tensor]) -> gs.Tensor:
        """Add a node with the same operator and attributes on these inputs; returns its output."""
        out = assemble.variable(self.tensors.take(f"probe {node.op}"))
        name = self.nodes.take(f"probe {node.op}")
        self.model.graph.nodes.append(assemble.node(node.op, name, dict(node.attrs), inputs, [out], node.domain))
        return out
