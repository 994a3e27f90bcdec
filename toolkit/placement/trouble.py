"""What keeps a Conv, ConvTranspose, Gemm or MatMul float whatever anybody asks for."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.base.precision import Precision
from toolkit.contract.findings import Code, Finding
from toolkit.graph.constants import RANDOM
from toolkit.graph.facts import Facts
from toolkit.graph.model import Model
from toolkit.placement.dequantized import dequantizer, foreign_pair, pair_type


class Trouble:
    """Says of a layer why it cannot be quantized.

    Args:
        model: the graph; pairs that it already has are kept and completed.
        facts: types and shapes at every corner of every profile.
        activation_matmul: whether MatMuls both of whose operands are activations may be quantized.
        precision: the type being inserted; layers that have a pair of another type are left alone.
    """

    def __init__(self, model: Model, facts: Facts, activation_matmul: bool, precision: Precision | None) -> None:
        self.model, self.facts = model, facts
        self.activation_matmul, self.precision = activation_matmul, precision
        self._constant = _constant_tensors(model)
        self._known: dict[int, Finding | None] = {}

    def of(self, node: gs.Node) -> Finding | None:
        """Why the layer stays float, or None where nothing keeps it."""
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
                return Code.NOT_FLOAT(tensor=tensor.name)
        return self._operand_trouble(node, operands)

    def _other_type(self, tensor: gs.Tensor) -> Precision | None:
        """The type that the tensor is quantized to already, where it is another than the one being inserted."""
        node = dequantizer(tensor)
        kind = pair_type(node) if node is not None else None
        return None if self.precision is None or kind is self.precision else kind

    def _operand_trouble(self, node: gs.Node, operands: list[gs.Tensor]) -> Finding | None:
        values = [self.model.constant(t) for t in operands]
        constant = [v is not None or t.name in self._constant for v, t in zip(values, operands)]
        if all(constant) and all(v is not None for v in values):
            return Code.BOTH_CONSTANT()
        if not any(constant):
            if node.op != "MatMul" and node.op != "Gemm":
                return Code.COMPUTED_WEIGHTS()
            if not self.activation_matmul:
                return Code.ACTIVATION_MATMUL()
        if node.op in ("Conv", "ConvTranspose") and not constant[1]:
            return Code.COMPUTED_WEIGHTS()
        for tensor, value in zip(operands, values):
            rank = value.ndim if value is not None else self.facts.rank(tensor.name)
            if rank is not None and rank < 2:
                return Code.VECTOR(tensor=tensor.name, rank=rank)
            if value is None:
                continue
            if value.size == 0:
                return Code.EMPTY(tensor=tensor.name)
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                return Code.NOT_FINITE(tensor=tensor.name)
        for tensor, value, is_constant in zip(operands, values, constant):
            if value is None and is_constant and dequantizer(tensor) is None:
                return Code.COMPUTED_WEIGHTS(maker=tensor.inputs[0].op)
        return None


def _constant_tensors(model: Model) -> set[str]:
    """Names of tensors that are computed from constants alone (a Transpose of a weight, a pre-quantized weight)."""
    found: set[str] = set()
    for node in model.nodes:
        if any(True for _ in node.subgraphs()) or node.op in RANDOM:
            continue
        if all(t.is_empty() or t.name in found or isinstance(t, gs.Constant) for t in node.inputs):
            found.update(t.name for t in node.outputs)
    return found
