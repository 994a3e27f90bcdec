"""The latency of a whole graph on a GPU, predicted from its datasheet; all nodes count, or there is no prediction.

A kernel takes the longer of its arithmetic at the peak rate and its traffic at the peak bandwidth (the roofline of
S. Williams, A. Waterman, D. Patterson, CACM 2009), plus its launch. Peak rates are not reached, so the sum is a lower
bound; each kernel's bound says what limits it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import onnx_graphsurgeon as gs
from onnx import TensorProto

from toolkit.base.precision import Precision
from toolkit.graph.layers.macs import macs, shape_of
from toolkit.graph.layers.work import CONVERSIONS, role
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts
from toolkit.graph.surgery.tensors import onnx_type, upstream
from toolkit.placement.ops import ACTIVATIONS, ADDS, DEQUANTIZERS, FOLDED, PAIR_OPERATORS
from toolkit.search.cost.cost_model import LAUNCH
from toolkit.search.cost.gpus import GpuSpec

Bound = Literal["arithmetic", "memory", "launches"]
_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
"""Operators without a kernel."""
_POINTWISE = ACTIVATIONS | FOLDED | ADDS | CONVERSIONS | {
    "Mul", "Sub", "Div", "Pow", "Sqrt", "Exp", "Log", "Neg", "Abs", "Min", "Max", "Where", "Reciprocal", "Floor",
    "Ceil", "Round", "Sign", "Not", "And", "Or", "Equal", "Greater", "Less", "Cast",
}  # fmt: skip
"""Operators that are fused into the kernel of the node before them."""
_EIGHT_BYTES = (TensorProto.INT64, TensorProto.UINT64, TensorProto.DOUBLE)
_ONE_BYTE = (TensorProto.BOOL, TensorProto.UINT8)
_STEPWISE = frozenset({"LSTM", "GRU", "RNN"})
_BODIES = frozenset({"If", "Loop", "Scan"})


@dataclass
class KernelTime:
    """A lower bound on the time of one kernel, in seconds.

    Attributes:
        node: the node that the kernel computes.
        fused: nodes that are fused into it.
        precision: the precision that it computes in.
        arithmetic: the time of its arithmetic at the peak rate.
        memory: the time of its traffic at the peak bandwidth.
        launch: the time of its launches; a recurrent layer has one per step and direction.
    """

    node: str
    precision: Precision
    fused: list[str] = field(default_factory=list)
    arithmetic: float = 0.0
    memory: float = 0.0
    launch: float = 0.0

    @property
    def seconds(self) -> float:
        """The kernel's whole time, in seconds."""
        return max(self.arithmetic, self.memory) + self.launch

    @property
    def bound(self) -> Bound:
        """The part of its time that limits the kernel."""
        parts: dict[Bound, float] = {"arithmetic": self.arithmetic, "memory": self.memory, "launches": self.launch}
        return max(parts, key=parts.__getitem__)


@dataclass(frozen=True)
class Prediction:
    """The kernels of a graph; none if a node cannot be counted.

    Attributes:
        kernels: in the graph's order.
        uncounted: nodes with unknown shapes or work.
    """

    kernels: list[KernelTime]
    uncounted: list[str]

    @property
    def seconds(self) -> float:
        """Seconds per inference."""
        return math.fsum(kernel.seconds for kernel in self.kernels)


def predict(
    model: Model, facts: Facts, gpu: GpuSpec, computes: Mapping[str, Precision], rest: Precision, pairs: bool = True
) -> Prediction:
    """Predict the latency of a graph.

    Args:
        model: the final graph, with its Q/DQ pairs.
        facts: its types and shapes at one corner of a profile.
        gpu: the GPU.
        computes: for each node the precision that it computes in.
        rest: the type of nodes that are not in ``computes``, and of stored floats.
        pairs: whether Q/DQ pairs quantize; if not, they are ignored and everything is in ``rest``.
    """
    return _Predictor(model, facts, gpu, computes, rest, pairs).all()


