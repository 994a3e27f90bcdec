"""Weights that their own Q/DQ pair clips: what the model computes with is the clipped weight.

Quantization-aware training leaves values beyond a pair's range where they are, since they get no gradient (Jacob et
al., arXiv 1712.05877, and Esser et al., LSQ, arXiv 1902.08153). Only the clipped values were ever trained with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.base.parts import along, parts_of
from toolkit.base.types import Array
from toolkit.contract.journal import Journal
from toolkit.graph.layers.constants import is_stored
from toolkit.graph.model import Model
from toolkit.graph.surgery.tensors import make_constant, np_dtype, onnx_type
from toolkit.placement.codes import PlacementCode
from toolkit.placement.grid import Grid, grid_of, spread

_TIMES = 4.0
"""Least ratio of clipping to rounding noise. A range that is chosen for the least squared error, of a weight that is
only rounded after training, balances both; clipping such a weight would not give back the float model.

With the largest value c kept, rounding noise is proportional to c * c. So its derivative by c is at most 2 noise / c,
and that of the clipped power is -2 sum(excess): where the error is least, c * sum(excess) is at most the noise.
"""


def clamp_weights(model: Model, quantizers: Iterable[gs.Node], journal: Journal) -> int:
    """Replace weights that their pair clips by the clipped ones, unrounded; the pairs' outputs stay the same.

    Weights that a pair clips by no more than it rounds stay: their range was chosen so after training.

    Args:
        model: the graph, changed in place.
        quantizers: QuantizeLinear nodes; those that read no stored weight are ignored.
        journal: gets a note for each weight.

    Returns:
        The number of replaced weights.
    """
    names, replaced = None, 0
    for quantize in quantizers:
        found = _clipped(model, quantize)
        if found is None:
            continue
        values, share = found
        tensor = quantize.inputs[0]
        names = names if names is not None else model.tensor_names()
        name = names.take(f"{tensor.name}_clamped")
        quantize.inputs[0] = make_constant(name, values, onnx_type(tensor.dtype))
        journal.noted(PlacementCode.WEIGHT_CLAMPED(weight=tensor.name, share=share), node=quantize.name)
        replaced += 1
    return replaced


def _clipped(model: Model, quantize: gs.Node) -> tuple[Array, float] | None:
    """The weight clamped to its pair's range, and the share of its values beyond; None if it is no clipped weight."""
    if not is_stored(quantize.inputs[0]):
        return None
    grid, values = grid_of(model, quantize), model.constant(quantize.inputs[0])
    reach = grid.reach
    if values is None or reach is None or grid.scale is None or not _beyond(values, grid):
        return None
    low, high = (spread(end, values, grid.axis, grid.block).astype(np.float32) for end in reach)
    wide = values.astype(np.float32)
    clamped = np.clip(wide, low, high)
    excess = np.abs(wide - clamped).astype(np.float64)
    noise = _TIMES * _by_scale(np.square((_rounded(clamped, grid) - clamped).astype(np.float64)), grid)
    power, pull = (_by_scale(excess * factor, grid) for factor in (excess, np.abs(clamped)))
    if not np.any((power > noise) & (pull > noise)):
        return None
    return clamped.astype(values.dtype), float(np.count_nonzero(excess) / excess.size)


def _by_scale(values: Array, grid: Grid) -> Array:
    """The sums of the values that share a scale."""
    if grid.axis is None:
        return np.asarray(values.sum())
    own = grid.axis % values.ndim
    if grid.block:
        return np.asarray(np.add.reduceat(values, range(0, values.shape[own], grid.block), axis=own))
    return np.asarray(values.sum(axis=tuple(axis for axis in range(values.ndim) if axis != own)))


def _beyond(values: Array, grid: Grid) -> bool:
    """Whether a value is more than half a step beyond the range, so that it is clipped rather than rounded."""
    assert grid.reach is not None and grid.scale is not None
    scale = spread(grid.scale, values, grid.axis, grid.block)
    low, high = (spread(end, values, grid.axis, grid.block) for end in grid.reach)
    slack = scale * _half_step(grid)
    for part in parts_of(values):
        wide = values[part].astype(np.float32)
        least, most, half = (along(part, limit, values) for limit in (low, high, slack))
        if np.any(wide < least - half) or np.any(wide > most + half):
            return True
    return False


def _half_step(grid: Grid) -> float:
    """Half the distance between the two largest values of the quantized type, before scaling."""
    if grid.steps:
        return 0.5
    import ml_dtypes

    info = ml_dtypes.finfo(np_dtype(grid.kind))
    return float(info.eps) * 2.0 ** math.floor(math.log2(float(info.max))) / 2


def _rounded(values: Array, grid: Grid) -> Array:
    """Values within the range as the pair rounds them, float32."""
    assert grid.scale is not None and grid.zero is not None
    scale = spread(grid.scale, values, grid.axis, grid.block).astype(np.float32)
    ratio = values / scale
    if grid.steps:
        return np.asarray(np.rint(ratio) * scale)
    return np.asarray(ratio.astype(np_dtype(grid.kind)).astype(np.float32) * scale)
