"""Making, finding and removing Q/DQ pairs in a graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from toolkit.base.block_operators import domain_of
from toolkit.base.block_scales import scales_of_blocks
from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.graph.layers.constants import constant_value
from toolkit.graph.model import Model
from toolkit.graph.proto.names import Names
from toolkit.graph.surgery import assemble
from toolkit.graph.surgery.tensors import make_constant, onnx_type, reroute
from toolkit.placement.existing import ExistingPair, existing, pair_at, pairs_of
from toolkit.placement.float_path import FloatPath
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE
from toolkit.placement.pairs import Pair

_SUBNORMAL_STEPS = 8
"""From so many of float16's smallest steps on, rounding a scale up to float16 costs less than 1 dB."""
_SMALLEST_HALF, _SMALLEST = 2.0**-24, 2.0**-126


def storable_scale(amax: Array | float, precision: Precision) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Scales for symmetric quantization: amax / 127 (INT8) or amax / 448 (FP8), as float32.

    MXFP8 and NVFP4 have scales of blocks, see ``scales_of_blocks``. Each other scale is rounded up to a float16
    value where it lies in float16's range, so that a strongly typed float16 engine and a float32 simulation use the
    very same scale and nothing is clipped by the rounding. A tensor that is as small as float16's smallest steps, all
    its channels, keeps its scales, which lowering then leaves in float32; a channel of a larger tensor loses no more
    than float16 weights would. A tensor or channel that is all zero (amax 0) gets the scale of amax 1.
    """
    amax = np.atleast_1d(np.asarray(amax, np.float64))
    if precision.block:
        return scales_of_blocks(amax, precision)
    if amax.min() > 0 and _SUBNORMAL_STEPS * _SMALLEST_HALF <= amax.max() / precision.max <= 65504.0:
        # nearly all are such, and asking numpy of a few channels what follows takes twice as long
        exact = amax / precision.max
        half = exact.astype(np.float16)
        np.nextafter(half, np.float16(np.inf), out=half, where=half < exact)
        return np.maximum(half, np.float16(_SMALLEST_HALF)).astype(np.float32)
    exact = np.where(amax > 0, amax, 1.0) / precision.max
    if np.where(amax > 0, exact, 0.0).max() < _SUBNORMAL_STEPS * _SMALLEST_HALF and (amax > 0).any():
        return np.maximum(exact, _SMALLEST).astype(np.float32)
    half = np.minimum(exact, 65504.0).astype(np.float16)
    with np.errstate(over="ignore"):
        # beyond the largest the exact scale is taken
        up = np.where(half.astype(np.float64) < exact, np.nextafter(half, np.float16(np.inf)), half)
    stored = np.where(exact <= 65504.0, up.astype(np.float64), exact)
    return np.maximum(stored, _SMALLEST_HALF).astype(np.float32)


def pairs_opset(precision: Precision, half: bool) -> int:
    """The operator set that a type's pairs need; ``half``: also between float16 or bfloat16 tensors (19 and later)."""
    return max(precision.opset, 19 if half else 0)


