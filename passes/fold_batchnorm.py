"""Fold BatchNormalization into the preceding convolution or Gemm, however either is exported."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs

from toolkit import (
    DEQUANTIZE,
    Array,
    Code,
    Context,
    Facts,
    Finding,
    LayerWeights,
    Model,
    Names,
    Pass,
    Role,
    bias_of,
    make_constant,
    onnx_type,
)

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_SCALINGS = frozenset({"Mul", "Add", "Sub", "Div"})
_BY_RANK = _SCALINGS | {"MatMul"}
_FOLDED = _SCALINGS | {"BatchNormalization"}
_WHY = Code.SCALES_CHANNELS()


class FoldBatchNorm(Pass):
    """Fold BatchNormalization, or an equivalent constant Mul, Add, Sub or Div, into the preceding layer."""

    name = "fold_batchnorm"
    role = Role.FOLD_NORMALIZATION
    supports_dry_run = graph_only = True

    def apply(self, model: Model, context: Context) -> None:
        """Scale the weights and shift the bias: W' = W g, b' = (b - mean) g + beta with g = gamma / sqrt(var + eps)."""
        # most graphs need no ranks, and inferring them takes longer than all the folding
        nodes = model.nodes
        by_rank = any(node.op in _BY_RANK for node in nodes) and any(_needs_rank(model, node) for node in nodes)
        facts = model.facts(context.profiles) if by_rank else Facts()
        names = _NamesInUse(model)
        for node in nodes:
            if node.op not in _LAYERS:
                continue
            rank = facts.rank(node.outputs[0].name)
            if node.op == "MatMul" and not _like_gemm(model, node, rank):
                continue
            while self._fold_next(model, node, rank, names, context):
                pass
        model.tidy()
        declined = {event.node for event in context.journal.of("declined", self.title())}
        for node, _ in model.walk():
            if node.op == "BatchNormalization" and node.name not in declined:
                context.journal.declined(node.name, Code.NO_LAYER())

    def _fold_next(self, model: Model, layer: gs.Node, rank: int | None, names: _NamesInUse, context: Context) -> bool:
        """Fold the next node into a layer; returns whether it was folded."""
        readers = layer.outputs[0].outputs
        if len(readers) == 1 and readers[0].op not in _FOLDED:
            return False
        place = bias_of(model, layer)
        holder = place[0] if place is not None else layer
        out = holder.outputs[0]
        if len(out.outputs) != 1:
            for reader in out.outputs:
                if reader.op == "BatchNormalization":
                    context.journal.declined(reader.name, Code.SHARED_OUTPUT(layer=layer.name))
            return False
        after = out.outputs[0]
        affine = _affine(model, after, out, rank)
        if affine is None:
            return False
        weight = model.constant(layer.inputs[1])
        refusal = _refusal(model, layer, weight, out, names.in_subgraphs)
        if refusal is not None:
            if after.op == "BatchNormalization":
                context.journal.declined(after.name, refusal)
            return False
        assert weight is not None
        channels, _ = LayerWeights.channels_of(layer, weight)
        gain, offset = affine
        if gain.size not in (1, channels) or offset.size not in (1, channels):
            return False
        gain, offset = _each(gain, channels), _each(offset, channels)
        new_bias = _folded_bias(model, layer, place, gain, offset)
        name, kind = names.all.take(f"{layer.inputs[1].name}_folded"), onnx_type(weight.dtype)
        layer.inputs[1] = make_constant(name, _scaled(layer, weight, gain), kind)
        bias_tensor = make_constant(names.all.take(f"{layer.name}_bias_folded"), new_bias, kind)
        folded = Code.FOLDED_IN(op=after.op, node=after.name)
        _rewire(layer, place, after, bias_tensor)
        context.journal.changed(layer.name, folded, _WHY)
        if not after.outputs:
            # the folded node's precision request moves to the layer, unless the layer has its own
            if layer.name in context.plan:
                context.plan.withdraw(after.name)
            else:
                context.plan.rename(after.name, layer.name)
        return True


def _folded_bias(model: Model, layer: gs.Node, place: tuple[gs.Node, int] | None, gain: Array, offset: Array) -> Array:
    """The layer's bias [channels] after folding, as stored: Gemm multiplies it by beta, which is never 0 here."""
    beta = float(layer.attrs.get("beta", 1.0)) if layer.op == "Gemm" else 1.0
    bias = model.constant(place[0].inputs[place[1]]) if place is not None else None
    if bias is None:
        return offset / beta
    return (_each(bias.astype(np.float64).reshape(-1), gain.size) * beta * gain + offset) / beta


def _rewire(layer: gs.Node, place: tuple[gs.Node, int] | None, after: gs.Node, bias: gs.Constant) -> None:
    """Give the layer its new bias, and connect its output to the readers of the folded node.

    A MatMul has no bias: the remaining Add of the normalization serves as one.
    """
    holder = place[0] if place is not None else layer
    if place is None and layer.op == "MatMul":
        after.op, after.attrs = "Add", {}
        after.inputs.clear()
        after.inputs.extend([layer.outputs[0], bias])
        return
    if place is not None:
        holder.inputs[place[1]] = bias
    elif len(layer.inputs) > 2:
        layer.inputs[2] = bias
    else:
        layer.inputs.append(bias)
    result = after.outputs[0]
    # also disconnect its inputs: a constant may have thousands of readers
    after.outputs.clear()
    holder.outputs[0] = result


