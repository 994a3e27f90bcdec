"""Converting Q/DQ pairs of other dialects to ONNX's operators.

TensorRT's parser has its own operators for FP8, INT4 and blocks (onnx-tensorrt, onnxOpImporters.cpp), which ModelOpt
and Transformer Engine export; onnxruntime has ONNX's operators in its own domain, for types that ONNX added later.
"""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from toolkit.base.block_operators import FP4_QUANTIZE, MXFP8_DEQUANTIZE, MXFP8_QUANTIZE, TENSORRT, domain_of
from toolkit.base.block_scales import E4M3_MAX, scales_of_blocks
from toolkit.base.errors import ModelError
from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.graph.layers.constants import constant_value
from toolkit.graph.model import Model
from toolkit.graph.proto.names import Names
from toolkit.graph.surgery import assemble
from toolkit.graph.surgery.tensors import (
    FLOAT_TYPES,
    SHORT_FLOATS,
    make_constant,
    make_node,
    np_dtype,
    onnx_type,
    reroute,
)
from toolkit.placement.dequantized import stored_type
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE

_FP4_PAIR = "TRT_FP4QDQ"
_HALVES = {
    f"TRT_{word}{op}": (op, precision)
    for word, precision in (("FP8", Precision.FP8), ("INT4", Precision.INT4))
    for op in (QUANTIZE, DEQUANTIZE)
}
_BLOCKS = frozenset({_FP4_PAIR, FP4_QUANTIZE, MXFP8_QUANTIZE, MXFP8_DEQUANTIZE})
_PLAIN = frozenset({0, TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32})
_DOMAINS = frozenset({TENSORRT, "com.microsoft"})
_EXPONENTS = 127
_SAME = 2.0**-8
"""Relative error allowed for a scale in a 16-bit type: bfloat16's rounding. Float16 subnormals may exceed it."""


def write_as_onnx(model: Model) -> int:
    """Convert pairs of other dialects to ONNX's, in place, at an operator set that has them.

    Pairs with block scales computed at run time become the operators of ``base.block_operators.domain_of``, which
    lowering converts to TensorRT's. Unknown forms stay as they are.

    Returns:
        How many nodes were rewritten.

    Raises:
        ModelError: it has operators of TensorRT's, and others that cannot be converted to that operator set.
    """
    outputs = _all_outputs(model)
    found = [node for node, _ in model.walk() if _foreign(model, node, outputs)]
    if not found:
        return 0
    wanted = {node.name: _opset(model, node, outputs) for node in found}
    model.raise_opset(max((wanted[node.name] for node in found if _tensorrts(node)), default=0))
    with suppress(ModelError):
        # other dialects are supported unconverted, if less well
        model.raise_opset(max(wanted.values()))
    nodes = {node.name: node for node, _ in model.walk()}
    writer = _PairWriter(model)
    for name, opset in wanted.items():
        if opset <= model.opset:
            writer.write(nodes[name])
    model.tidy()
    return len(writer.written)


def load_source(path: str | os.PathLike[str]) -> Model:
    """A model as a run starts from it: with its pairs converted to ONNX's, and without unused nodes.

    Raises:
        ModelError: see ``Model.load`` and ``write_as_onnx``.
    """
    model = Model.load(path)
    written = write_as_onnx(model)
    if written:
        model.changed["pairs"] = written
    before = len(model.node_names())
    model.drop_unused()
    if unused := before - len(model.node_names()):
        # a pass could not rely on such a node: the first pass that tidies the graph drops it
        model.changed["unused"] = unused
    return model


def _all_outputs(model: Model) -> dict[int, gs.Tensor]:
    """The outputs of the graph and all subgraphs, by id: their nodes must stay, whatever else reads them."""
    graphs = (model.graph, *assemble.subgraphs(model.graph))
    return {id(tensor): tensor for graph in graphs for tensor in graph.outputs}


