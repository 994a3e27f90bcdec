"""A layer's bias: where it is, a layer's response to a constant input, and correcting the bias for rounded weights.

Rounding the weights W to Wq shifts the mean of a layer's output by (Wq - W) E[x]. If a pass records E[x], the pass that
rounds the weights subtracts the shift from the bias: Nagel et al., "Data-free quantization through weight equalization
and bias correction", ICCV 2019, section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.base.types import Array
from toolkit.graph.layers.input_mean import corrected_mean, corrections, forget_corrections, input_mean, mark_open
from toolkit.graph.layers.layer_weights import LayerWeights, bias_of, out_axis
from toolkit.graph.model import Model
from toolkit.graph.proto.names import Names
from toolkit.graph.surgery.tensors import make_constant


@dataclass(frozen=True)
class BiasPlace:
    """Where the bias of a layer is, or could be.

    Attributes:
        layer: the layer.
        holder: the node that reads it: the layer, or the Add after a MatMul.
        index: the index of that input; one after the last if the layer has no bias yet.
        beta: the factor that the holder applies to it.
    """

    layer: gs.Node
    holder: gs.Node
    index: int
    beta: float

    @property
    def given(self) -> bool:
        """Whether the bias exists."""
        return self.index < len(self.holder.inputs) and not self.holder.inputs[self.index].is_empty()

    def plus(self, model: Model, values: Array, dtype: Any = np.float32) -> Array:
        """The bias that adds ``values``, float64 [out], to the layer's output; of type ``dtype`` if there was none."""
        old = model.constant(self.holder.inputs[self.index]) if self.given else None
        if old is None:
            return np.asarray(values / self.beta).astype(dtype)
        shape = old.shape if old.size == values.size else values.shape
        return (old.astype(np.float64).reshape(-1) + values / self.beta).reshape(shape).astype(old.dtype)

    def add(
        self, model: Model, values: Array, word: str, names: Names, dtype: Any = np.float32
    ) -> tuple[str, str, Array]:
        """Add ``values``, float64 [out], to the layer's output, by a new bias whose name ends in ``word``.

        Returns:
            Its name, the name of the old bias (empty if there was none), and the old bias's values (zeros if none).
        """
        new = self.plus(model, values, dtype)
        before = self.plus(model, np.zeros_like(values), dtype)
        if self.given:
            old = self.holder.inputs[self.index].name
            name = names.take(f"{old}_{word}")
            self.holder.inputs[self.index] = make_constant(name, new)
            return name, old, before
        constant = make_constant(names.take(f"{self.layer.name}_bias_{word}"), new)
        if self.index < len(self.holder.inputs):
            self.holder.inputs[self.index] = constant
        else:
            self.holder.inputs.append(constant)
        return constant.name, "", before


def bias_place(model: Model, node: gs.Node, size: int) -> BiasPlace | None:
    """The place of the bias of ``size`` values of a Conv, ConvTranspose, Gemm or MatMul; None if it can have none."""
    beta = float(node.attrs.get("beta", 1.0)) if node.op == "Gemm" else 1.0
    if beta == 0:
        return None
    found = bias_of(model, node)
    if found is not None:
        value = model.constant(found[0].inputs[found[1]])
        fits = value is not None and value.size in (1, size)
        return BiasPlace(node, *found, beta if found[0] is node else 1.0) if fits else None
    empty = len(node.inputs) < 3 or node.inputs[2].is_empty()
    return BiasPlace(node, node, 2, beta) if node.op != "MatMul" and empty else None