class _Predictor:
    def __init__(
        self, model: Model, facts: Facts, gpu: GpuSpec, computes: Mapping[str, Precision], rest: Precision, pairs: bool
    ) -> None:
        self.model, self.facts, self.gpu, self.rest, self.pairs = model, facts, gpu, rest, pairs
        self.computes = computes if pairs else {}
        self.owner: dict[str, KernelTime] = {}
        self.weights: set[str] = set()
        self.uncounted: list[str] = []

    def all(self) -> Prediction:
        kernels: dict[int, KernelTime] = {}
        for node in self.model.nodes:
            if node.op in _BODIES:
                self.uncounted.append(node.name)
            if self._constant(node) or role(node, self.facts) == "other" or self._of_integers(node):
                continue
            if node.op in _VIEWS or self._left_out(node):
                self._passed_on(node)
                continue
            host = self._host(node)
            if host is not None:
                host.fused.append(node.name)
                self._own(node, host)
                continue
            kernel = KernelTime(node.name, self.computes.get(node.name, self.rest))
            self._own(node, kernel)
            kernels[id(kernel)] = kernel
        if not self.uncounted:
            for node in self.model.nodes:
                self._count(node)
        uncounted = list(dict.fromkeys(self.uncounted))
        return Prediction([] if uncounted else list(kernels.values()), uncounted)

    def _left_out(self, node: gs.Node) -> bool:
        """Whether the graph without pairs would not have this node; Casts at inputs and outputs stay.

        If a pair reads an input or produces an output of a float type other than ``rest``, it counts as a Cast, once
        for all pairs that read the input.
        """
        if self.pairs or node.op not in CONVERSIONS:
            return False
        read, given = node.inputs[0], node.outputs[0]
        at_start, at_end = not read.inputs, self.model.is_output(given)
        if node.op.startswith("Cast"):
            return not (at_start or at_end)
        if at_end and node.op in DEQUANTIZERS:
            return not self._cast(given)
        if not at_start or node.op in DEQUANTIZERS or not self._cast(read):
            return True
        readers = [one for one in read.outputs if one.op in CONVERSIONS]
        return node is not next((one for one in readers if one.op.startswith("Cast")), readers[0])

    def _cast(self, tensor: gs.Tensor) -> bool:
        """Whether an input or output holds floats of a type other than ``rest``."""
        return self.facts.is_float(tensor.name) and self.facts.types[tensor.name] != self.rest.onnx_type

    def _of_integers(self, node: gs.Node) -> bool:
        """Whether a Cast is part of shape arithmetic."""
        tensors = (*node.inputs, *node.outputs)
        return node.op.startswith("Cast") and not any(self.facts.is_float(tensor.name) for tensor in tensors)

    def _own(self, node: gs.Node, kernel: KernelTime) -> None:
        for tensor in node.outputs:
            self.owner[tensor.name] = kernel

    def _passed_on(self, node: gs.Node) -> None:
        kernel = self.owner.get(node.inputs[0].name) if node.inputs else None
        if kernel is not None:
            self._own(node, kernel)

    def _constant(self, node: gs.Node) -> bool:
        """Whether a node reads only weights; outputs of pairs and views of weights count as weights downstream."""
        read = [tensor for tensor in node.inputs if not tensor.is_empty()]
        if not node.inputs or not all(t.name in self.weights or self.model.constant(t) is not None for t in read):
            return False
        if node.op in (*PAIR_OPERATORS, *_VIEWS):
            self.weights.update(tensor.name for tensor in node.outputs)
        return True

    def _host(self, node: gs.Node) -> KernelTime | None:
        """The kernel that a node is fused into: if the node is elementwise, that of its input; None otherwise.

        Only an input with no other readers counts, except for a DequantizeLinear. A QuantizeLinear or Cast of a model
        input has a kernel of its own.
        """
        if node.op not in _POINTWISE:
            return None
        made = [self.owner[t.name] for t in node.inputs if t.name in self.owner and len(t.outputs) == 1]
        # of two branches, the kernel of the later one adds the other
        if made:
            return made[-1]
        if node.op in DEQUANTIZERS:
            return self.owner.get(node.inputs[0].name)
        return None

    def _count(self, node: gs.Node) -> None:
        """Add a node's arithmetic, traffic and launches to its kernel."""
        kernel = self.owner.get(node.outputs[0].name) if node.outputs else None
        if kernel is None or node.op in _VIEWS:
            return
        own = kernel.node == node.name
        work = macs(node, self.facts)
        if work is None:
            self.uncounted.append(node.name)
            return
        kernel.arithmetic += 2 * work / self.gpu.rate(kernel.precision)
        if own:
            kernel.launch += LAUNCH * self._steps(node)
        size = 0.0
        # scales and zero points are negligible next to the tensors that they scale
        for tensor in node.inputs[:1] if node.op in CONVERSIONS else node.inputs:
            if not tensor.is_empty() and self.owner.get(tensor.name) is not kernel:
                size += self._bytes(tensor)
        for tensor in node.outputs:
            if any(self.owner.get(name) is not kernel for name in self._read_by(tensor)) or self.model.is_output(
                tensor
            ):
                size += self._bytes(tensor)
        kernel.memory += size / self.gpu.bandwidth

    def _read_by(self, tensor: gs.Tensor) -> Iterator[str]:
        """The first output of each node that reads a tensor, looking through views."""
        seen = [tensor]
        while seen:
            for reader in seen.pop().outputs:
                if reader.op in _VIEWS:
                    seen += reader.outputs
                elif reader.outputs:
                    yield reader.outputs[0].name

    def _steps(self, node: gs.Node) -> int:
        """The number of successive kernels of a node: a recurrent layer has one per step and direction."""
        if node.op not in _STEPWISE:
            return 1
        shape, weights = shape_of(self.facts, node.inputs[0].name), shape_of(self.facts, node.inputs[1].name)
        if shape is None or weights is None:
            self.uncounted.append(node.name)
            return 1
        return int(shape[0]) * int(weights[0])

    def _bytes(self, tensor: gs.Tensor) -> float:
        """A tensor's bytes in memory; a weight read through a pair is stored in the pair's type."""
        stored = upstream(tensor, DEQUANTIZERS) if self.pairs else tensor
        shape = shape_of(self.facts, tensor.name) or self._declared(tensor)
        if shape is None:
            makes_floats = self.facts.is_float(tensor.name)
            if makes_floats or tensor.name not in self.facts.types:
                self.uncounted.append(tensor.inputs[0].name if tensor.inputs else tensor.name)
            return 0.0
        kind = self.facts.types.get(stored.name) or onnx_type(stored.dtype)
        found = Precision.from_onnx(kind)
        if found is None:
            return math.prod(shape) * (8 if kind in _EIGHT_BYTES else 1 if kind in _ONE_BYTE else 4)
        # an engine stores floats in ``rest``, whatever their type in the graph
        return math.prod(shape) * (found if found.quantized else self.rest).bits / 8

    def _declared(self, tensor: gs.Tensor) -> list[int] | None:
        constant = self.model.constant(tensor)
        return list(constant.shape) if constant is not None else None