def _foreign(model: Model, node: gs.Node, outputs: Container[int]) -> bool:
    own = node.op in (QUANTIZE, DEQUANTIZE) and node.domain in _DOMAINS
    return own or _tensorrts(node) or _unfolded(node) or _idle_cast(node, outputs) or _cast_after(model, node, outputs)


def _tensorrts(node: gs.Node) -> bool:
    return node.op in _HALVES or node.op in _BLOCKS


def _cast_after(model: Model, node: gs.Node, outputs: Container[int]) -> bool:
    """Whether only Casts to one 16-bit type, which can represent the scale, read a DequantizeLinear.

    Transformer Engine and ModelOpt's PyTorch export keep pairs in float32 between tensors of float16.
    """
    kind = _cast_to(node, outputs) if node.op == DEQUANTIZE else 0
    return kind in SHORT_FLOATS and ("output_dtype" in node.attrs or _scale_in(model, node, kind) is not None)


def _scale_in(model: Model, node: gs.Node, kind: int) -> Array | None:
    """The scale of a half in another float type; None if that cannot represent it, or it is not known."""
    scale = constant_value(model, node.inputs[1])
    if scale is None:
        return None
    with np.errstate(over="ignore"):
        made = scale.astype(np_dtype(kind))
    return made if np.allclose(made.astype(np.float64), scale.astype(np.float64), rtol=_SAME, atol=0) else None


def _cast_to(node: gs.Node, outputs: Container[int]) -> int:
    """The type to which all readers cast a result; 0 if there is none, or the result or a Cast is an output."""
    readers = list(node.outputs[0].outputs)
    kinds = {int(one.attrs.get("to", 0)) if one.op == "Cast" else 0 for one in readers}
    if len(kinds) != 1 or 0 in kinds or any(id(one.outputs[0]) in outputs for one in (node, *readers)):
        return 0
    return kinds.pop()


def _unfolded(node: gs.Node) -> bool:
    """Whether a scale or zero point is computed, possibly from constants: exporters cast and reshape them by nodes."""
    return node.op in (QUANTIZE, DEQUANTIZE) and any(tensor.inputs for tensor in node.inputs[1:3])


def _idle_cast(node: gs.Node, outputs: Container[int]) -> bool:
    """Whether it casts quantized values to the type they already have, as PyTorch exports converted models."""
    maker = node.inputs[0].inputs[0] if node.op == "Cast" and node.inputs[0].inputs else None
    if maker is None or maker.op != QUANTIZE or id(node.outputs[0]) in outputs:
        return False
    return int(node.attrs.get("to", 0)) == (stored_type(maker) or TensorProto.UINT8)


def _two_scales(node: gs.Node) -> bool:
    """Whether it is the DequantizeLinear of NVFP4 weights, whose scales another DequantizeLinear computes."""
    made = node.inputs[1].inputs if node.op == DEQUANTIZE and len(node.inputs) > 1 else []
    stored = isinstance(node.inputs[0], gs.Constant) if made else False
    return stored and made[0].op == DEQUANTIZE and onnx_type(node.inputs[0].dtype) == Precision.NVFP4.onnx_type


def _opset(model: Model, node: gs.Node, outputs: Container[int]) -> int:
    """The operator set that a node's conversion needs."""
    return max(_own_opset(node), 19 if _cast_after(model, node, outputs) else 0)


