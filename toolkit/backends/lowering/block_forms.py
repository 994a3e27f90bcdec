"""The form of blocked Q/DQ pairs that TensorRT's parsers accept: its own operators on activations, packed weights.

NVFP4: the block scales are E4M3 numbers, which a DequantizeLinear multiplies by the tensor's float32 scale; another one
dequantizes the values with the result. MXFP8: TensorRT's own operator takes the biased exponents of the scales. Both
were observed to build with TensorRT-RTX 1.7.1 for 12.0; its parser does not accept ONNX's DequantizeLinear with E8M0
scales.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from toolkit.base.block_operators import FP4_QUANTIZE, MXFP8_DEQUANTIZE, MXFP8_QUANTIZE, TENSORRT
from toolkit.base.block_scales import E4M3_MAX, can_store, split_scales
from toolkit.base.precision import Precision
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan
from toolkit.graph.model import Model
from toolkit.graph.proto.names import Names
from toolkit.graph.surgery import assemble
from toolkit.graph.surgery.tensors import make_constant, make_node
from toolkit.placement.dequantized import pair_type
from toolkit.placement.grid import block_type
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE

_BIAS = 127


def write_block_forms(model: Model, plan: PrecisionPlan, journal: Journal) -> None:
    """Write a lowered graph's blocked Q/DQ pairs in the form for TensorRT's parsers, in place; nodes keep their names.

    Args:
        model: the graph, with stored weights.
        plan: receives an entry for every node added.
        journal: receives one entry for all pairs.
    """
    writer = _FormWriter(model, plan)
    for node in model.nodes:
        kind = block_type(node)
        if node.op == QUANTIZE and kind is not None:
            writer.quantize(node, kind)
        elif node.op == DEQUANTIZE:
            kind = kind or pair_type(node)
            if kind is not None and kind.block:
                writer.dequantize(node, kind)
    if writer.written:
        model.tidy()
        journal.noted(Code.BLOCK_FORMS(pairs=writer.written))


class _FormWriter:
    def __init__(self, model: Model, plan: PrecisionPlan) -> None:
        self.model, self.plan = model, plan
        self.scales: dict[int, gs.Tensor] = {}
        self.written = 0

    @cached_property
    def tensors(self) -> Names:
        """Names of tensors that are in use."""
        return self.model.tensor_names()

    @cached_property
    def nodes(self) -> Names:
        """Names of nodes that are in use."""
        return Names(self.model.node_names())

    def quantize(self, node: gs.Node, kind: Precision) -> None:
        """Write an activation's quantizer, which returns the block scales besides the values."""
        stored = node.outputs[0]
        scales = assemble.variable(self.tensors.take(f"{stored.name}_scales"))
        node.domain, node.attrs = TENSORRT, {"axis": -1, "block_size": kind.block}
        if kind is Precision.NVFP4:
            node.op, node.attrs["scale_type"] = FP4_QUANTIZE, int(TensorProto.FLOAT8E4M3FN)
            stored.dtype, scales.dtype = int(TensorProto.FLOAT4E2M1), int(TensorProto.FLOAT8E4M3FN)
            node.inputs[1] = self._whole(node.inputs[1])
        else:
            node.op, node.attrs["output_dtype"] = MXFP8_QUANTIZE, int(TensorProto.FLOAT8E4M3FN)
            stored.dtype, scales.dtype = int(TensorProto.FLOAT8E4M3FN), np.dtype(np.uint8)
            node.inputs.pop()
        node.outputs.append(scales)

    def dequantize(self, node: gs.Node, kind: Precision) -> None:
        """Write the dequantizer of an activation or of stored weights."""
        maker = node.inputs[0].inputs[0] if block_type(node) is not None else None
        scale = self.model.constant(node.inputs[1])
        if maker is None and (
            scale is None or self.model.constant(node.inputs[0]) is None or not can_store(scale, kind)
        ):
            # it already has this form, or has scales that this form would change
            self._cast(node, int(node.attrs.pop("output_dtype", TensorProto.FLOAT)))
            return
        self.written += 1
        axis = -1 if maker is not None else int(node.attrs.get("axis", 1))
        given = int(node.attrs.get("output_dtype", 0)) or int(TensorProto.FLOAT)
        node.attrs = {"axis": axis, "block_size": kind.block}
        while len(node.inputs) > 2:
            node.inputs.pop()
        if kind is Precision.MXFP8:
            node.op, node.domain, node.attrs["output_dtype"] = MXFP8_DEQUANTIZE, TENSORRT, given
            if maker is not None:
                node.inputs[1] = maker.outputs[1]
            else:
                assert scale is not None
                exponents = (np.frexp(scale.astype(np.float32))[1] - 1 + _BIAS).astype(np.uint8)
                node.inputs[1] = make_constant(self.tensors.take(f"{node.inputs[1].name}_exponents"), exponents)
            return
        node.domain = None
        if maker is not None:
            parts = [maker.outputs[1], maker.inputs[1]]
        else:
            assert scale is not None
            parts = self._split(node.inputs[1], scale)
        node.inputs[1] = self._multiplied(node, parts)
        self._cast(node, given)

    def _whole(self, scale: gs.Tensor) -> gs.Tensor:
        """The tensor's scale, computed from the scale of its largest block."""
        if id(scale) not in self.scales:
            value = self.model.constant(scale)
            assert value is not None
            whole = (value / np.float32(E4M3_MAX)).astype(np.float32)
            self.scales[id(scale)] = make_constant(self.tensors.take(f"{scale.name}_global"), whole)
        return self.scales[id(scale)]

    def _split(self, tensor: gs.Tensor, scale: np.ndarray) -> list[gs.Tensor]:
        parts = split_scales(scale)
        assert parts is not None
        stored, whole = parts
        return [
            make_constant(self.tensors.take(f"{tensor.name}_fp8"), stored, TensorProto.FLOAT8E4M3FN),
            make_constant(self.tensors.take(f"{tensor.name}_global"), np.array(whole, np.float32)),
        ]

    def _multiplied(self, node: gs.Node, parts: list[gs.Tensor]) -> gs.Tensor:
        """The block scales in float32."""
        name = self.nodes.take(f"{node.name}_scales")
        result = assemble.variable(self.tensors.take(f"{node.outputs[0].name}_scales"), dtype=np.dtype(np.float32))
        self.model.graph.nodes.append(make_node(DEQUANTIZE, name, parts, [result]))
        self.plan.ask(name, Precision.FP8, Code.SCALES_OF_BLOCKS(node=node.name))
        return result

    def _cast(self, node: gs.Node, kind: int) -> None:
        """Cast the result to the float type that readers need, since the scales and so the product are float32.

        With only the attribute output_dtype, the graph parses but fails in Myelin (observed with RTX 1.7.1).
        """
        precision = Precision.from_onnx(kind)
        if precision is None or precision is Precision.FP32:
            return
        out = node.outputs[0]
        wide = assemble.variable(self.tensors.take(f"{out.name}_fp32"), dtype=np.dtype(np.float32), shape=out.shape)
        node.outputs[0] = wide
        name = self.nodes.take(f"{wide.name}_to_{precision}")
        self.model.graph.nodes.append(make_node("Cast", name, [wide], [out], to=kind))
        readers = [reader.name for reader in out.outputs]
        why = Code.BETWEEN_TYPES(
            reader=readers[0] if readers else "", precision=precision, tensor=wide.name, made=Precision.FP32
        )
        self.plan.ask(name, precision, why)
