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
from toolkit.graph.layers.bias import restore_bias
from toolkit.graph.layers.constants import constant_value
from toolkit.graph.layers.input_mean import is_corrected
from toolkit.graph.model import Model
from toolkit.graph.proto.names import Names
from toolkit.graph.surgery import assemble
from toolkit.graph.surgery.tensors import make_constant, onnx_type, reroute
from toolkit.placement.dequantized import dequantizer
from toolkit.placement.existing import ExistingPair, existing, pair_at, pairs_of
from toolkit.placement.float_path import FloatPath
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE
from toolkit.placement.pairs import Pair

_SUBNORMAL_STEPS = 8
"""From this multiple of float16's smallest subnormal on, rounding a scale up to float16 costs less than 1 dB."""
_SMALLEST_HALF, _SMALLEST = 2.0**-24, 2.0**-126


def storable_scale(amax: Array | float, precision: Precision) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Scales for symmetric quantization: amax / 127 (INT8) or amax / 448 (FP8), as float32.

    MXFP8 and NVFP4 have block scales, see ``scales_of_blocks``. Any other scale within float16's range is rounded up to
    a float16 value, so that a strongly typed float16 engine and a float32 simulation use exactly the same scale, and
    the rounding clips nothing. If all scales of a tensor are near float16's smallest subnormals, they stay as they are
    and lowering leaves them in float32; a small channel of a larger tensor loses no more than with float16 weights. An
    all-zero tensor or channel (amax 0) gets the scale of amax 1.
    """
    amax = np.atleast_1d(np.asarray(amax, np.float64))
    if precision.block:
        return scales_of_blocks(amax, precision)
    if amax.min() > 0 and _SUBNORMAL_STEPS * _SMALLEST_HALF <= amax.max() / precision.max <= 65504.0:
        # the usual case; for few channels the numpy calls below take twice as long
        exact = amax / precision.max
        half = exact.astype(np.float16)
        np.nextafter(half, np.float16(np.inf), out=half, where=half < exact)
        return np.maximum(half, np.float16(_SMALLEST_HALF)).astype(np.float32)
    exact = np.where(amax > 0, amax, 1.0) / precision.max
    if np.where(amax > 0, exact, 0.0).max() < _SUBNORMAL_STEPS * _SMALLEST_HALF and (amax > 0).any():
        return np.maximum(exact, _SMALLEST).astype(np.float32)
    half = np.minimum(exact, 65504.0).astype(np.float16)
    with np.errstate(over="ignore"):
        # scales beyond float16's largest value stay exact
        up = np.where(half.astype(np.float64) < exact, np.nextafter(half, np.float16(np.inf)), half)
    stored = np.where(exact <= 65504.0, up.astype(np.float64), exact)
    return np.maximum(stored, _SMALLEST_HALF).astype(np.float32)


def pairs_opset(precision: Precision, half: bool) -> int:
    """The operator set that a type's pairs need; ``half``: between float16 or bfloat16 tensors too (19 and later)."""
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
        """Insert a pair on ``pair.tensor`` and connect its uses to it; an existing pair of the tensor is shared.

        Args:
            pair: the tensor, its uses, and for a weight the channel axis, or the axis and size of its blocks.
            scale: float32, shape [1], [channels] or, with blocks, the rank of the weight.

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
            # its values have no finer steps anyway
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
        """A pair with block scales: always in float32, and with qtool's own operator on activations.

        A block's scale is the product of two numbers or far from 1, which float16 could not represent.
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
        """One half of a tensor's pair, added to the graph."""
        made = assemble.node(op, self.names.take(f"{tensor.name}_{op}"), dict(attrs), reads, [result], domain)
        self.model.graph.nodes.append(made)
        return made

    def _zero(self, shape: tuple[int, ...]) -> gs.Constant:
        if shape not in self.zeros:
            name = self.names.take("_".join(["zero_point", str(self.precision), *map(str, shape)]))
            self.zeros[shape] = make_constant(name, np.zeros(shape, np.float32), self.precision.onnx_type)
        return self.zeros[shape]


