"""Results of rounding single layers' weights on samples, reused in other forms of the model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.graph.layers.input_mean import input_mean
from toolkit.graph.model import Model
from toolkit.placement.ops import weight_axis
from toolkit.simulation.output_ranges import RangeErrors
from toolkit.simulation.rounder import RoundedWeight, Rounder

_SAME = 1e-4
"""Weights that differ by less than this, as a share of their channel's largest, count as equal: a helper applied again
to an equivalent form of the model gets activations that differ in the last bits, and so do its factors.
"""

_FORMS = 8
"""The most forms of a layer to keep, the latest ones: a search stacks a few helpers, and goes back to the form before
one or two of them. Each form holds the layer's weights twice.
"""

SeenOnSamples = dict[tuple[object, ...], "list[SeenLayer]"]
"""Results by ``layer_key``: the names of a layer and its inputs, and the grid of its weights."""


@dataclass(frozen=True)
class SeenLayer:
    """The results for one form of a layer.

    Attributes:
        samples: number of samples behind the results.
        weight: the layer's float weights.
        mean: the noted mean of its input, float64 [channels]; None if there is none.
        rounded: its weights rounded for its output, by tensor and axis; empty if rounding to the nearest is better.
        errors: output errors for ranges of its input.
    """

    samples: int
    weight: Array | None
    mean: Array | None
    rounded: dict[tuple[str, int | None], RoundedWeight] = field(default_factory=dict)
    errors: RangeErrors = field(default_factory=RangeErrors)

    def is_form_of(self, other: SeenLayer) -> bool:
        """Whether weights and noted mean equal another's, except for the last bits."""
        if not _alike(self.mean, other.mean) or self.weight is None or other.weight is None:
            return False
        rows = [one.reshape(len(one), -1) for one in (self.weight, other.weight)]
        return self.weight.shape == other.weight.shape and _near(*rows)

    def of(self, model: Model, node: gs.Node, precision: Precision) -> SeenLayer | None:
        """The results for a layer of this name, whose weights may differ by a factor per output channel.

        The rounding of an output channel does not depend on that factor, which a helper removes again if the readers of
        the channels stay in float. None if the weights differ otherwise, or the mean of the layer's input differs.
        """
        weight, mean = model.constant(node.inputs[1]), input_mean(model, node)
        if self.weight is None or weight is None or self.weight.shape != weight.shape or not _alike(self.mean, mean):
            return None
        axis = weight_axis(node.op, 1, weight.ndim, node.attrs)
        before, now = (np.moveaxis(one, axis or 0, 0) for one in (self.weight, weight))
        before, now = before.reshape(len(before), -1), now.reshape(len(now), -1)
        if _near(now, before):
            return self
        power = np.einsum("oi,oi->o", before, before, dtype=np.float64)
        factor = np.einsum("oi,oi->o", now, before, dtype=np.float64) / np.where(power > 0, power, 1.0)
        factor = np.where(power > 0, factor, 1.0).astype(np.float32)
        # block scales have the weights' rank, even if a block is a whole channel
        by_channel = all(one.scale.shape == factor.shape for one in self.rounded.values())
        if axis is None or not by_channel or not (factor > 0).all():
            return None
        if not _near(now, before * factor[:, None]):
            return None
        rounded = {key: one.times(factor, axis, precision) for key, one in self.rounded.items()}
        return replace(self, weight=weight, rounded=rounded)


def seen_before(known: SeenOnSamples, model: Model, node: gs.Node, rounder: Rounder, samples: int) -> SeenLayer | None:
    """The latest results for a layer from as many samples or more; None if there are none.

    Names and weights suffice to recognize a layer: a helper that changes a layer's input also changes its weights, or
    notes the input's mean.

    Args:
        known: earlier results.
        model: the float graph.
        rounder: has the grid of the weights.
        samples: the least number of samples.
    """
    of_name = [one for one in known.get(layer_key(node, rounder), []) if one.samples >= samples]
    found = (one.of(model, node, rounder.precision) for one in reversed(of_name))
    return next((one for one in found if one is not None), None)


def remember(known: SeenOnSamples, key: tuple[object, ...], layer: SeenLayer) -> None:
    """Keep the results for a layer, in place of those for the same weights from no more samples.

    Args:
        known: earlier results; changed.
        key: ``layer_key`` of the layer.
        layer: the new results.
    """
    others = [one for one in known.get(key, []) if one.samples > layer.samples or not one.is_form_of(layer)]
    known[key] = [*others, layer][-_FORMS:]


def layer_key(node: gs.Node, rounder: Rounder) -> tuple[object, ...]:
    """The key of a layer in ``SeenOnSamples``."""
    return node.name, *(tensor.name for tensor in node.inputs[:2]), str(rounder.precision), rounder.block


def _alike(one: Array | None, other: Array | None) -> bool:
    """Whether two means are equal relative to their largest channel, or both None."""
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and _near(one.reshape(1, -1), other.reshape(1, -1))


def _near(one: Array, other: Array) -> bool:
    """Whether the values of each row differ by at most ``_SAME`` of its largest magnitude."""
    return bool((np.abs(one - other) <= _SAME * np.abs(one).max(axis=1, initial=0, keepdims=True)).all())
