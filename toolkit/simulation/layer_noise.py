"""What rounding a layer's input and weights to INT8 adds to its output, from samples of what it reads."""

from __future__ import annotations

import numpy as np

from toolkit.base.precision import Precision
from toolkit.base.types import Array

_KEPT = (1.0, 0.8, 0.6, 0.4)
_TOP = Precision.INT8.max


class LayerNoise:
    """The estimate for one input and the weights that read it, with each channel divided by a factor.

    The errors of different inputs are taken as unrelated. Of the input the range is kept that costs the output least,
    of the largest magnitude and parts of it, as a calibration method would keep it.

    Args:
        rows: what the layer reads, float32 [groups, rows, in]; see ``collect_rows``.
        weights: the weights of all layers that read it, float64 [groups, out, in].
        channels: how many channels the input has.
    """

    def __init__(self, rows: Array, weights: Array, channels: int) -> None:
        self.rows, self.weights = rows.astype(np.float64), weights
        self.places = rows.shape[0] * rows.shape[2] // channels
        self.power = np.mean(self.rows**2, axis=1)

    def of(self, factor: Array) -> float:
        """Mean square of the noise, summed over the outputs, for factors float64 [channels]."""
        spread = np.repeat(factor, self.places).reshape(len(self.rows), 1, -1)
        rows, weights = self.rows / spread, self.weights * spread
        scale = np.abs(weights).max(axis=2, keepdims=True) / _TOP
        scale[scale == 0] = 1.0
        error = np.rint(weights / scale) * scale - weights
        from_weights = float(np.einsum("gok,gk->", error**2, self.power / spread[:, 0] ** 2))
        heard, amax = np.sum(weights**2, axis=1), float(np.abs(rows).max(initial=0.0))
        if amax == 0:
            return from_weights
        costs = []
        for step in (amax * kept / _TOP for kept in _KEPT):
            off = np.clip(np.rint(rows / step), -_TOP - 1, _TOP) * step - rows
            costs.append(float(np.einsum("grk,gk->", off**2, heard) / rows.shape[1]))
        return from_weights + min(costs)