def bypass(node: gs.Node, model: Model | None = None, only: Collection[int] | None = None) -> list[str]:
    """Connect a node to the float inputs of its Q/DQ pairs; ``model.tidy()`` then drops unread pairs.

    Constants stored quantized stay so: float kernels can read them too. Operators between a pair and the node that only
    move values, such as a Transpose of a weight, then move the float values; other readers keep the quantized ones.
    What was corrected in a layer for the rounding of its weights is undone.

    Args:
        model: its graph, in which operators between the halves of a pair, or behind it, are duplicated for floats; if
            None, such pairs stay.
        only: the inputs to consider; None for all.

    Returns:
        Names of the float tensors that it now reads.
    """
    freed: list[str] = []
    path: FloatPath | None = None
    if model is not None and (only is None or 1 in only):
        _restore(model, node)
    for index, tensor in enumerate(list(node.inputs)):
        maker = tensor.inputs[0] if tensor.inputs else None
        maker = dequantizer(tensor) if model is not None else maker
        if maker is None or maker.op != DEQUANTIZE or (only is not None and index not in only):
            continue
        quantize = maker.inputs[0].inputs[0] if maker.inputs[0].inputs else None
        if quantize is not None and quantize.op == QUANTIZE:
            path = path or (FloatPath(model) if model is not None and _casts(quantize, maker) else None)
            source = quantize.inputs[0]
            source = path.in_type(source, quantize, maker) if path is not None else source
        else:
            pair = pair_at(model, maker) if model is not None and quantize is not None else None
            if model is None or not isinstance(pair, ExistingPair) or not pair.quantizers:
                continue
            path = path or FloatPath(model)
            source = path.given(pair)
        freed.append(source.name)
        if model is not None and tensor.inputs[0] is not maker:
            first = _only_way(model, tensor, maker)
            if first is not None:
                first.inputs[0] = source
                continue
            path = path or FloatPath(model)
            source = path.moved(tensor, maker, source)
        node.inputs[index] = source
    return freed


def _only_way(model: Model, tensor: gs.Tensor, dequantize: gs.Node) -> gs.Node | None:
    """The first of the operators that move a DequantizeLinear's output to a reader; None if they have other readers."""
    inner = model.subgraph_tensors()
    while len(tensor.outputs) == 1 and tensor.name not in inner and not model.is_output(tensor):
        mover = tensor.inputs[0]
        if mover.inputs[0].inputs[0] is dequantize:
            return mover
        tensor = mover.inputs[0]
    return None


def _restore(model: Model, node: gs.Node) -> None:
    """Undo what passes corrected in a layer for the rounding of its weights, before it reads them in float."""
    back = dequantizer(node.inputs[1]) if is_corrected(model, node) else None
    quantize = back.inputs[0].inputs[0] if back is not None and back.inputs[0].inputs else None
    if back is None or quantize is None or quantize.op != QUANTIZE:
        return
    read = node.inputs[1]
    weight = model.constant(quantize.inputs[0])
    if read.inputs[0] is not back and weight is not None:
        weight = constant_value(model, FloatPath(model).moved(read, back, quantize.inputs[0]))
    if weight is None:
        return

    def rounded() -> Array:
        values = constant_value(model, read)
        return weight if values is None else values

    restore_bias(model, node, weight, rounded, model.tensor_names())


def _casts(quantize: gs.Node, dequantize: gs.Node) -> bool:
    """Whether a pair's output has another float type than its input."""
    return onnx_type(quantize.inputs[1].dtype) != onnx_type(dequantize.inputs[1].dtype)


def without_pairs(model: Model) -> Model:
    """A copy of the model in float; weights stored quantized stay so: float kernels can read them too."""
    twin = model.copy()
    path = FloatPath(twin)
    for pair in list(pairs_of(twin)):
        if pair.quantizers:
            reroute(pair.dequantize.outputs[0], path.given(pair))
    path.finish()
    return twin


def _is_number(model: Model, dequantize: gs.Node) -> bool:
    """Whether a pair quantizes a scalar constant, or the scalar is stored quantized."""
    tensor = dequantize.inputs[0]
    if tensor.inputs and tensor.inputs[0].op == QUANTIZE:
        tensor = tensor.inputs[0].inputs[0]
    known = model.constant(tensor)
    return known is not None and known.ndim == 0


def float_constants(model: Model, journal: Journal) -> int:
    """Convert constants that TensorRT refuses before a DequantizeLinear to float: int32 biases (8.6 and RTX), scalars.

    Its parser turns a scalar into a tensor of one element by a layer that must not precede the DequantizeLinear
    ("Quantized constant is only allowed before DQ", seen on RTX 1.7.1).

    Returns:
        The number of converted constants.
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
