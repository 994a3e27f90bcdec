"""Cross-layer equalization: even out channel ranges between two layers without changing the function."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from pydantic import Field

from toolkit import (
    Array,
    Code,
    Context,
    Facts,
    Finding,
    Forms,
    Harm,
    Helper,
    LayerWeights,
    Model,
    bias_of,
    has_other_bias,
)

_THROUGH = frozenset({"Relu", "LeakyRelu", "PRelu", "Identity", "Dropout"})
_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool"})
_FLATTEN = ("Flatten", "Reshape", "Squeeze")
_CHANGE = 1e-3


class Equalize(Helper):
    """Cross-layer equalization: scale channels between Conv and Gemm layers so that one INT8 scale serves them all.

    For W1 -> ReLU -> W2, channel c of W1 is divided by s = sqrt(r1 / r2) and that of W2 multiplied by it, where r is
    the channel's largest weight magnitude: Nagel et al., "Data-free quantization through weight equalization and bias
    correction", ICCV 2019, equation 11. Depthwise chains are traversed until nothing changes.
    """

    name = "equalize"
    supports_dry_run = True
    mends = Harm.UNEVEN_WEIGHTS
    rounds: int = Field(20, gt=0, le=1_000_000, description="largest number of passes over all pairs")

    def measures_engines(self) -> bool:
        """Builds no engines."""
        return False

    def applicable_layers(self, model: Model) -> set[str]:
        """Layers whose input channels would be scaled: the second of each pair that is not equalized yet."""
        layers, pairs = self._pairs(model, Context())
        weights = {name: LayerWeights(model, layers[name]) for pair in pairs for name in pair}
        pairs = [pair for pair in pairs if _change(_factor(*(weights[name] for name in pair))) >= _CHANGE]
        first = {name for name, _ in pairs}
        return {name for pair in pairs for name in pair if name not in first or _is_downstream(layers[name], first)}

    def apply(self, model: Model, context: Context) -> None:
        """Equalize every pair; each gets a journal entry, those declined with the reason."""
        from toolkit import forget_ranges

        layers, pairs = self._pairs(model, context)
        if not pairs:
            context.journal.noted(Code.NOTHING_TO_EQUALIZE())
            return
        weights = {name: LayerWeights(model, layers[name]) for pair in pairs for name in pair}
        spread = {pair: _unevenness(weights[pair[0]].out_range()) for pair in pairs}
        for _ in range(self.rounds):
            if max(_step(weights[first], weights[second]) for first, second in pairs) < _CHANGE:
                break
        names = model.tensor_names()
        for layer in weights.values():
            layer.write("equalized", names)
        for pair in pairs:
            even = _unevenness(weights[pair[0]].out_range())
            why = Code.CHANNEL_SPREAD(before=spread[pair], after=even)
            context.journal.changed(pair[0], Code.EQUALIZED(other=pair[1]), why)
        forget_ranges(context)

    def _pairs(self, model: Model, context: Context) -> tuple[dict[str, gs.Node], list[tuple[str, str]]]:
        """The layers by name, and the pairs that can be equalized; the journal notes why others cannot."""
        forms, facts, inner = Forms(model), model.facts(context.profiles), model.subgraph_tensors()
        layers = {node.name: node for node in model.nodes if _is_layer(model, node)}
        found = (self._pair(model, forms, facts, inner, node, context) for node in layers.values())
        return layers, [pair for pair in found if pair is not None]

    def _pair(
        self, model: Model, forms: Forms, facts: Facts, inner: set[str], first: gs.Node, context: Context
    ) -> tuple[str, str] | None:
        """The layer and the only layer that reads its output; None, with a journal entry, if there is no such pair.

        ``inner`` names the tensors that subgraphs read.
        """
        second = _next_layer(model, forms, facts, inner, first)
        why: Finding | None = None
        if isinstance(second, Finding):
            why = second
        elif second is not None:
            why = _not_constant(model, first, second)
            if why is None:
                along = not (_transposed(first) or _transposed(second))
                if along and LayerWeights.channels(model, first)[0] == LayerWeights.channels(model, second)[1]:
                    return str(first.name), str(second.name)
                why = Code.CHANNELS(other=second.name)
        if why is not None:
            context.journal.declined(first.name, why)
        return None


def _next_layer(model: Model, forms: Forms, facts: Facts, inner: set[str], first: gs.Node) -> gs.Node | Finding | None:
    """The only layer that reads a layer's output; else why there is none, or None if that is not worth reporting."""
    holder = bias_of(model, first)
    tensor = (holder[0] if holder is not None and first.op == "MatMul" else first).outputs[0]
    # a convolution's channels are on axis 1 until a global pool and a Flatten leave only that axis
    spatial, pooled = first.op == "Conv", False
    while True:
        if model.is_output(tensor) or tensor.name in inner:
            return None
        if len(tensor.outputs) != 1:
            return Code.SHARED(tensor=tensor.name, readers=len(tensor.outputs))
        node = tensor.outputs[0]
        flat = not spatial or node.op == "Gemm" or facts.rank(tensor.name) == 2
        if _is_layer(model, node) and (spatial if node.op == "Conv" else flat):
            return node if tensor is node.inputs[0] else Code.WEIGHTS(part="weight")
        op = forms.op(node)
        pool = spatial and op in _POOLS
        if op not in _THROUGH and not pool and not (pooled and op in _FLATTEN):
            return Code.NOT_HOMOGENEOUS(op=node.op)
        pooled = op == "GlobalAveragePool" or (pooled and op in _FLATTEN)
        tensor = node.outputs[0]