class Inserter:
    """Adds pairs to one model; keeps track of the names in use."""

    def __init__(self, model: Model, precision: Precision) -> None:
        self.model, self.precision = model, precision
        self.tensors = model.graph.tensors()
        self.nodes = {node.name: node for node, _ in model.walk()}
        self.names = Names(self.nodes)
        self.names.update(t.name for n, _ in model.walk() for t in (*n.inputs, *n.outputs))
        self.types = model.facts().types
        self.zeros: dict[tuple[int, ...], gs.Constant] = {}

    def insert(self, pair: Pair, scale: Array) -> gs.Node:
        """Put a pair on ``pair.tensor`` and let its uses read it; an existing pair of the tensor is shared.

        Args:
            pair: the tensor, its uses, and for a weight the channel axis, or the axis and size of its blocks.
            scale: float32, shape [1] for one scale, [channels], or with blocks of the weight's rank.

        Returns:
            The DequantizeLinear node.
        """
        tensor = self.tensors[pair.tensor]
        quantize = existing(tensor, self.precision) if pair.axis is None else None
        if quantize is None:
            dequantize = self._make(tensor, scale, pair)
        else:
            readers = (reader for reader in quantize.outputs[0].outputs if reader.op == DEQUANTIZE)
            dequantize = next(readers, None) or self._dequantize(tensor, quantize.outputs[0], quantize.inputs[1:], {})
        for use in pair.uses:
            self.nodes[use.node].inputs[use.index] = dequantize.outputs[0]
        return dequantize

    def _make(self, tensor: gs.Tensor, scale: Array, pair: Pair) -> gs.Node:
        kind = self.types.get(tensor.name) or onnx_type(tensor.dtype) or TensorProto.FLOAT
        values = scale if pair.axis is not None else scale.reshape(())
        if self.precision.block:
            return self._in_blocks(tensor, values, pair, kind)
        if kind == TensorProto.FLOAT16:
            # its own values have no smaller steps
            values = np.maximum(values, np.float32(_SMALLEST_HALF))
        scale_tensor = make_constant(self.names.take(f"{tensor.name}_scale"), values, kind)
        zero = self._zero(values.shape)
        stored = assemble.variable(self.names.take(f"{tensor.name}_quantized"), dtype=zero.dtype)
        grid, attrs = [scale_tensor, zero], {} if pair.axis is None else {"axis": pair.axis}
        if pair.block:
            attrs["block_size"] = pair.block
        self._half(QUANTIZE, tensor, [tensor, *grid], stored, attrs)
        return self._dequantize(tensor, stored, grid, attrs)

    def _in_blocks(self, tensor: gs.Tensor, values: Array, pair: Pair, kind: int) -> gs.Node:
        """A pair of blocks: float32 scales whatever type the tensor has, and qtool's own operator on activations.

        A block's scale is the product of two numbers or far from 1, and float16 would not hold it.
        """
        grid = [make_constant(self.names.take(f"{tensor.name}_scale"), values, TensorProto.FLOAT)]
        attrs: dict[str, int] = {}
        domain: str | None = domain_of(self.precision)
        read = tensor
        if pair.axis is not None:
            domain, attrs = None, {"axis": pair.axis, "block_size": pair.block}
            grid.append(self._zero(values.shape))
            if kind != TensorProto.FLOAT:
                wide = self.model.constant(tensor)
                assert wide is not None
                read = make_constant(self.names.take(f"{tensor.name}_fp32"), wide, TensorProto.FLOAT)
        stored = assemble.variable(self.names.take(f"{tensor.name}_quantized"), dtype=grid[-1].dtype)
        self._half(QUANTIZE, tensor, [read, *grid], stored, attrs, domain)
        return self._dequantize(tensor, stored, grid, {**attrs, "output_dtype": kind}, domain)

    def _dequantize(
        self,
        tensor: gs.Tensor,
        stored: gs.Tensor,
        grid: Sequence[gs.Tensor],
        attrs: Mapping[str, int],
        domain: str | None = None,
    ) -> gs.Node:
        result = assemble.variable(self.names.take(f"{tensor.name}_dequantized"), tensor.dtype, tensor.shape)
        return self._half(DEQUANTIZE, tensor, [stored, *grid], result, attrs, domain)

    def _half(
        self,
        op: str,
        tensor: gs.Tensor,
        reads: Sequence[gs.Tensor],
        result: gs.Tensor,
        attrs: Mapping[str, int],
        domain: str | None = None,
    ) -> gs.Node:
        """A node of a tensor's pair, in the graph."""
        made = assemble.node(op, self.names.take(f"{tensor.name}_{op}"), dict(attrs), reads, [result], domain)
        self.model.graph.nodes.append(made)
        return made

    def _zero(self, shape: tuple[int, ...]) -> gs.Constant:
        if shape not in self.zeros:
            name = self.names.take("_".join(["zero_point", str(self.precision), *map(str, shape)]))
            self.zeros[shape] = make_constant(name, np.zeros(shape, np.float32), self.precision.onnx_type)
        return self.zeros[shape]


