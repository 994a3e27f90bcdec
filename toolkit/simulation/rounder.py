"""Rounds constant weights: the scales of each, and its values after quantizing and dequantizing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from threading import Lock

import onnx_graphsurgeon as gs

from toolkit.base.files import sha256_json
from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.calibration.weights import weight_amax
from toolkit.graph.layers.input_mean import input_mean
from toolkit.graph.model import Model
from toolkit.graph.surgery.tensors import content_digest
from toolkit.placement.qdq import storable_scale
from toolkit.simulation.output_ranges import RangeErrors
from toolkit.simulation.switches import fake_quantized

_KNOWN = 4096
"""The most weights to remember amax for, one number per channel each."""
_known: OrderedDict[tuple[object, ...], Array] = OrderedDict()
_looking = Lock()


def _amax(values: Array, axis: int | None, method: str, precision: Precision, block: int) -> Array:
    """``weight_amax``, cached by content.

    Forms of a model share most of its weights, and the search for the range of least error takes a hundred times as
    long as comparing digests.
    """
    # without samples, "output" uses the range of least error
    method = "mse" if method == "output" else method
    key = content_digest(values), str(values.dtype), values.shape, axis, method, precision, block
    with _looking:
        if (found := _known.get(key)) is not None:
            _known.move_to_end(key)
            return found
    found = weight_amax(values, axis, method, precision, block)
    found.flags.writeable = False
    with _looking:
        _known[key] = found
        while len(_known) > _KNOWN:
            _known.popitem(last=False)
    return found


@dataclass(frozen=True)
class RoundedWeight:
    """A weight rounded to its grid.

    Attributes:
        scale: float32 [1] or [channels]; with block scales an array of the weight's rank.
        values: the weight, quantized and dequantized.
        before_db: SQNR in dB of its layer's output with each value rounded to the nearest level, on held-out samples;
            None if not measured.
        after_db: the same with this rounding, chosen on the other samples.
    """

    scale: Array
    values: Array
    before_db: float | None = None
    after_db: float | None = None

    def times(self, factor: Array, axis: int, precision: Precision) -> RoundedWeight:
        """The same quantized values for the weight with its channels along ``axis`` multiplied by ``factor``."""
        spread = [-1 if at == axis else 1 for at in range(self.values.ndim)]
        # stored scales have few digits
        scale = storable_scale(self.scale * factor * precision.max, precision)
        values = self.values * (scale / self.scale).reshape(spread)
        return replace(self, scale=scale, values=values.astype(self.values.dtype))


Chosen = Mapping[tuple[str, "int | None"], RoundedWeight]
"""Roundings chosen on samples, by tensor and axis of channels or blocks."""


@dataclass(frozen=True)
class Rounder:
    """Rounds weights: as chosen on samples for some, each value to the nearest level for all others.

    Attributes:
        method: the method to choose a channel's range: minmax, mse or output.
        precision: the quantized type.
        chosen: roundings chosen on samples.
        block: number of weights along the axis per scale; the type's own if it has block scales; 0 for one scale per
            channel.
        errors: by layer, output errors for ranges of its input, as far as measured on samples.
    """

    method: str
    precision: Precision
    chosen: Chosen = field(default_factory=dict)
    block: int = 0
    errors: Mapping[str, RangeErrors] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "block", self.precision.block or self.block)

    def scale(self, tensor: str, values: Array, axis: int | None) -> Array:
        """The scales of a weight, float32 [1] or [channels]; with block scales an array of the weight's rank.

        Args:
            tensor: the weight's name.
            values: the weight's float values.
            axis: the axis of the channels or blocks; None for one scale per tensor.
        """
        found = self.chosen.get((tensor, axis))
        if found is not None:
            return found.scale
        return storable_scale(_amax(values, axis, self.method, self.precision, self.block), self.precision)

    def rounded(self, tensor: str, values: Array, axis: int | None, scale: Array | None = None) -> Array:
        """The weight, quantized and dequantized; ``scale``: the result of ``scale()`` if known already."""
        found = self.chosen.get((tensor, axis))
        if found is not None:
            return found.values
        scale = self.scale(tensor, values, axis) if scale is None else scale
        return fake_quantized(values, scale, axis, self.precision, self.block)

    def fingerprint(self) -> list[list[str]]:
        """The block size, then name, axis and SHA-256 of the values of each chosen rounding."""
        found = sorted([tensor, str(axis), content_digest(one.values)] for (tensor, axis), one in self.chosen.items())
        return [[str(self.block)], *found]


def rounding_key(model: Model, node: gs.Node, rounder: Rounder) -> str:
    """SHA-256 in hex of everything the rounding of a layer's weights depends on, for one function of the model."""
    weight, mean = model.constant(node.inputs[1]), input_mean(model, node)
    values = content_digest(weight) if weight is not None else ""
    noted = mean.tolist() if mean is not None else []
    grid = [str(rounder.precision), rounder.block]
    return sha256_json([node.name, *(tensor.name for tensor in node.inputs[:2]), values, noted, *grid])