def _not_constant(model: Model, first: gs.Node, second: gs.Node) -> Finding | None:
    """Why the operands to be scaled cannot be changed: one is computed, or a weight is shared. None if they can."""
    operands = [layer.inputs[1] for layer in (first, second)]
    if any(model.constant(t) is None or len(t.outputs) > 1 for t in operands):
        return Code.WEIGHTS(part="weight")
    if has_other_bias(model, first):
        return Code.WEIGHTS(part="bias")
    return None


def _transposed(layer: gs.Node) -> bool:
    """Whether a Gemm reads its input transposed."""
    return layer.op == "Gemm" and bool(layer.attrs.get("transA", 0))


def _is_layer(model: Model, node: gs.Node) -> bool:
    """Whether a node is a Conv or a Gemm, including a Gemm exported as MatMul and bias Add."""
    if node.op == "MatMul":
        return model.constant(node.inputs[1]) is not None and bias_of(model, node) is not None
    return node.op in ("Conv", "Gemm")


def _is_downstream(layer: gs.Node, first: set[str]) -> bool:
    """Whether the path upstream of a layer's input reaches the first layer of a pair before it branches."""
    tensor = layer.inputs[0]
    while tensor.inputs:
        node = tensor.inputs[0]
        if node.name in first:
            return True
        if len(node.outputs[0].outputs) != 1 or not node.inputs:
            return False
        tensor = next((t for t in node.inputs if t.inputs), node.inputs[0])
    return False


def _step(first: LayerWeights, second: LayerWeights) -> float:
    """Equalize one pair; returns how far the largest factor was from 1."""
    factor = _factor(first, second)
    first.scale_out(1.0 / factor)
    second.scale_in(factor)
    return _change(factor)


def _factor(first: LayerWeights, second: LayerWeights) -> Array:
    """By what each channel of the first layer is divided, so that the channel has the same range in both layers."""
    r1, r2 = first.out_range(), second.in_range()
    # a dead channel has no range to equalize
    live = (r1 > 0) & (r2 > 0)
    return np.asarray(np.where(live, np.sqrt(np.where(live, r1, 1.0) / np.where(live, r2, 1.0)), 1.0))


def _change(factor: Array) -> float:
    """How far the largest factor is from 1."""
    return float(np.abs(factor - 1.0).max(initial=0.0))


def _unevenness(ranges: Array) -> float:
    """The largest channel range relative to the median over all channels."""
    median = float(np.median(ranges))
    return float(ranges.max()) / median if median > 0 else float("inf")