def _own_opset(node: gs.Node) -> int:
    if node.op == "Cast":
        return 0
    if node.op in (QUANTIZE, DEQUANTIZE) and node.domain not in _DOMAINS and not _two_scales(node):
        return 0
    if node.op in _HALVES:
        return _HALVES[node.op][1].opset
    if node.op in _BLOCKS or _two_scales(node):
        return (Precision.MXFP8 if node.op in (MXFP8_QUANTIZE, MXFP8_DEQUANTIZE) else Precision.NVFP4).opset
    # one of the two halves tells the type: the values that are stored, or a zero point
    kinds = [onnx_type(tensor.dtype) for tensor in (*node.inputs, *node.outputs) if not tensor.is_empty()]
    half = onnx_type(node.inputs[1].dtype) != TensorProto.FLOAT or node.attrs.get("output_dtype")
    if all(kind in _PLAIN for kind in kinds) and not node.attrs.get("block_size"):
        return 13
    narrow = all(kind in FLOAT_TYPES or kind in (0, 2, 3, 6, 17, 18, 19, 20) for kind in kinds)
    return 19 if half and narrow and not node.attrs.get("block_size") else 21


class _PairWriter:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.tensors, self.nodes = model.tensor_names(), Names(model.node_names())
        self.outputs, self.written = _all_outputs(model), set[str]()

    def write(self, node: gs.Node) -> None:
        """Convert one node and those that belong to it."""
        if node.op in _HALVES:
            self._half(node, *_HALVES[node.op])
        elif node.op == FP4_QUANTIZE:
            self._dynamic_fp4(node)
        elif node.op == MXFP8_DEQUANTIZE:
            self._mxfp8(node)
        elif node.op == _FP4_PAIR:
            self._fp4_pair(node)
        elif _two_scales(node):
            self._stored_fp4(node)
        elif node.op == "Cast" and id(node.outputs[0]) not in self.outputs:
            reroute(node.outputs[0], node.inputs[0])
            node.outputs.clear()
            self.written.add(node.name)
        elif node.op in (QUANTIZE, DEQUANTIZE) and node.domain in _DOMAINS:
            node.domain = None
            self._with_type(node, onnx_type(node.inputs[0].dtype))
            self.written.add(node.name)
        if node.op in (QUANTIZE, DEQUANTIZE):
            self._fold(node)
        if _cast_after(self.model, node, self.outputs):
            self._without_casts(node)

    def _fold(self, node: gs.Node) -> None:
        """Store the scale and the zero point as constants, if they depend only on constants."""
        for index, tensor in enumerate(list(node.inputs[1:3]), start=1):
            value = constant_value(self.model, tensor) if tensor.inputs else None
            if value is not None:
                node.inputs[index] = make_constant(self.tensors.take(f"{tensor.name}_known"), value)
                self.written.add(node.name)

    def _half(self, node: gs.Node, op: str, precision: Precision) -> None:
        node.op, node.domain = op, None
        self._with_type(node, precision.onnx_type)
        self.written.add(node.name)

    def _with_type(self, node: gs.Node, kind: int) -> None:
        """Set the type by a zero point, as in ONNX, and the block size, which TensorRT derives from the shapes."""
        scale = node.inputs[1]
        shape = tuple(scale.shape or ())
        if node.op == QUANTIZE:
            if len(node.inputs) < 3 and kind not in FLOAT_TYPES and kind:
                zero = np.zeros(shape if all(isinstance(size, int) for size in shape) else (), np.float32)
                node.inputs.append(make_constant(self.tensors.take(f"{node.name}_zero_point"), zero, kind))
            if len(node.inputs) > 2:
                node.outputs[0].dtype = node.inputs[2].dtype
        else:
            self._store(node, kind)
            self._without_casts(node)
        given = node.inputs[0].shape
        if node.attrs.get("block_size") or given is None or len(shape) != len(given) or len(shape) < 2:
            return
        unlike = [axis for axis, (size, count) in enumerate(zip(given, shape)) if size != count]
        if len(unlike) == 1 and isinstance(given[unlike[0]], int) and shape[unlike[0]]:
            node.attrs |= {"axis": unlike[0], "block_size": -(-given[unlike[0]] // shape[unlike[0]])}

    def _store(self, node: gs.Node, kind: int) -> None:
        """Store 4-bit weights in 4 bits: before operator set 21, exporters store them in 8."""
        stored = node.inputs[0]
        if kind == TensorProto.INT4 and onnx_type(stored.dtype) == TensorProto.INT8:
            values = self.model.constant(stored)
            if values is not None and values.min() >= -8 and values.max() <= 7:
                node.inputs[0] = make_constant(self.tensors.take(f"{stored.name}_int4"), values, kind)

    # ---------------------------------------------------------------- blocks

    def _dynamic_fp4(self, node: gs.Node) -> None:
        """Convert Quantize -> (values, scales), scales times the tensor's scale, values times those."""
        block = Precision.NVFP4.block
        whole = constant_value(self.model, node.inputs[1]) if len(node.inputs) > 1 else None
        if whole is None or whole.size != 1 or not self._last(node, block):
            return
        values, scales = node.outputs
        multiplied = [one for one in scales.outputs if one.op == DEQUANTIZE]
        readers = [one for one in values.outputs if one.op == DEQUANTIZE]
        own = {id(one.outputs[0]) for one in multiplied}
        if len(multiplied) != len(scales.outputs) or any(id(one.inputs[1]) not in own for one in readers):
            return
        whole = whole.astype(np.float32).reshape(())
        if any(not self._same(one.inputs[1], whole) for one in multiplied) or len(readers) != len(values.outputs):
            return
        scale = make_constant(self.tensors.take(f"{node.inputs[1].name}_amax"), whole * np.float32(E4M3_MAX))
        self._as_pair(node, readers, scale, Precision.NVFP4)

    def _stored_fp4(self, node: gs.Node) -> None:
        scale = constant_value(self.model, node.inputs[1])
        if scale is None:
            return
        node.inputs[1] = make_constant(self.tensors.take(f"{node.inputs[1].name}_known"), scale.astype(np.float32))
        node.attrs |= _given(node)
        self._without_casts(node)
        self.written.add(node.name)

    def _mxfp8(self, node: gs.Node) -> None:
        """Convert the pair of an activation, or weights with their exponents."""
        block = Precision.MXFP8.block
        maker = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
        if maker is not None and maker.op == MXFP8_QUANTIZE:
            readers = list(maker.outputs[0].outputs)
            alike = all(one.op == MXFP8_DEQUANTIZE and one.inputs[1] is maker.outputs[1] for one in readers)
            if alike and self._last(maker, block) and all(self._last(one, block) for one in readers):
                one = make_constant(self.tensors.take(f"{maker.name}_scale"), np.ones((), np.float32))
                self._as_pair(maker, readers, one, Precision.MXFP8)
            return
        exponents = constant_value(self.model, node.inputs[1])
        if exponents is None or exponents.dtype != np.uint8 or int(node.attrs.get("block_size", block)) != block:
            return
        scale = np.ldexp(np.float32(1), exponents.astype(np.int32) - _EXPONENTS)
        node.op, node.domain = DEQUANTIZE, None
        node.inputs[1] = make_constant(self.tensors.take(f"{node.inputs[1].name}_scale"), scale)
        node.attrs = {"axis": int(node.attrs.get("axis", -1)), "block_size": block, **_given(node)}
        self._without_casts(node)
        self.written.add(node.name)

    def _as_pair(self, quantize: gs.Node, readers: Sequence[gs.Node], scale: gs.Tensor, precision: Precision) -> None:
        """Insert an activation's pair with block scales; see ``domain_of``."""
        values = quantize.outputs[0]
        values.dtype = np.dtype(np.float32)
        quantize.op, quantize.domain, quantize.attrs = QUANTIZE, domain_of(precision), {}
        quantize.inputs = [quantize.inputs[0], scale]
        quantize.outputs = [values]
        for node in readers:
            node.op, node.domain, node.attrs = DEQUANTIZE, quantize.domain, _given(node)
            node.inputs = [values, scale]
            self._without_casts(node)
        self.written.update(one.name for one in (quantize, *readers))

    def _fp4_pair(self, node: gs.Node) -> None:
        """Convert weights that are not quantized yet: ModelOpt's marker in an unfinished export."""
        weight, block = self.model.constant(node.inputs[0]), int(node.attrs.get("block_size", Precision.NVFP4.block))
        if weight is None or block != Precision.NVFP4.block or weight.ndim < 1 or weight.shape[-1] % block:
            return
        amax = np.abs(weight.astype(np.float64)).reshape(*weight.shape[:-1], -1, block).max(-1)
        name, kind = node.inputs[0].name, onnx_type(node.inputs[0].dtype)
        scales = scales_of_blocks(amax, Precision.NVFP4)
        grid: list[gs.Tensor] = [
            make_constant(self.tensors.take(f"{name}_scale"), scales),
            make_constant(self.tensors.take(f"{name}_zero_point"), np.zeros_like(scales), Precision.NVFP4.onnx_type),
        ]
        wide = make_constant(self.tensors.take(f"{name}_fp32"), weight, TensorProto.FLOAT)
        stored = assemble.variable(self.tensors.take(f"{name}_quantized"), dtype=Precision.NVFP4.onnx_type)
        attrs = {"axis": -1, "block_size": block}
        self.model.graph.nodes.append(
            make_node(QUANTIZE, self.nodes.take(f"{node.name}_{QUANTIZE}"), [wide, *grid], [stored], **attrs)
        )
        node.op, node.domain, node.attrs = DEQUANTIZE, None, {**attrs, "output_dtype": kind}
        node.inputs = [stored, *grid]
        self.written.add(node.name)

    @staticmethod
    def _last(node: gs.Node, block: int) -> bool:
        """Whether a node has blocks of this size along the last axis."""
        shape = node.inputs[0].shape
        axis = int(node.attrs.get("axis", -1))
        return (
            axis in (-1, -1 if shape is None else len(shape) - 1) and int(node.attrs.get("block_size", block)) == block
        )

    def _same(self, tensor: gs.Tensor, whole: Array) -> bool:
        value = constant_value(self.model, tensor)
        return value is not None and value.size == 1 and bool(value.astype(np.float32).reshape(()) == whole)

    # ---------------------------------------------------------------- casts

    def _without_casts(self, node: gs.Node) -> None:
        """Have a DequantizeLinear return the float type that its readers cast to, if all cast to the same type."""
        kind, result = _cast_to(node, self.outputs), node.outputs[0]
        if kind not in FLOAT_TYPES:
            return
        if "output_dtype" in node.attrs:
            node.attrs["output_dtype"] = kind
        else:
            scale = _scale_in(self.model, node, kind)
            if scale is None:
                return
            self._rescale(node, scale, kind)
        result.dtype = np_dtype(kind)
        self.written.add(node.name)
        for one in list(result.outputs):
            reroute(one.outputs[0], result)
            one.outputs.clear()

    def _rescale(self, node: gs.Node, scale: Array, kind: int) -> None:
        """Give a DequantizeLinear, and the other halves of its pair, a scale of another type."""
        old = node.inputs[1]
        before, wide = constant_value(self.model, old), onnx_type(old.dtype) or int(TensorProto.FLOAT)
        node.inputs[1] = make_constant(self.tensors.take(f"{old.name}_cast"), scale, kind)
        maker = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
        if before is None or maker is None or maker.op != QUANTIZE:
            return
        for one in (maker, *(reader for reader in maker.outputs[0].outputs if reader.op == DEQUANTIZE)):
            own = constant_value(self.model, one.inputs[1])
            if own is not None and one is not node and np.array_equal(own, before):
                one.inputs[1] = make_constant(self.tensors.take(f"{one.inputs[1].name}_rounded"), scale, wide)


def _given(node: gs.Node) -> dict[str, Any]:
    """The float type that a dequantizer returns: float32 by default."""
    return {"output_dtype": int(node.attrs.get("output_dtype", 0)) or int(TensorProto.FLOAT)}
