"""A layer's weights by channel, for any operator and layout."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.base.errors import ModelError
from toolkit.base.types import Array
from toolkit.graph.layers.input_mean import input_mean, note_input_mean
from toolkit.graph.model import Model
from toolkit.graph.proto.names import Names
from toolkit.graph.surgery.tensors import make_constant


def bias_of(model: Model, node: gs.Node) -> tuple[gs.Node, int] | None:
    """The node and input index of a layer's constant bias with one value per output channel, or one for all.

    None if there is none: a Gemm's third input may have one value per row too, ``[rows, 1]`` or ``[rows, channels]``
    (see ``has_other_bias``). For a MatMul it is the Add that is the only reader of its result: exporters write a Gemm
    whose input has more than two dimensions like this.
    """
    if node.op != "MatMul":
        value = model.constant(node.inputs[2]) if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
        return (node, 2) if value is not None and value.size == (value.shape or (1,))[-1] else None
    out, weight = node.outputs[0], model.constant(node.inputs[1])
    if len(out.outputs) != 1 or out.outputs[0].op != "Add" or model.is_output(out):
        return None
    holder = out.outputs[0]
    index = 1 if holder.inputs[0] is out else 0
    bias = model.constant(holder.inputs[index])
    if bias is None or not 1 <= bias.ndim <= 2 or bias.size != bias.shape[-1]:
        return None
    return (holder, index) if weight is None or (weight.ndim == 2 and weight.shape[1] == bias.size) else None


def has_other_bias(model: Model, node: gs.Node) -> bool:
    """Whether a layer adds a third input that is no bias of its channels: a computed one, or one value per row."""
    given = node.op != "MatMul" and len(node.inputs) > 2 and not node.inputs[2].is_empty()
    return given and bias_of(model, node) is None


def _constant_weight(model: Model, node: gs.Node) -> Array:
    weight = model.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if weight is None:
        raise ModelError(
            f"the weight of node '{node.name}' ({node.op}) is no constant: it is computed, or read through a Q/DQ pair",
            remedy="change weights before a pass that quantizes; constant_through_pair reads them through a pair",
        )
    return weight


class LayerWeights:
    """Weight and bias of a Conv, Gemm or MatMul, float64, as [out, in / group, ...]; ``write`` stores them.

    Ranges are computed from the model's own values: weights are copied only when accessed.

    Args:
        node: the layer; its weight, and its bias if it has one (see ``bias_of``), must be constants.

    Raises:
        ModelError: its weight is computed, or read through a Q/DQ pair.
    """

    def __init__(self, model: Model, node: gs.Node) -> None:
        self.model, self.node = model, node
        weight = _constant_weight(model, node)
        self.dtype = weight.dtype
        self._in_out = is_stored_in_out(node)
        self._own: Array = weight.T if self._in_out else weight
        self._wide: Array | None = None
        self.holder = bias_of(model, node)
        bias = model.constant(self.holder[0].inputs[self.holder[1]]) if self.holder is not None else None
        self.bias: Array | None = None if bias is None else np.broadcast_to(
            bias.astype(np.float64).reshape(-1), (len(self._own),)
        ).copy()  # fmt: skip
        self.group = _group(node)
        self.mean = input_mean(model, node)

    @property
    def weight(self) -> Array:
        """The weight, float64 [out, in / group, ...]."""
        if self._wide is None:
            self._wide = self._own.astype(np.float64)
        return self._wide

    @weight.setter
    def weight(self, values: Array) -> None:
        self._wide = values

    @property
    def shape(self) -> tuple[int, ...]:
        """[out, in / group, ...]."""
        return tuple(self._own.shape)

    @property
    def channels_out(self) -> int:
        """Number of output channels."""
        return int(self.shape[0])

    @property
    def channels_in(self) -> int:
        """How many input channels it has."""
        return int(self.shape[1]) * self.group

    @staticmethod
    def channels(model: Model, node: gs.Node) -> tuple[int, int]:
        """The numbers of output and input channels of a layer with a constant weight.

        Raises:
            ModelError: its weight is no constant of the model.
        """
        return LayerWeights.channels_of(node, _constant_weight(model, node))

    @staticmethod
    def channels_of(node: gs.Node, weight: Array) -> tuple[int, int]:
        """The numbers of output and input channels of a weight in the node's own layout, also for ConvTranspose."""
        if node.op == "ConvTranspose":
            return int(weight.shape[1]) * int(node.attrs.get("group", 1)), int(weight.shape[0])
        out, into = (weight.shape[-1], weight.shape[0]) if is_stored_in_out(node) else weight.shape[:2]
        return int(out), int(into) * _group(node)

    @property
    def _held(self) -> Array:
        return self._own if self._wide is None else self._wide

    def out_range(self) -> Array:
        """Largest magnitude of every output channel's weights."""
        return _largest(self._held, tuple(range(1, len(self.shape))))

    def in_range(self) -> Array:
        """Largest magnitude of every input channel's weights."""
        return np.concatenate([
            _largest(part, (0, *range(2, part.ndim))) for part in np.split(self._held, self.group)
        ])  # fmt: skip

    def scale_out(self, factor: Array) -> None:
        """Multiply every output channel, bias included, by its factor."""
        self.weight = self.weight * factor.reshape(-1, *(1,) * (self.weight.ndim - 1))
        if self.bias is not None:
            self.bias = self.bias * factor

    def scale_in(self, factor: Array) -> None:
        """Multiply the weights of every input channel by its factor; the caller divides the channel by it."""
        per_group = factor.reshape(self.group, 1, self.weight.shape[1], *(1,) * (self.weight.ndim - 2))
        shape = self.weight.shape
        self.weight = (self.weight.reshape(self.group, -1, *shape[1:]) * per_group).reshape(shape)
        self.mean = self.mean / factor if self.mean is not None else None

    def write(self, word: str, names: Names | None = None) -> None:
        """Store the weights in the node as new constants with names that end in ``word``.

        Args:
            word: the suffix of the constants' names.
            names: the names of the model's tensors, for callers that write many weights.
        """
        names = names if names is not None else self.model.tensor_names()
        weight = (self.weight.T if self._in_out else self.weight).astype(self.dtype)
        if self.mean is not None:
            note_input_mean(self.model, self.node, self.mean)
        self.node.inputs[1] = make_constant(names.take(f"{self.node.inputs[1].name}_{word}"), weight)
        if self.bias is not None and self.holder is not None:
            holder, index = self.holder
            name, shape = names.take(f"{holder.inputs[index].name}_{word}"), holder.inputs[index].shape
            bias = self.bias.astype(self.dtype)
            # an Add's bias may have leading axes of length 1
            keeps = holder is not self.node and int(np.prod(shape)) == bias.size
            holder.inputs[index] = make_constant(name, bias.reshape(shape) if keeps else bias)


def _largest(values: Array, axes: tuple[int, ...]) -> Array:
    """The largest magnitudes along some axes, float64, without a temporary array of all magnitudes."""
    return np.maximum(values.max(axis=axes).astype(np.float64), -values.min(axis=axes).astype(np.float64))


def is_stored_in_out(node: gs.Node) -> bool:
    """Whether a layer's weight is stored as [in, out], as in a MatMul, or a Gemm without transB."""
    return node.op == "MatMul" or (node.op == "Gemm" and not node.attrs.get("transB", 0))


def out_axis(node: gs.Node) -> int:
    """The axis of the output channels in a layer's weight; that of a group's channels in a ConvTranspose's."""
    return -1 if is_stored_in_out(node) else int(node.op == "ConvTranspose")


def _group(node: gs.Node) -> int:
    return int(node.attrs.get("group", 1)) if node.op == "Conv" else 1
