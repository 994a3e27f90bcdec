"""Activations that Q/DQ pairs replaced: quantizers remove a clamp before a pair that clamps the same way.

onnxruntime's quantizer drops Relu and Clip before a pair, unless told to quantize symmetrically
(QDQRemovableActivation in its operators/activation.py). Without them the float model computes something else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from toolkit.base.errors import PassError
from toolkit.base.profiles import Profiles
from toolkit.base.types import Array
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts
from toolkit.placement.bounds import ANY, TRUSTED, Bounds, Interval
from toolkit.placement.existing import ExistingPair
from toolkit.placement.grid import Grid, grid_of
from toolkit.placement.ops import ACTIVATIONS

_CLAMPS = re.compile(r"relu_?6|clip|clamp|hard_?tanh", re.IGNORECASE)
_ROUND_WIDTH, _EXACT = 0.05, 2e-7
"""Limits chosen by hand are multiples of the first, up to the relative error of a float32 scale derived from them."""


@dataclass(frozen=True)
class Clamp:
    """A clamp to be restored before a pair.

    Attributes:
        low: the smallest value, float64, shape [] or [channels]; None if there is no lower limit.
        high: the largest value, likewise.
        axis: the channel axis, if there is one value per channel.
        rank: the tensor's rank, likewise.
    """

    low: Array | None
    high: Array | None
    axis: int | None = None
    rank: int = 0

    @property
    def interval(self) -> Interval:
        """The interval of all channels."""
        return (
            -math.inf if self.low is None else float(self.low.min()),
            math.inf if self.high is None else float(self.high.max()),
        )

    @property
    def relu(self) -> bool:
        """Whether it is a ReLU."""
        return self.high is None and self.low is not None and not self.low.any()


@dataclass(frozen=True)
class LostClamps:
    """The clamps that are missing because pairs replaced them.

    Attributes:
        clamps: the missing clamps, by the QuantizeLinear's name.
        unsure: tensors for which only samples could tell.
        trusted: names of QuantizeLinears that read model inputs: nothing can be missing there.
    """

    clamps: dict[str, Clamp]
    unsure: list[str]
    trusted: set[str]

    def exceeds_range(self, quantize: str, sides: tuple[bool, bool]) -> bool:
        """Whether a tensor exceeds its range, below or above as ``sides`` says, and no clamp is restored there."""
        clamp = self.clamps.get(quantize)
        ends = (None, None) if clamp is None else (clamp.low, clamp.high)
        return quantize not in self.trusted and any(side and end is None for side, end in zip(sides, ends))


def lost_clamps(
    model: Model,
    pairs: Iterable[ExistingPair],
    seen: Mapping[str, tuple[bool, bool]] | None = None,
    profiles: Profiles | None = None,
    ranks: Callable[[str], int | None] = lambda tensor: None,
) -> LostClamps:
    """The clamps that are missing before pairs.

    A clamp is missing if one of these holds:

    - the pair's range ends at 0, and the tensor may exceed it;
    - the tensor is named after an activation that does not produce it;
    - the range is as wide as a clamp with limits chosen by hand;
    - on samples the tensor exceeds the range by more than calibration would allow.

    Args:
        model: the graph with its pairs.
        pairs: the pairs to be removed, in the graph's order.
        seen: by the QuantizeLinear's name, whether samples exceed the range below, and above; None without samples.
        profiles: the shapes of the inputs, from which ranks are known that the model does not declare.
        ranks: returns the rank that a tensor has in samples, where shapes do not tell it; None if they do not either.

    Raises:
        PassError: a clamp has a limit per channel, and the rank of its tensor is not known.
    """
    lost = LostClamps({}, [], set())
    kept: dict[str, Interval] = {}
    bounds = Bounds(model, kept)
    facts = cache(lambda: model.facts(profiles))
    chosen = {id(quantize) for pair in pairs for quantize in pair.quantizers}
    # in graph order, so that all predecessors of a node are decided before it
    for node, _ in model.walk():
        if id(node) in chosen:
            clamp = _lost(bounds, node, seen, lost)
            if clamp is not None and clamp.axis is not None and not clamp.relu:
                clamp = replace(clamp, rank=_rank(node, facts, ranks))
            if clamp is not None:
                lost.clamps[node.name], kept[node.name] = clamp, clamp.interval
        for tensor in node.outputs:
            bounds.of(tensor)
    return lost


def _lost(
    bounds: Bounds, quantize: gs.Node, seen: Mapping[str, tuple[bool, bool]] | None, lost: LostClamps
) -> Clamp | None:
    """The missing clamp before one QuantizeLinear, if any."""
    tensor, grid = quantize.inputs[0], grid_of(bounds.model, quantize)
    reach, known = grid.reach, bounds.of(tensor)
    if known == TRUSTED or not tensor.inputs:
        lost.trusted.add(quantize.name)
        return None
    if reach is None or grid.scale is None or not grid.steps or grid.block:
        return None
    low, high = _missing(tensor, grid, reach, known)
    if seen is not None:
        below, above = seen.get(quantize.name, (False, False))
        low, high = low or below, high or above
    elif known == ANY and not grid.centred and not (low and high):
        lost.unsure.append(tensor.name)
    # the activation still follows the pair
    limits, step = _readers_limits(bounds, quantize), float(grid.scale.max())
    low = low and limits[0] < float(reach[0].max()) - step
    high = high and limits[1] > float(reach[1].min()) + step
    ends = _snapped(grid, reach)
    return Clamp(ends[0] if low else None, ends[1] if high else None, grid.axis) if low or high else None


def _rank(quantize: gs.Node, facts: Callable[[], Facts], ranks: Callable[[str], int | None]) -> int:
    tensor = quantize.inputs[0]
    rank = len(tensor.shape) if tensor.shape is not None else facts().rank(tensor.name)
    if rank is None:
        rank = ranks(tensor.name)
    if rank is None:
        raise PassError(
            f"node '{quantize.name}' ({quantize.op}) clamps each channel of '{tensor.name}' to its own range, and the "
            "rank of that tensor is not known",
            remedy="give calibration samples, or export the model with the shapes of its tensors (value_info)",
        )
    return rank


def _readers_limits(bounds: Bounds, quantize: gs.Node) -> Interval:
    """The interval to which all readers of a pair clamp their input."""
    readers = [r for t in quantize.outputs for back in t.outputs for out in back.outputs for r in out.outputs]
    limits = [bounds.limits(reader) for reader in readers]
    return (min(low for low, _ in limits), max(high for _, high in limits)) if limits else ANY


def _missing(tensor: gs.Tensor, grid: Grid, reach: tuple[Array, Array], known: Interval) -> tuple[bool, bool]:
    """Whether the tensor was clamped below, and above, according to the graph."""
    assert grid.scale is not None
    slack = float(grid.scale.max()) / 2
    inside = known[0] >= float(reach[0].max()) - slack, known[1] <= float(reach[1].min()) + slack
    maker = tensor.inputs[0]
    both = maker.op not in ACTIVATIONS and (_chosen_width(grid, reach) is not None or _called_after_clamp(tensor.name))
    ends = not reach[0].any(), not reach[1].any()
    return (both or ends[0]) and not inside[0], (both or ends[1]) and not inside[1]


def _called_after_clamp(name: str) -> bool:
    """Whether the last part of a tensor's name is an activation with two limits: ``/block/Clip_output_0``."""
    return _CLAMPS.search(re.split(r"[/.]", name)[-1]) is not None


def _chosen_width(grid: Grid, reach: tuple[Array, Array]) -> float | None:
    """The width of a pair's range if it is a short number from which the scale was derived, as 6 for 6 / 255."""
    if grid.scale is None or grid.scale.size != 1 or grid.float_kind != TensorProto.FLOAT:
        return None
    scale, width = float(grid.scale), float(reach[1] - reach[0])
    if _short(scale, 1e-4) or math.frexp(scale)[0] == 0.5:
        # the scale itself was chosen
        return None
    return round(width / _ROUND_WIDTH) * _ROUND_WIDTH if _short(width, _ROUND_WIDTH) else None


def _short(value: float, unit: float) -> bool:
    nearest = round(value / unit) * unit
    return nearest > 0 and abs(value - nearest) <= _EXACT * value


def _snapped(grid: Grid, reach: tuple[Array, Array]) -> tuple[Array, Array]:
    """The range; if one end is 0 and the width was chosen, the other end is that width exactly: 6, not 6.0000004."""
    width, (low, high) = _chosen_width(grid, reach), reach
    if width is not None and not low.any():
        return low, np.asarray(width)
    if width is not None and not high.any():
        return np.asarray(-width), high
    return low, high
