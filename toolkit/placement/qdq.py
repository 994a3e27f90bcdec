"""Making, finding and removing Q/DQ pairs in a graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.contract.journal import Journal
from toolkit.graph.model import Model
from toolkit.graph.names import Names
from toolkit.graph.tensors import make_constant, make_node, onnx_type, reroute, values_of
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE
from toolkit.placement.pairs import Pair


def storable_scale(amax: Array | float, precision: Precision) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Scales for symmetric quantization: amax / 127 (INT8) or amax / 448 (FP8), as float32.

    Each is rounded up to a float16 value where it lies in float16's range, so that a strongly typed float16 engine and
    a float32 simulation use the very same scale and nothing is clipped by the rounding. A tensor or channel that is
    all zero (amax 0) gets the scale of amax 1.
    """
    amax = np.atleast_1d(np.asarray(amax, np.float64))
    exact = np.where(amax > 0, amax, 1.0) / precision.max
    half = np.minimum(exact, 65504.0).astype(np.float16)
    up = np.where(half.astype(np.float64) < exact, np.nextafter(half, np.float16(np.inf)), half)
    stored = np.where(exact <= 65504.0, up.astype(np.float64), exact)
    return np.maximum(stored, 2.0**-24).astype(np.float32)


@dataclass
class ExistingPair:
    """A Q/DQ pair that a graph has. ``quantize`` is None for a weight that is stored quantized.

    Attributes:
        quantize: the QuantizeLinear node.
        dequantize: the DequantizeLinear node.
        scale: its scale, float32, shape [] or [channels]; None where it is computed.
        zero: its zero point, or None.
        axis: the channel axis where there is one scale a channel.
    """

    quantize: gs.Node | None
    dequantize: gs.Node
    scale: Array | None
    zero: Array | None
    axis: int | None

    @property
    def tensor(self) -> gs.Tensor:
        """The float tensor that is quantized, or the stored integer weight."""
        return self.quantize.inputs[0] if self.quantize is not None else self.dequantize.inputs[0]


def pairs_of(model: Model, subgraphs: bool = True) -> Iterator[ExistingPair]:
    """Every Q/DQ pair of the model, whoever made it, in graph order."""
    for node, graph in model.walk():
        if node.op != DEQUANTIZE or (graph is not model.graph and not subgraphs):
            continue
        stored = node.inputs[0]
        maker = stored.inputs[0] if stored.inputs else None
        quantize = maker if maker is not None and maker.op == QUANTIZE else None
        if quantize is None and model.constant(stored) is None:
            continue
        scale = model.constant(node.inputs[1])
        zero = model.constant(node.inputs[2]) if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
        axis = int(node.attrs.get("axis", 1)) if scale is not None and scale.size > 1 else None
        yield ExistingPair(quantize, node, None if scale is None else scale.astype(np.float32), zero, axis)


def quantized_tensors(model: Model) -> set[str]:
    """The float tensors that a QuantizeLinear of the model reads."""
    return {pair.tensor.name for pair in pairs_of(model) if pair.quantize is not None}


def existing(tensor: gs.Tensor, precision: Precision | None = None) -> gs.Node | None:
    """The DequantizeLinear of a symmetric one-scale pair that already hangs on a float tensor, or None.

    With ``precision`` only a pair of that type counts.
    """
    for quantize in tensor.outputs:
        if quantize.op != QUANTIZE or quantize.inputs[0] is not tensor:
            continue
        scale, zero = quantize.inputs[1], quantize.inputs[2] if len(quantize.inputs) > 2 else None
        if not isinstance(scale, gs.Constant) or int(np.prod(scale.shape or (1,))) != 1:
            continue
        if not isinstance(zero, gs.Constant) or np.any(values_of(zero).astype(np.float32) != 0):
            continue
        kind = Precision.from_onnx(onnx_type(zero.dtype))
        if kind is None or not kind.quantized or (precision is not None and kind is not precision):
            continue
        for node in quantize.outputs[0].outputs:
            if node.op == DEQUANTIZE:
                return node
    return None


