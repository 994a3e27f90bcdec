"""Cross-layer equalization: even out the channels between two layers without changing the function."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from pydantic import Field

from toolkit.graph_pass import Context, Pass
from toolkit.model import Model, make_constant

Array = np.ndarray[Any, Any]
_LAYERS = ("Conv", "Gemm")
_THROUGH = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool"}
)
_CHANGE = 1e-3


class Equalize(Pass):
    """Scale channels between Conv and Conv or Gemm so that one INT8 scale serves all of them (cross-layer equalization).

    For W1 -> ReLU -> W2, channel c of W1 is divided by s and that of W2 multiplied, s = sqrt(r1 / r2) with r the
    largest weights of the channel: Nagel et al., "Data-free quantization through weight equalization and bias
    correction", ICCV 2019, equation 11. Depthwise chains are walked over until nothing changes.
    """

    name = "equalize"
    rounds: int = Field(20, gt=0, description="walk over all pairs at most this many times")
    measure: bool = Field(True, description="measure what it changes for plain INT8 and note it in the journal")

    def apply(self, model: Model, context: Context) -> None:
        """Equalize every pair; each gets a line in the journal, refusals with their reason."""
        from toolkit.analysis.channels import forget_ranges, note_effect, plain_outcome

        pairs = [pair for node in model.nodes if node.op in _LAYERS and (pair := self._pair(model, node, context))]
        if not pairs:
            context.journal.noted("no pair of layers can be equalized", rule="equalize")
            return
        before = plain_outcome(model, context) if self.measure else None
        weights = {name: _Layer(model, model.node(name)) for pair in pairs for name in pair}
        spread = {pair: _unevenness(weights[pair[0]].out_range()) for pair in pairs}
        for _ in range(self.rounds):
            if max(_step(weights[first], weights[second]) for first, second in pairs) < _CHANGE:
                break
        for layer in weights.values():
            layer.write()
        for pair in pairs:
            even = _unevenness(weights[pair[0]].out_range())
            why = f"largest over median channel was {spread[pair]:.3g}, is {even:.3g}"
            context.journal.changed(pair[0], f"its output channels are evened out with {pair[1]}", why)
        forget_ranges(context)
        note_effect(context, before, plain_outcome(model, context) if self.measure else None, "equalize")

    def _pair(self, model: Model, first: gs.Node, context: Context) -> tuple[str, str] | None:
        """The layer and the only layer that reads its result, or None with a line in the journal."""
        tensor, seen = first.outputs[0], first
        while True:
            if model.is_output(tensor) or tensor.name in model.subgraph_tensors():
                return None
            if len(tensor.outputs) != 1:
                context.journal.declined(
                    first.name, f"'{tensor.name}' is read by {len(tensor.outputs)} nodes", rule="shared"
                )
                return None
            node = tensor.outputs[0]
            if node.op in _LAYERS:
                break
            flat = node.op in ("Flatten", "Reshape", "Squeeze") and seen.op == "GlobalAveragePool"
            if node.op not in _THROUGH and not flat:
                hint = ": run fold_batchnorm before" if node.op == "BatchNormalization" else ""
                context.journal.declined(first.name, f"{node.op} behind it does not pass positive factors through{hint}",
                                         rule="not-homogeneous")  # fmt: skip
                return None
            tensor, seen = node.outputs[0], node if not flat else seen
        operands = [layer.inputs[1] for layer in (first, node)]
        if tensor is not node.inputs[0] or any(model.constant(t) is None or len(t.outputs) > 1 for t in operands):
            context.journal.declined(first.name, "a weight is computed, quantized or shared", rule="weights")
            return None
        if len(first.inputs) > 2 and not first.inputs[2].is_empty() and model.constant(first.inputs[2]) is None:
            context.journal.declined(first.name, "its bias is computed", rule="weights")
            return None
        if (first.op == "Gemm" and first.attrs.get("transA", 0)) or (node.op == "Gemm" and node.attrs.get("transA", 0)):
            return None
        if _Layer(model, first).channels_out != _Layer(model, node).channels_in:
            context.journal.declined(
                first.name, f"the channels of {node.name} are laid out differently", rule="channels"
            )
            return None
        return str(first.name), str(node.name)


class _Layer:
    """Weight and bias of one layer, float64, as [out, in / group, ...]."""

    def __init__(self, model: Model, node: gs.Node) -> None:
        self.model, self.node = model, node
        weight = model.constant(node.inputs[1])
        assert weight is not None
        self.dtype = weight.dtype
        self.turned = node.op == "Gemm" and not node.attrs.get("transB", 0)
        self.weight: Array = (weight.T if self.turned else weight).astype(np.float64)
        has_bias = len(node.inputs) > 2 and not node.inputs[2].is_empty()
        bias = model.constant(node.inputs[2]) if has_bias else None
        self.bias: Array | None = None if bias is None else np.broadcast_to(
            bias.astype(np.float64).reshape(-1), (len(self.weight),)
        ).copy()  # fmt: skip
        self.group = int(node.attrs.get("group", 1)) if node.op == "Conv" else 1

    @property
    def channels_out(self) -> int:
        return int(self.weight.shape[0])

    @property
    def channels_in(self) -> int:
        return int(self.weight.shape[1]) * self.group

    def out_range(self) -> Array:
        """Largest weight of every output channel."""
        return np.abs(self.weight).reshape(len(self.weight), -1).max(axis=1)

    def in_range(self) -> Array:
        """Largest weight that reads every input channel."""
        split = np.abs(self.weight).reshape(self.group, -1, self.weight.shape[1], int(np.prod(self.weight.shape[2:])))
        return np.asarray(split.max(axis=(1, 3)).reshape(-1))

    def scale_out(self, factor: Array) -> None:
        self.weight = self.weight * factor.reshape(-1, *(1,) * (self.weight.ndim - 1))
        if self.bias is not None:
            self.bias = self.bias * factor

    def scale_in(self, factor: Array) -> None:
        per_group = factor.reshape(self.group, 1, self.weight.shape[1], *(1,) * (self.weight.ndim - 2))
        shape = self.weight.shape
        self.weight = (self.weight.reshape(self.group, -1, *shape[1:]) * per_group).reshape(shape)

    def write(self) -> None:
        weight = (self.weight.T if self.turned else self.weight).astype(self.dtype)
        name = self.model.unique_tensor(f"{self.node.inputs[1].name}_equalized")
        self.node.inputs[1] = make_constant(name, weight)
        if self.bias is not None:
            name = self.model.unique_tensor(f"{self.node.inputs[2].name}_equalized")
            self.node.inputs[2] = make_constant(name, self.bias.astype(self.dtype))


def _step(first: _Layer, second: _Layer) -> float:
    """Equalize one pair; how far the largest factor is from 1."""
    r1, r2 = first.out_range(), second.in_range()
    # a dead channel has nothing to be equalized with
    live = (r1 > 0) & (r2 > 0)
    factor = np.where(live, np.sqrt(np.where(live, r1, 1.0) / np.where(live, r2, 1.0)), 1.0)
    first.scale_out(1.0 / factor)
    second.scale_in(factor)
    return float(np.abs(factor - 1.0).max())


def _unevenness(ranges: Array) -> float:
    median = float(np.median(ranges))
    return float(ranges.max()) / median if median > 0 else float("inf")
