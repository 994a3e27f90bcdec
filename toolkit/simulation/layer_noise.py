"""Estimates the output noise from rounding a layer's input and weights, from samples of its input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toolkit.base.block_scales import scales_of_blocks
from toolkit.base.cpu import session_threads
from toolkit.base.precision import Precision
from toolkit.base.threads import in_some_threads
from toolkit.base.types import Array
from toolkit.calibration.weights import in_blocks, reach
from toolkit.placement.grid import on_grid

_KEPT = (1.0, 0.8, 0.6, 0.4)


class LayerNoise:
    """The noise estimate for one input and the weights that read it, with each input channel divided by a factor.

    Errors of different inputs are assumed to be uncorrelated. The input's range is the one with the least noise at the
    output, of the largest magnitude and fractions of it, as a calibration method would choose it; with block scales
    nothing is clipped.

    Args:
        rows: rows of the input, float32 [groups, rows, in]; see ``collect_rows``.
        weights: the weights of all layers that read the input, float64 [groups, out, in].
        channels: number of channels of the input.
        precision: the type to round both to; with a weights-only type the input is not rounded.
        block: number of weights per scale; 0, or a number that does not divide ``in``: one scale per row.
    """

    def __init__(
        self, rows: Array, weights: Array, channels: int, precision: Precision = Precision.INT8, block: int = 0
    ) -> None:
        self.precision = precision
        self.block = block if block and weights.shape[2] % block == 0 else weights.shape[2]
        self.rows, self.weights = rows.astype(np.float32, copy=False), weights
        self.places = rows.shape[0] * rows.shape[2] // channels
        self.power = np.einsum("grk,grk->gk", rows, rows, dtype=np.float64) / rows.shape[1]

    def of(self, factor: Array) -> float:
        """Mean square of the noise summed over the outputs; ``factor``: float64 [channels]."""
        spread = np.repeat(factor, self.places).reshape(len(self.rows), 1, -1)
        rows, weights = self.rows * (1 / spread).astype(np.float32), self.weights * spread
        from_weights = float(np.sum(_squares(self._off(weights)) * (self.power / spread[:, 0] ** 2)))
        heard, amax = _squares(weights), float(max(rows.max(initial=0.0), -rows.min(initial=0.0)))
        if amax == 0 or self.precision.weights_only:
            return from_weights
        if self.precision.block:
            return from_weights + float(np.sum(_squares(self._off(rows)) * heard) / rows.shape[1])
        costs, scaled = [], np.empty_like(rows)
        for step in (np.float32(amax * kept / self.precision.max) for kept in _KEPT):
            np.multiply(rows, 1 / step, out=scaled)
            # in units of the step
            off = on_grid(scaled, self.precision)
            off -= scaled
            costs.append(float(np.sum(_squares(off) * heard) / rows.shape[1]) * float(step) ** 2)
        return from_weights + min(costs)

    def least(self, factors: Sequence[Array]) -> int:
        """The index of the factors with the least noise, the first of equals; computed in several threads."""
        noises = in_some_threads(session_threads(), self.of, factors)
        return noises.index(min(noises))

    def _off(self, values: Array) -> Array:
        """The rounding errors of values [.., .., in], float64, with one scale per block of the last axis."""
        parts = in_blocks(values, 2, self.block)
        amax = reach(parts, self.precision)[..., None]
        scale = scales_of_blocks(amax, self.precision) if self.precision.block else amax / self.precision.max
        scale = np.where(scale == 0, 1.0, scale).astype(np.float64)
        return np.asarray((on_grid(parts / scale, self.precision) * scale - parts).reshape(values.shape))


def _squares(values: Array) -> Array:
    """Sums of squares over the second axis, float64."""
    return np.einsum("grk,grk->gk", values, values, dtype=np.float64)