def bypass(node: gs.Node, model: Model | None = None, only: Collection[int] | None = None) -> list[str]:
    """Let a node read the float tensors that its Q/DQ pairs quantize; ``model.tidy()`` then drops unread pairs.

    Constants stored quantized stay so, since a float kernel reads them too.

    Args:
        node: the node.
        model: its graph, where operators between the halves of a pair get twins that move floats; without it such
            pairs stay.
        only: the inputs that are looked at; all where None.

    Returns:
        Names of the float tensors it reads now.
    """
    freed: list[str] = []
    path: FloatPath | None = None
    for index, tensor in enumerate(list(node.inputs)):
        maker = tensor.inputs[0] if tensor.inputs else None
        if maker is None or maker.op != DEQUANTIZE or (only is not None and index not in only):
            continue
        quantize = maker.inputs[0].inputs[0] if maker.inputs[0].inputs else None
        if quantize is not None and quantize.op == QUANTIZE:
            path = path or (FloatPath(model) if model is not None and _casts(quantize, maker) else None)
            source = quantize.inputs[0]
            node.inputs[index] = path.in_type(source, quantize, maker) if path is not None else source
        else:
            pair = pair_at(model, maker) if model is not None and quantize is not None else None
            if model is None or not isinstance(pair, ExistingPair) or not pair.quantizers:
                continue
            path = path or FloatPath(model)
            node.inputs[index] = path.given(pair)
        freed.append(node.inputs[index].name)
    return freed


def _casts(quantize: gs.Node, dequantize: gs.Node) -> bool:
    """Whether a pair returns another float type than it reads."""
    return onnx_type(quantize.inputs[1].dtype) != onnx_type(dequantize.inputs[1].dtype)


def without_pairs(model: Model) -> Model:
    """The same model in float; weights stored quantized stay so, since a float kernel reads them too."""
    twin = model.copy()
    path = FloatPath(twin)
    for pair in list(pairs_of(twin)):
        if pair.quantizers:
            reroute(pair.dequantize.outputs[0], path.given(pair))
    path.finish()
    return twin


def _is_number(model: Model, dequantize: gs.Node) -> bool:
    """Whether a constant without dimensions is quantized here, or was before it was stored."""
    tensor = dequantize.inputs[0]
    if tensor.inputs and tensor.inputs[0].op == QUANTIZE:
        tensor = tensor.inputs[0].inputs[0]
    known = model.constant(tensor)
    return known is not None and known.ndim == 0


def float_constants(model: Model, journal: Journal) -> int:
    """Make constants that TensorRT refuses as inputs of a DequantizeLinear float: int32 biases (8.6 and RTX), scalars.

    Its parser turns a scalar into a tensor of one element, by a layer before the DequantizeLinear
    that may not stand there («Quantized constant is only allowed before DQ», seen on RTX 1.7.1).

    Returns:
        How many there were.
    """
    count = 0
    names: Names | None = None
    for node in [node for node, _ in model.walk() if node.op == DEQUANTIZE]:
        stored, scale, result = model.constant(node.inputs[0]), model.constant(node.inputs[1]), node.outputs[0]
        if stored is not None and stored.dtype == np.int32 and scale is not None:
            values: Array | None = (stored.astype(np.float64) * scale.astype(np.float64)).astype(np.float32)
        else:
            values = constant_value(model, result) if _is_number(model, node) else None
        if values is None or scale is None:
            continue
        names = names if names is not None else model.tensor_names()
        constant = make_constant(names.take(f"{node.inputs[0].name}_float"), values, onnx_type(scale.dtype))
        for reader in reroute(result, constant):
            journal.changed(reader.name, Code.FLOAT_BIAS(), Code.NO_QUANTIZED_BIAS())
        count += 1
    if count:
        model.tidy()
    return count
