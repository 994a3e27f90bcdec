"""The amax of constant weights, one per channel."""

from __future__ import annotations

import numpy as np

from toolkit.base.errors import RangesError
from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.placement.grid import on_grid

METHODS = ("minmax", "mse", "output")
_STEPS_PER_OCTAVE, _STEPS = 32, 64
_AT_ONCE = 8 << 20
"""Most bytes of a weight's channels to process at once."""


def weight_amax(
    values: Array, axis: int | None, method: str = "minmax", precision: Precision = Precision.INT8,
    block: int = 0,
) -> Array:  # fmt: skip
    """The largest magnitude kept of every slice along ``axis``; see ``reach``.

    With ``mse``, and with ``output`` unless samples determine it (see ``round_on_samples``), it is the one of 65
    candidates, from the largest magnitude down over two octaves, that quantizes the slice with the smallest squared
    error.

    Args:
        values: weights of any float type.
        axis: the axis of the channels (Conv 0, ConvTranspose 1, MatMul the last); None for one amax in all.
        method: minmax, mse or output.
        precision: the quantized type. A block of MXFP8 keeps its largest magnitude with any method, since its scale is
            a power of two.
        block: how many values along ``axis`` share an amax, a divisor of its size; 0: one per slice.

    Returns:
        float32 [channels], [1] without an axis or, with ``block``, the rank of the weights; 0 for an all-zero slice.

    Raises:
        RangesError: an unknown method, an axis that does not exist, or weights that are not finite.
    """
    if method not in METHODS:
        raise RangesError(f"weights have no method '{method}'", remedy="one of " + ", ".join(METHODS))
    given = np.asarray(values)
    if axis is not None and not -given.ndim <= axis < given.ndim:
        raise RangesError(
            f"weights of shape {list(given.shape)} have no axis {axis}", remedy="give the axis of the output channels"
        )
    if axis is not None and not block and (parts := min(-(-given.nbytes // _AT_ONCE), given.shape[axis])) > 1:
        # channels are independent; as rows or in float32 they are a copy
        found = [weight_amax(part, axis, method, precision) for part in np.array_split(given, parts, axis)]
        return np.concatenate(found)
    wide = given.astype(np.float32, copy=False)
    if block and axis is not None:
        blocked = in_blocks(wide, axis, block)
        kept = weight_amax(blocked.reshape(-1, block), 0, method, precision).reshape(blocked.shape[:-1])
        return np.ascontiguousarray(np.moveaxis(kept, -1, axis))
    rows = wide.reshape(1, -1) if axis is None else np.moveaxis(wide, axis, 0).reshape(wide.shape[axis], -1)
    if not rows.size:
        return np.zeros(len(rows), np.float32)
    amax = reach(rows, precision)
    if not np.isfinite(amax).all():
        raise RangesError("the weights hold NaN or infinities", remedy="repair the model's weights")
    if method == "minmax" or precision is Precision.MXFP8:
        return np.asarray(amax + np.float32(0))
    if precision is Precision.NVFP4:
        return _least_error(rows, amax, precision)
    from toolkit.calibration.kernels_amax import best_weight_factor

    factors = np.exp2(-np.arange(_STEPS + 1) / _STEPS_PER_OCTAVE)
    best = best_weight_factor(
        np.ascontiguousarray(rows), amax, factors, precision.max, -precision.min, precision is Precision.FP8
    )
    return np.asarray((amax * best).astype(np.float32))


def reach(values: Array, precision: Precision) -> Array:
    """The amax at which nothing along the last axis is clipped: max(largest, -smallest * max / -min of the type).

    INT4 stores -8 to 7: if the largest magnitude is negative, its steps are an eighth finer.
    """
    return np.asarray(
        np.maximum(values.max(axis=-1), values.min(axis=-1) * values.dtype.type(precision.max / precision.min))
    )


def _least_error(rows: Array, amax: Array, precision: Precision) -> Array:
    """Of nine fractions of each row's largest magnitude, from 1 to a half, the one with the smallest rounding error."""
    best, least = amax.copy(), np.full(len(rows), np.inf)
    for factor in np.linspace(1, 0.5, 9):
        scale = np.where(amax > 0, amax, 1.0)[:, None] * np.float32(factor / precision.max)
        cost = np.sum((on_grid(rows / scale, precision) * scale - rows) ** 2, axis=1)
        best, least = np.where(cost < least, amax * np.float32(factor), best), np.minimum(cost, least)
    return np.asarray(best.astype(np.float32))


def in_blocks(values: Array, axis: int, block: int) -> Array:
    """Values as [..., blocks, block], with values that share a scale contiguous."""
    moved = np.moveaxis(values, axis, -1)
    return moved.reshape(*moved.shape[:-1], -1, block)