class _NamesInUse:
    """The names of a model's tensors, collected only when something is folded: most graphs have nothing to fold."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @cached_property
    def all(self) -> Names:
        """The names of all tensors."""
        return self._model.tensor_names()

    @cached_property
    def in_subgraphs(self) -> set[str]:
        """The names of main-graph tensors that subgraphs read."""
        return self._model.subgraph_tensors()


def _needs_rank(model: Model, node: gs.Node) -> bool:
    """Whether the rank of a layer's output decides if the next node can be folded into it."""
    if node.op not in _LAYERS:
        return False
    place = bias_of(model, node)
    readers = (place[0] if place is not None else node).outputs[0].outputs
    after = readers[0] if len(readers) == 1 else None
    if after is not None and after.op == "BatchNormalization":
        following = after.outputs[0].outputs
        after = following[0] if len(following) == 1 else None
    normalizes = after is not None and after.op == "BatchNormalization"
    if node.op == "MatMul":
        # the reason given for not folding depends on the rank too
        normalizes = any(reader.op == "BatchNormalization" for reader in readers)
    if not normalizes and after is not None and after.op in _SCALINGS:
        normalizes = any(model.constant(tensor) is not None for tensor in after.inputs)
    # last, since this decodes the weight
    return normalizes and model.constant(node.inputs[1]) is not None


def _like_gemm(model: Model, node: gs.Node, rank: int | None) -> bool:
    """Whether a MatMul is equivalent to a Gemm: with more dimensions, axis 1 is not its channels."""
    weight = model.constant(node.inputs[1]) if rank == 2 else None
    return weight is not None and weight.ndim == 2


def _affine(model: Model, node: gs.Node, source: gs.Tensor, rank: int | None) -> tuple[Array, Array] | None:
    """Per-channel gain and offset of a node that scales and shifts ``source``; None if it does not."""
    if node.op == "BatchNormalization":
        return _normalization(model, node)
    if node.op not in _SCALINGS or rank is None or (node.op == "Div" and node.inputs[0] is not source):
        return None
    first = node.inputs[0] is source
    value = _by_channel(model, node.inputs[1 if first else 0], rank)
    if value is None:
        return None
    zero, one = np.zeros(1), np.ones(1)
    if node.op == "Div":
        return (1 / value, zero) if value.all() else None
    if node.op == "Sub":
        return (one, -value) if first else (-one, value)
    return (value, zero) if node.op == "Mul" else (one, value)


def _normalization(model: Model, node: gs.Node) -> tuple[Array, Array] | None:
    """Per-channel gain and offset of a BatchNormalization; None in training mode or with computed parameters."""
    several = len(node.outputs) > 1 and len([t for t in node.outputs if not t.is_empty()]) > 1
    if several or node.attrs.get("training_mode", 0):
        return None
    wide = []
    for tensor in node.inputs[1:5]:
        values = model.constant(tensor)
        if values is None:
            return None
        wide.append(values.astype(np.float64))
    gamma, shift, mean, variance = wide
    gain = gamma / np.sqrt(variance + float(node.attrs.get("epsilon", 1e-5)))
    return gain, shift - mean * gain


def _by_channel(model: Model, tensor: gs.Tensor, rank: int) -> Array | None:
    """A float constant with at most one value per channel of a tensor of this rank, as flat float64; None otherwise."""
    value = model.constant(tensor)
    if value is None or not isinstance(value.dtype, np.dtype) or value.dtype.kind != "f":
        return None
    shape = (1,) * (rank - value.ndim) + value.shape
    if len(shape) != rank or any(size != 1 for axis, size in enumerate(shape) if axis != 1):
        return None
    return np.asarray(value.astype(np.float64).reshape(-1))


def _refusal(model: Model, layer: gs.Node, weight: Array | None, out: gs.Tensor, inner: set[str]) -> Finding | None:
    """Why nothing can be folded into a layer; None if it can."""
    if model.is_output(out) or out.name in inner:
        return Code.OUTPUT(layer=layer.name)
    if weight is None:
        paired = any(tensor.inputs and tensor.inputs[0].op == DEQUANTIZE for tensor in layer.inputs[1:2])
        return Code.COMPUTED_WEIGHTS(layer=layer.name, **({"paired": True} if paired else {}))
    if len(layer.inputs) > 2 and not layer.inputs[2].is_empty() and model.constant(layer.inputs[2]) is None:
        return Code.COMPUTED_BIAS(layer=layer.name)
    if layer.op == "Gemm" and len(layer.inputs) > 2 and not layer.inputs[2].is_empty():
        bias, channels = model.constant(layer.inputs[2]), LayerWeights.channels_of(layer, weight)[0]
        if bias is not None and bias.size != 1 and (bias.shape[-1] != channels or bias.size != channels):
            return Code.BIAS_SHAPE(layer=layer.name, shape=bias.shape)
    if layer.op == "Gemm" and float(layer.attrs.get("beta", 1.0)) == 0.0:
        return Code.BETA(layer=layer.name)
    return None


def _each(values: Array, channels: int) -> Array:
    """One value per channel, where there may be a single value for all."""
    return values if values.size == channels else np.broadcast_to(values, channels)


def _scaled(layer: gs.Node, weight: Array, gain: Array) -> Array:
    """The weight with each output channel multiplied by its gain, float64."""
    wide = weight.astype(np.float64)
    if layer.op == "Conv":
        return wide * gain.reshape(-1, *(1,) * (wide.ndim - 1))
    if layer.op == "ConvTranspose":
        groups = int(layer.attrs.get("group", 1))
        split = wide.reshape(groups, wide.shape[0] // groups, *wide.shape[1:])
        scaled = split * gain.reshape(groups, 1, -1, *(1,) * (wide.ndim - 2))
        return scaled.reshape(wide.shape)
    return wide * (gain.reshape(-1, 1) if layer.attrs.get("transB", 0) else gain.reshape(1, -1))