def response(node: gs.Node, weight: Array, constant: Array) -> Array:
    """A layer's output for a constant input, without its bias: float64 [out].

    Args:
        node: a Conv, Gemm or MatMul whose first input is the activation.
        weight: its weight, or a difference of weights, in the node's own layout.
        constant: the input, one value per channel; padding counts as if it had the same values.
    """
    wide = np.asarray(weight, np.float64)
    if node.op == "MatMul":
        return np.asarray(constant @ wide)
    if node.op == "Gemm":
        turned = wide.T if node.attrs.get("transB", 0) else wide
        return np.asarray(float(node.attrs.get("alpha", 1.0)) * (constant @ turned))
    group = int(node.attrs.get("group", 1))
    summed = wide.reshape(group, wide.shape[0] // group, wide.shape[1], -1).sum(axis=3)
    return np.asarray(np.einsum("goi,gi->go", summed, constant.reshape(group, -1)).reshape(-1))


def correction(model: Model, node: gs.Node, rounded: Array) -> tuple[BiasPlace, Array] | None:
    """The bias correction for the rounding of a layer's weights at its recorded mean input: the bias, and the values to
    add.

    Args:
        rounded: its weight after quantization and dequantization.

    Returns:
        None if no mean is recorded, or there is no bias to correct.
    """
    mean = input_mean(model, node)
    weight = model.constant(node.inputs[1]) if mean is not None else None
    if mean is None or weight is None or not _is_of(mean, node, weight):
        return None
    values = -response(node, rounded.astype(np.float64) - weight.astype(np.float64), mean)
    place = bias_place(model, node, values.size)
    return (place, values) if place is not None else None


def rounding_correction(model: Model, node: gs.Node, error: Array) -> Array:
    """The correction for the rounding of its weights that a quantized layer's bias already contains.

    Args:
        error: the difference of rounded and float weight, in the node's own layout.

    Returns:
        float64 [out], or [1] if no mean was recorded.
    """
    mean = _corrected(model, node, error)
    return -response(node, error, mean) if mean is not None else np.zeros(1)


def _corrected(model: Model, node: gs.Node, error: Array) -> Array | None:
    mean = corrected_mean(model, node)
    return mean if mean is not None and _is_of(mean, node, error) else None


def _is_of(mean: Array, node: gs.Node, weight: Array) -> bool:
    """Whether a recorded mean has one value per input channel: a file may contain anything under its key."""
    return node.op != "ConvTranspose" and mean.size == LayerWeights.channels_of(node, weight)[1]


def restore_bias(model: Model, node: gs.Node, weight: Array, rounded: Callable[[], Array], names: Names) -> None:
    """Undo what was corrected in a layer for the rounding of its weights: its bias, and the scale of its weights.

    Args:
        weight: its new weight, in the node's own layout.
        rounded: returns its rounded weight; not called if the bias is not corrected.
        names: the names of the model's tensors.
    """
    mean = _corrected(model, node, weight)
    added, factors = corrections(model, node)
    channels = LayerWeights.channels_of(node, weight)[0]
    # rounded values are known only as long as the pair reads the scaled weights
    error = rounded().astype(np.float64) - weight.astype(np.float64) if mean is not None else np.zeros(1)
    if factors is not None and factors.size == weight.shape[out_axis(node)] and factors.all():
        # the mean was corrected before the weights were scaled
        error = error / _unscale(model, node, weight, factors, names)
    values = response(node, error, mean) if mean is not None else np.zeros(channels)
    if added is not None and added.size in (1, channels):
        values = values - added
    place = bias_place(model, node, channels)
    if place is not None and (mean is not None or added is not None):
        place.add(model, values, "float", names, weight.dtype)
        if mean is not None:
            mark_open(model, node)
    forget_corrections(model, node)


def _unscale(model: Model, node: gs.Node, weight: Array, factors: Array, names: Names) -> Array:
    """Divide the float weights that a layer's pair quantizes by the factors of its output channels, which are returned.

    They are returned in the shape in which they multiply the weight.
    """
    quantize = node.inputs[1].inputs[0].inputs[0].inputs[0]
    shape = [1] * weight.ndim
    shape[out_axis(node)] = -1
    by_channel = factors.reshape(shape)
    values = (weight.astype(np.float64) / by_channel).astype(weight.dtype)
    quantize.inputs[0] = make_constant(names.take(f"{quantize.inputs[0].name}_float"), values)
    return by_channel
