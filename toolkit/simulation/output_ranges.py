"""Chooses the range of an activation by the output error of the layers that read it, not by the tensor's own error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.placement.grid import limits_of, on_grid

_STEPS, _OCTAVES = 8, 3
"""The ranges to try: steps per octave, and octaves below the largest value."""
_SKETCH = 32
"""Layers with more outputs are represented by random sums of these, with the same expected mean square (Johnson and
Lindenstrauss, 1984).
"""
_WORTH = 0.97
_VALUES, _LEAST_ROWS = 1 << 18, 32


@dataclass(frozen=True)
class RangeErrors:
    """The output error of a layer from rounding its input, for ranges 2^(n/8).

    Attributes:
        noise: by n, noise power over signal power of the output.
        largest: largest magnitude of the input on the samples.
    """

    noise: Mapping[int, float] = field(default_factory=dict)
    largest: float = 0.0

    @classmethod
    def of(cls, rows: Array, weights: Array, precision: Precision) -> RangeErrors:
        """The errors measured on samples.

        Args:
            rows: rows of the layer's input, float32 [groups, rows, in]; see ``collect_rows``.
            weights: the layer's weights, [groups, out, in].
            precision: the type of the input.
        """
        most = max(_VALUES // max(rows.shape[0] * rows.shape[2], 1), _LEAST_ROWS)
        rows = rows[:, :: -(-rows.shape[1] // most)]
        largest = float(np.abs(rows).max(initial=0.0))
        wide = np.swapaxes(_sketched(np.asarray(weights, np.float32)), 1, 2)
        signal = float(np.square(rows @ wide, dtype=np.float64).sum())
        if not signal or not math.isfinite(signal):
            return cls()
        top = math.ceil(_STEPS * math.log2(largest))
        rows = np.ascontiguousarray(rows)
        noise, error = {}, np.empty_like(rows)
        for step in range(top - _STEPS * _OCTAVES, top + 1):
            scale = np.float32(2 ** (step / _STEPS) / precision.max)
            _errors(rows, scale, precision, error)
            noise[step] = float(np.square(error @ wide, dtype=np.float64).sum()) / signal
        return cls(noise, largest)


def _errors(rows: Array, scale: np.float32, precision: Precision, errors: Array) -> None:
    """Write the errors of quantizing and dequantizing rows into ``errors``; both float32 and contiguous."""
    if precision.integer:
        from toolkit.calibration.kernels_rounding import rounding_errors

        low, high = limits_of(precision)
        rounding_errors(rows.reshape(-1), scale, np.float32(low), np.float32(high), errors.reshape(-1))
        return
    np.multiply(on_grid(rows / scale, precision), scale, out=errors)
    errors -= rows


def range_for_outputs(errors: Iterable[RangeErrors], now: float) -> float | None:
    """The amax with the least total error at all readers of a tensor; None if hardly better than ``now``.

    Args:
        errors: the errors of each reader.
        now: the tensor's current amax.
    """
    known = [one for one in errors if one.noise]
    steps = sorted(set.intersection(*(set(one.noise) for one in known))) if known else []
    if not steps or not now > 0:
        return None
    total = {step: sum(one.noise[step] for one in known) for step in steps}
    best = min(steps, key=total.__getitem__)
    own = min(max(_STEPS * math.log2(now), steps[0]), steps[-1])
    # sampled rows may lack a tensor's largest values, and a range beyond all values only makes steps coarser
    if 2 ** (best / _STEPS) >= max(one.largest for one in known) and now <= 2 ** (best / _STEPS):
        return None
    before = float(np.interp(own, steps, [total[step] for step in steps]))
    return float(2 ** (best / _STEPS)) if total[best] < _WORTH * before else None


def _sketched(weights: Array) -> Array:
    """Weights of 32 random sums of the outputs, [groups, sums, in]; unchanged if there are no more outputs."""
    outs = weights.shape[1]
    if outs <= _SKETCH:
        return weights
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), (_SKETCH, outs)) / np.float32(
        math.sqrt(_SKETCH)
    )
    return np.asarray(signs @ weights)
