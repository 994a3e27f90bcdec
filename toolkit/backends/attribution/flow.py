"""What Q/DQ pairs mean for the nodes around them: which run in a quantized type, and why the others do not."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from toolkit.backends.codes import EngineCode
from toolkit.base.precision import Precision
from toolkit.contract.findings import Finding
from toolkit.graph.layers.forms import Forms
from toolkit.graph.model import Model
from toolkit.graph.surgery.tensors import onnx_type
from toolkit.placement.moved import data_inputs
from toolkit.placement.ops import (
    ACTIVATIONS,
    ADDS,
    BLOCK_OPERATORS,
    DEQUANTIZERS,
    MOVERS,
    PAIR_OPERATORS,
    POOLS,
    QUANTIZERS,
    TARGETS,
)

BOTH_SIDES = POOLS | ADDS | {"Resize"}
"""Operators that run quantized only between a DequantizeLinear and a QuantizeLinear."""

_FOLLOWERS = MOVERS | ACTIVATIONS | {"BatchNormalization"}


@dataclass(frozen=True)
class ComputeType:
    """Whether a node computes in a quantized type.

    Attributes:
        precision: the quantized type, or None.
        reason: why it does or does not.
        into: another node whose kernel runs this node; empty if there is none.
    """

    precision: Precision | None
    reason: Finding
    into: str = ""


class Flow:
    """The Q/DQ pairs of a graph, traced through the operators that commute with them.

    Args:
        model: the final graph.
        refuted: nodes that the engine is known to run in float despite their pairs, with the types that they read.
    """

    def __init__(self, model: Model, refuted: Mapping[str, Collection[str]] | None = None) -> None:
        self._refuted = dict(refuted or {})
        self._forms = Forms(model)
        self.nodes: dict[str, gs.Node] = {node.name: node for node, _ in model.walk()}
        self._verdicts: dict[str, ComputeType] = {}
        self._without_kernel: dict[str, ComputeType] = {}

    def pair_type(self, node: gs.Node) -> Precision | None:
        """The quantized type of a QuantizeLinear or DequantizeLinear, or of one of TensorRT's block operators.

        None for a type in which TensorRT does not compute, such as uint8.
        """
        found = self._stored_in(node)
        return found if isinstance(found, Precision) else Precision.from_onnx(found)

    def _type_name(self, node: gs.Node) -> str:
        """The name of the quantized type, like ``pair_type``, including types in which TensorRT does not compute."""
        found = self._stored_in(node)
        return str(self.pair_type(node) or onnx.TensorProto.DataType.Name(int(found)).lower())

    def _stored_in(self, node: gs.Node) -> Precision | int:
        """The type of a pair's quantized values: a Precision, or the number in ``TensorProto.DataType``."""
        if node.op in BLOCK_OPERATORS:
            return BLOCK_OPERATORS[node.op]
        if len(node.inputs) > 2 and node.inputs[2].name:
            kind = _element_type(node.inputs[2])
            found = Precision.from_onnx(kind)
            if kind and (found is None or found.quantized):
                return kind
        if node.op in QUANTIZERS:
            # the default without a zero point and output_dtype
            return int(node.attrs.get("output_dtype", 0) or onnx.TensorProto.UINT8)
        tensor = node.inputs[0]
        while (producer := tensor.inputs[0] if tensor.inputs else None) is not None:
            if producer.op in QUANTIZERS:
                # TensorRT's own operators also return the scales, as a second output
                return self._stored_in(producer) if tensor is producer.outputs[0] else Precision.FP8
            data = data_inputs(producer)
            if not data:
                break
            tensor = producer.inputs[data[0]]
        return _element_type(tensor)

    def source(self, tensor: gs.Tensor) -> gs.Node | None:
        """The DequantizeLinear that a tensor comes from through data-movement operators, or None."""
        while tensor.inputs:
            producer = tensor.inputs[0]
            if producer.op in DEQUANTIZERS:
                return producer
            if (producer.op not in MOVERS and not self._widens_blocks(producer)) or not producer.inputs:
                return None
            tensor = producer.inputs[0]
        return None

    def _widens_blocks(self, node: gs.Node) -> bool:
        """Whether a node is the Cast after a DequantizeLinear of NVFP4, whose output is float32 like its scales."""
        maker = node.inputs[0].inputs[0] if node.op == "Cast" and node.inputs[0].inputs else None
        return maker is not None and maker.op in DEQUANTIZERS and self.pair_type(maker) is Precision.NVFP4

    def maker(self, tensor: gs.Tensor) -> gs.Node | None:
        """The node that computes a tensor's values: its producer, looking through movers, activations and BatchNorm."""
        while tensor.inputs:
            producer = tensor.inputs[0]
            if producer.op not in _FOLLOWERS or not producer.inputs:
                return producer
            tensor = producer.inputs[0]
        return None

    def readers(self, node: gs.Node, through: frozenset[str] | set[str] = MOVERS) -> list[gs.Node]:
        """The nodes that read a node's outputs, looking through operators in ``through``, each once."""
        found: dict[str, gs.Node] = {}
        pending, seen = [node], {node.name}
        while pending:
            for tensor in pending.pop().outputs:
                for reader in tensor.outputs:
                    passes = reader.op in through or self._widens_blocks(reader)
                    if passes and reader.inputs and reader.inputs[0] is tensor:
                        if reader.name not in seen:
                            seen.add(reader.name)
                            pending.append(reader)
                    else:
                        found[reader.name] = reader
        return list(found.values())

    def verdict(self, node: gs.Node) -> ComputeType:
        """Whether ``node`` computes in a quantized type by TensorRT's rules for explicit quantization."""
        if node.name not in self._verdicts:
            # A residual Add asks for the verdict of the convolution before it; graphs are acyclic, so this ends.
            found = self._judge(node)
            if found.precision is not None and not found.precision.weights_only and node.name in self._refuted:
                found = ComputeType(
                    None, EngineCode.KERNEL_READS_FLOAT(promised=found.reason, types=self._refuted[node.name])
                )
            self._verdicts[node.name] = found
        return self._verdicts[node.name]

    def _judge(self, node: gs.Node) -> ComputeType:
        if node.op in TARGETS:
            return self._by_inputs(node, node.inputs[:2])
        if node.op == "Concat":
            return self._by_inputs(node, node.inputs)
        if self._forms.op(node) in BOTH_SIDES:
            return self._between(node)
        if node.op in MOVERS:
            return self._moved(node)
        if node.op not in self._without_kernel:
            self._without_kernel[node.op] = ComputeType(None, EngineCode.NO_QUANTIZED_KERNEL(op=node.op))
        return self._without_kernel[node.op]

    def _by_inputs(self, node: gs.Node, tensors: list[gs.Tensor]) -> ComputeType:
        sources = [self.source(tensor) for tensor in tensors]
        pairs = [source for source in sources if source is not None]
        if len(pairs) < len(sources):
            return self._in_part(node, tensors, sources)
        types = tuple(dict.fromkeys(self._type_name(pair) for pair in pairs))
        if len(types) > 1:
            return ComputeType(None, EngineCode.INPUT_TYPES_DIFFER(types=types))
        precision = self.pair_type(pairs[0])
        if precision is None:
            return ComputeType(None, EngineCode.TYPE_WITHOUT_KERNELS(type=types[0]))
        return ComputeType(precision, EngineCode.INPUTS_QUANTIZED(by=tuple(dict.fromkeys(pair.name for pair in pairs))))

    def _in_part(self, node: gs.Node, tensors: Sequence[gs.Tensor], sources: Sequence[gs.Node | None]) -> ComputeType:
        """The type of a node with only some inputs quantized; ``sources`` are the DequantizeLinears of its inputs."""
        missing = [i for i, source in enumerate(sources) if source is None]
        if len(missing) == len(sources):
            return ComputeType(None, EngineCode.NO_INPUT_QUANTIZED())
        weights = self.pair_type(sources[1]) if missing == [0] and sources[1] is not None else None
        if weights is not None and weights.weights_only:
            return ComputeType(weights, EngineCode.WEIGHTS_STORED(precision=weights))
        if missing == [0] and node.op in TARGETS and is_constant(tensors[1]):
            return ComputeType(None, EngineCode.ONLY_WEIGHTS_QUANTIZED(input=tensors[0].name))
        if missing == [1] and node.op in TARGETS and is_constant(tensors[1]):
            return ComputeType(None, EngineCode.WEIGHTS_NOT_QUANTIZED(weights=tensors[1].name))
        inputs = [tensors[i].name for i in missing]
        return ComputeType(None, EngineCode.INPUTS_NOT_QUANTIZED(indices=missing, inputs=inputs))

    def _between(self, node: gs.Node) -> ComputeType:
        """The type of an Add, a pool or another node that runs quantized only between quantized tensors."""
        tensors = node.inputs if node.op in ADDS else node.inputs[:1]
        if node.op in ADDS:
            fused = self._residual(node)
            if fused is not None:
                return fused
        found = self._by_inputs(node, tensors)
        if found.precision is None:
            return found
        readers = self.readers(node, _FOLLOWERS)
        if not readers or any(reader.op not in QUANTIZERS for reader in readers):
            reader = next((reader.name for reader in readers if reader.op not in QUANTIZERS), "")
            return ComputeType(None, EngineCode.OUTPUT_NOT_QUANTIZED(op=node.op, reader=reader))
        return found

    def _residual(self, node: gs.Node) -> ComputeType | None:
        """The type of an Add that runs in a quantized convolution, whose output it adds to a quantized branch."""
        if len(node.inputs) != 2:
            return None
        for mine, other in (node.inputs, node.inputs[::-1]):
            producer = mine.inputs[0] if mine.inputs else None
            while producer is not None and producer.op == "BatchNormalization":
                before = producer.inputs[0]
                producer = before.inputs[0] if before.inputs else None
            if producer is None or producer.op not in ("Conv", "ConvTranspose") or len(mine.outputs) != 1:
                continue
            convolution = self.verdict(producer)
            if convolution.precision is not None and self.source(other) is not None:
                reason = EngineCode.ADDED_IN_CONVOLUTION(node=producer.name)
                return ComputeType(convolution.precision, reason, producer.name)
        return None

    def _stored(self, node: gs.Node) -> gs.Node | None:
        """The DequantizeLinear after a node that moves quantized values: the node is between Q and DQ; else None."""
        found = [reader for reader in self.readers(node) if reader.op in DEQUANTIZERS]
        return found[0] if found and len(found) == len(self.readers(node)) else None

    def _moved(self, node: gs.Node) -> ComputeType:
        """The type of the values that a node moves."""
        stored = self._stored(node)
        if stored is not None and data_inputs(node):
            return ComputeType(self.pair_type(stored), EngineCode.MOVES_QUANTIZED(node=stored.name))
        source = self.source(node.inputs[0]) if node.inputs else None
        if source is None:
            return ComputeType(None, EngineCode.MOVES_FLOAT(op=node.op))
        readers = self.readers(node)
        if readers and all(r.op in QUANTIZERS or self.verdict(r).precision is not None for r in readers):
            return ComputeType(self.pair_type(source), EngineCode.MOVES_QUANTIZED(node=source.name))
        return ComputeType(None, EngineCode.READERS_NOT_QUANTIZED())


def _element_type(tensor: gs.Tensor) -> int:
    if not isinstance(tensor, gs.Constant) and tensor.inputs and tensor.inputs[0].op == "Constant":
        value: Any = tensor.inputs[0].attrs.get("value")
        return onnx_type(value.dtype) if value is not None else int(onnx.TensorProto.FLOAT)
    return onnx_type(tensor.dtype)


def is_constant(tensor: gs.Tensor) -> bool:
    """Whether a tensor's values are known at build time: a constant, looking through Q, DQ and movers."""
    pending = [tensor]
    while pending:
        current = pending.pop()
        if current.is_empty() or isinstance(current, gs.Constant):
            continue
        producer = current.inputs[0] if current.inputs else None
        if producer is None or producer.op not in MOVERS | PAIR_OPERATORS | {"Constant"}:
            return False
        # also the indices of a Gather must be constant
        pending += producer.inputs
    return True