class Inserter:
    """Adds pairs to one model; keeps track of the names in use."""

    def __init__(self, model: Model, precision: Precision) -> None:
        self.model, self.precision = model, precision
        self.tensors = model.graph.tensors()
        self.nodes = {node.name: node for node, _ in model.walk()}
        self.names = Names(self.nodes)
        self.names.update(t.name for n, _ in model.walk() for t in (*n.inputs, *n.outputs))
        self.types = model.facts().types
        self.zeros: dict[int | None, gs.Constant] = {}

    def insert(self, pair: Pair, scale: Array) -> gs.Node:
        """Put a pair on ``pair.tensor`` and let its uses read it; an existing pair of the tensor is shared.

        Args:
            pair: the tensor, its uses, and the channel axis of a weight.
            scale: float32, shape [1] for one scale, or [channels].

        Returns:
            The DequantizeLinear node.
        """
        tensor = self.tensors[pair.tensor]
        dequantize = existing(tensor, self.precision) if pair.axis is None else None
        if dequantize is None:
            dequantize = self._make(tensor, scale, pair.axis)
        for use in pair.uses:
            self.nodes[use.node].inputs[use.index] = dequantize.outputs[0]
        return dequantize

    def _make(self, tensor: gs.Tensor, scale: Array, axis: int | None) -> gs.Node:
        kind = self.types.get(tensor.name) or onnx_type(tensor.dtype) or TensorProto.FLOAT
        values = scale if axis is not None else scale.reshape(())
        scale_tensor = make_constant(self.names.take(f"{tensor.name}_scale"), values, kind)
        zero = self._zero(len(scale) if axis is not None else None)
        stored = gs.Variable(self.names.take(f"{tensor.name}_quantized"), dtype=zero.dtype)
        result = gs.Variable(self.names.take(f"{tensor.name}_dequantized"), dtype=tensor.dtype, shape=tensor.shape)
        grid, attrs = [scale_tensor, zero], {} if axis is None else {"axis": axis}
        quantize = make_node(QUANTIZE, self.names.take(f"{tensor.name}_{QUANTIZE}"), [tensor, *grid], [stored], **attrs)
        dequantize = make_node(
            DEQUANTIZE, self.names.take(f"{tensor.name}_{DEQUANTIZE}"), [stored, *grid], [result], **attrs
        )
        self.model.graph.nodes.extend([quantize, dequantize])
        return dequantize

    def _zero(self, channels: int | None) -> gs.Constant:
        if channels not in self.zeros:
            shape = () if channels is None else (channels,)
            name = self.names.take(f"zero_point_{self.precision}" + ("" if channels is None else f"_{channels}"))
            self.zeros[channels] = make_constant(name, np.zeros(shape, np.float32), self.precision.onnx_type)
        return self.zeros[channels]


def bypass(node: gs.Node) -> list[str]:
    """Let a node read the float tensors behind its Q/DQ pairs; ``model.tidy()`` then removes pairs nobody reads.

    Returns:
        Names of the float tensors it reads again.
    """
    freed: list[str] = []
    for index, tensor in enumerate(list(node.inputs)):
        maker = tensor.inputs[0] if tensor.inputs else None
        if maker is None or maker.op != DEQUANTIZE:
            continue
        stored = maker.inputs[0]
        quantize = stored.inputs[0] if stored.inputs else None
        if quantize is not None and quantize.op == QUANTIZE:
            node.inputs[index] = quantize.inputs[0]
            freed.append(quantize.inputs[0].name)
    return freed


def without_pairs(model: Model) -> Model:
    """The same model in float; weights that are stored quantized stay so, since a float kernel reads them too."""
    twin = model.copy()
    for node, _ in list(twin.walk()):
        bypass(node)
    twin.tidy()
    return twin


def float_biases(model: Model, journal: Journal) -> int:
    """Make int32 biases behind a DequantizeLinear float again: TensorRT refuses them (seen on 8.6 and RTX).

    Returns:
        How many there were.
    """
    count = 0
    for pair in list(pairs_of(model)):
        stored = model.constant(pair.dequantize.inputs[0])
        scale = model.constant(pair.dequantize.inputs[1])
        if pair.quantize is not None or stored is None or stored.dtype != np.int32 or scale is None:
            continue
        result = pair.dequantize.outputs[0]
        values = (stored.astype(np.float64) * scale.astype(np.float64)).astype(np.float32)
        bias = make_constant(
            model.unique_tensor(f"{pair.dequantize.inputs[0].name}_float"), values, onnx_type(scale.dtype)
        )
        for reader in reroute(result, bias):
            journal.changed(reader.name, "its int32 bias became float", "TensorRT takes no quantized bias")
        count += 1
    if count:
        model.tidy()
    return count
