"""What keeps a Conv, ConvTranspose, Gemm or MatMul in float, whatever is requested."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.contract.findings import Code, Finding
from toolkit.graph.layers.constants import is_random
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts
from toolkit.graph.surgery.assemble import bodies
from toolkit.graph.surgery.tensors import is_finite
from toolkit.placement.codes import PlacementCode
from toolkit.placement.dequantized import dequantizer, foreign_pair, pair_type
from toolkit.placement.ops import REGION, TARGETS

_FEW_CHANNELS, _PADDED_CHANNELS = 4, 32
"""Channels of an image, and of the format that TensorRT's INT8 convolutions with large kernels read."""


class Obstacles:
    """Determines why a layer cannot be quantized.

    Args:
        model: the graph; pairs that it already has are kept and completed.
        facts: types and shapes at every corner of every profile.
        activation_matmul: whether MatMuls of two activations may be quantized.
        precision: the type being inserted; layers with pairs of another type are left as they are.
    """

    def __init__(self, model: Model, facts: Facts, activation_matmul: bool, precision: Precision | None) -> None:
        self.model, self.facts = model, facts
        self.activation_matmul, self.precision = activation_matmul, precision
        self._constant = _constant_tensors(model)
        self._known: dict[int, Finding | None] = {}

    def of(self, node: gs.Node) -> Finding | None:
        """Why the layer stays in float, or None if nothing keeps it."""
        if id(node) not in self._known:
            self._known[id(node)] = self._found(node)
        return self._known[id(node)]

    def _found(self, node: gs.Node) -> Finding | None:
        operands = [node.inputs[i] for i in (0, 1) if i < len(node.inputs)]
        if len(operands) < 2:
            return Code.MALFORMED()
        for tensor in operands:
            foreign = foreign_pair(tensor, self.model)
            if foreign is not None:
                return foreign
            other = self._other_type(tensor)
            if other is not None:
                return Code.FOREIGN_PAIR(tensor=tensor.name, fault="type", has=other, inserted=self.precision)
            kind = self.facts.types.get(tensor.name)
            if kind is not None and not self.facts.is_float(tensor.name):
                return Code.NOT_FLOAT(tensor=tensor.name, has=onnx.TensorProto.DataType.Name(kind).lower())
        return self._operand_obstacle(node, operands) or self._patches(node)

    def _other_type(self, tensor: gs.Tensor) -> Precision | None:
        """The type that the tensor is already quantized to, if it differs from the one being inserted."""
        node = dequantizer(tensor)
        kind = pair_type(node) if node is not None else None
        return None if self.precision is None or kind is self.precision else kind

    def _patches(self, node: gs.Node) -> Finding | None:
        """Why a convolution that cuts an image into patches for a transformer stays in float.

        On an H100 with 8.6.0 that of a ViT-S, 16 x 16 with 3 channels, took 0.099 ms at batch 8 and 0.281 ms at batch
        32: 0.059 and 0.175 ms in an INT8 kernel for 32 channels, the rest in kernels that quantize, reformat and
        dequantize. In float16 it took 0.054 and 0.113 ms including the reformat.
        """
        if node.op != "Conv" or self.precision is not Precision.INT8:
            return None
        kernel, strides = list(node.attrs.get("kernel_shape", [])), list(node.attrs.get("strides", []))
        weight = self.model.constant(node.inputs[1])
        if weight is None or kernel != strides or max(kernel, default=1) < 2 or weight.shape[1] > _FEW_CHANNELS:
            return None
        return None if self._leads_to_layers(node) else Code.PATCHES(channels=weight.shape[1], padded=_PADDED_CHANNELS)

    def _leads_to_layers(self, node: gs.Node) -> bool:
        """Whether a quantizable layer reads a node's output, directly or through nodes that stay quantized."""
        seen, pending = {id(node)}, [node]
        while pending:
            for reader in (reader for tensor in pending.pop().outputs for reader in tensor.outputs):
                if reader.op in TARGETS:
                    return True
                if reader.op in REGION and id(reader) not in seen:
                    seen.add(id(reader))
                    pending.append(reader)
        return False

    def _operand_obstacle(self, node: gs.Node, operands: list[gs.Tensor]) -> Finding | None:
        """Why the two operands of a layer keep it in float: neither or both are constant, or one is unsuitable."""
        values = [self.model.constant(t) for t in operands]
        constant = [v is not None or t.name in self._constant for v, t in zip(values, operands)]
        if all(v is not None for v in values):
            return Code.BOTH_CONSTANT()
        if not any(constant):
            if node.op != "MatMul" and node.op != "Gemm":
                return PlacementCode.RUN_TIME_WEIGHTS()
            if not self.activation_matmul and any(dequantizer(t) is None for t in operands):
                return Code.ACTIVATION_MATMUL()
        if node.op in ("Conv", "ConvTranspose") and not constant[1]:
            return PlacementCode.RUN_TIME_WEIGHTS()
        for tensor, value in zip(operands, values):
            if (unsuitable := self._unsuitable(tensor, value)) is not None:
                return unsuitable
        for tensor, value, is_constant in zip(operands, values, constant):
            if value is None and is_constant and dequantizer(tensor) is None:
                return Code.COMPUTED_WEIGHTS(maker=tensor.inputs[0].op)
        return None

    def _unsuitable(self, tensor: gs.Tensor, value: Array | None) -> Finding | None:
        """Why an operand cannot be quantized: its rank or, for a constant, its values. None if it can."""
        rank = value.ndim if value is not None else self.facts.rank(tensor.name)
        if rank is not None and rank < 2:
            return Code.VECTOR(tensor=tensor.name, rank=rank)
        if value is None:
            return None
        if value.size == 0:
            return Code.EMPTY(tensor=tensor.name)
        return None if is_finite(tensor, value) else Code.NOT_FINITE(tensor=tensor.name)


def _constant_tensors(model: Model) -> set[str]:
    """Names of tensors that are computed only from constants (a Transpose of a weight, a pre-quantized weight)."""
    found: set[str] = set()
    for node in model.nodes:
        if bodies(node) or is_random(node):
            continue
        if all(t.is_empty() or t.name in found or isinstance(t, gs.Constant) for t in node.inputs):
            found.update(t.name for t in node.outputs)
    return found
