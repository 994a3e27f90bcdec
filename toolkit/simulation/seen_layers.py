"""What samples showed of rounding single layers' weights, found again where another form of the model has them."""

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
"""Weights that differ by less than this, as a share of their channel's largest, are rounded alike: a helper that is
applied again to a form of the model that computes the same meets activations with other last bits, as its factors
have."""

_FORMS = 8
"""Forms of a layer that are kept at most, the latest: a search tries a few helpers one on top of the other, and goes
back to what it had before one or two of them. Each holds the layer's weights twice."""

SeenOnSamples = dict[tuple[object, ...], "list[SeenLayer]"]
"""What was seen of layers, by their names and those of what they read, and by the grid of their weights."""


@dataclass(frozen=True)
class SeenLayer:
    """What was seen of one layer.

    Attributes:
        samples: how many samples it was seen on.
        weight: its weights.
        mean: the noted mean of what it reads, float64 [channels]; None where there is none.
        rounded: its weights rounded for its output, by tensor and axis; empty where rounded to the nearest.
        errors: what ranges of its input cost its output.
    """

    samples: int
    weight: Array | None
    mean: Array | None
    rounded: dict[tuple[str, int | None], RoundedWeight] = field(default_factory=dict)
    errors: RangeErrors = field(default_factory=RangeErrors)

    def is_form_of(self, other: SeenLayer) -> bool:
        """Whether the weights and the noted mean are another's, but for last bits."""
        if not _alike(self.mean, other.mean) or self.weight is None or other.weight is None:
            return False
        rows = [one.reshape(len(one), -1) for one in (self.weight, other.weight)]
        return self.weight.shape == other.weight.shape and _near(*rows)

    def of(self, model: Model, node: gs.Node, precision: Precision) -> SeenLayer | None:
        """What was seen, for a layer of this name whose weights may differ by a factor for each output channel.

        The choice of an output channel's rounding does not depend on that factor, which a helper takes off again where
        what reads the channels stays float. None where the weights, or the mean of what the layer reads, are others.
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
        # a scale of blocks has the weights' rank, also where one block is a whole channel
        by_channel = all(one.scale.shape == factor.shape for one in self.rounded.values())
        if axis is None or not by_channel or not (factor > 0).all():
            return None
        if not _near(now, before * factor[:, None]):
            return None
        rounded = {key: one.times(factor, axis, precision) for key, one in self.rounded.items()}
        return replace(self, weight=weight, rounded=rounded)


def seen_before(known: SeenOnSamples, model: Model, node: gs.Node, rounder: Rounder, samples: int) -> SeenLayer | None:
    """What is known of a layer from as many samples or more, the latest first; None where nothing is.

    A helper that changes what a layer reads changes its weights too, or notes the mean of what it reads.

    Args:
        known: what was seen.
        model: the float graph.
        node: its layer.
        rounder: holds the grid.
        samples: how many samples there are.
    """
    of_name = [one for one in known.get(layer_key(node, rounder), []) if one.samples >= samples]
    found = (one.of(model, node, rounder.precision) for one in reversed(of_name))
    return next((one for one in found if one is not None), None)


def remember(known: SeenOnSamples, key: tuple[object, ...], layer: SeenLayer) -> None:
    """Keep what was seen of a layer, in place of what fewer samples showed of the same weights.

    Args:
        known: what was seen.
        key: ``layer_key`` of it.
        layer: what was seen now.
    """
    others = [one for one in known.get(key, []) if one.samples > layer.samples or not one.is_form_of(layer)]
    known[key] = [*others, layer][-_FORMS:]


def layer_key(node: gs.Node, rounder: Rounder) -> tuple[object, ...]:
    """The key by which ``SeenOnSamples`` knows a layer."""
    return node.name, *(tensor.name for tensor in node.inputs[:2]), str(rounder.precision), rounder.block


def _alike(one: Array | None, other: Array | None) -> bool:
    """Whether two means are the same, relative to their largest channel."""
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and _near(one.reshape(1, -1), other.reshape(1, -1))


def _near(one: Array, other: Array) -> bool:
    """Whether the values of each row differ by hardly any fraction of its largest."""
    return bool((np.abs(one - other) <= _SAME * np.abs(one).max(axis=1, initial=0, keepdims=True)).all())
