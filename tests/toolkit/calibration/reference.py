"""Slow, obvious implementations of the methods, which the fast ones must equal."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from toolkit.base.types import Array
from toolkit.calibration.histogram import Histogram


def dense(histogram: Histogram) -> tuple[Array, float]:
    """Counts up to the largest magnitude in 2,048 to 4,095 bins where there are as many, and their width."""
    counts, width = histogram.counts, histogram.width
    used = histogram.used
    while used >= 4096:
        counts = counts.reshape(-1, 2).sum(axis=1)
        width, used = width * 2, -(-used // 2)
    return counts[:used], width


def divergence(counts: Array, kept: int, borders: Array) -> float:
    """D(P || Q) for ``kept`` bins, as in the GTC 2017 talk, step by step."""
    p = counts[:kept].astype(float)
    edges = np.array([*(int(border * kept) for border in borders[:-1]), kept])
    # a level's values are spread over those of its bins that are not empty; counts are exact, so are their sums
    total, filled = (np.diff(np.r_[0.0, values.cumsum()][edges]) for values in (p, p > 0))
    q = np.repeat(total / np.maximum(filled, 1), np.diff(edges)) * (p > 0)
    p[-1] += counts[kept:].sum()
    if not q.sum():
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    if np.any((p > 0) & (q == 0)):
        return float("inf")
    both = p > 0
    return float(np.sum(p[both] * np.log(p[both] / q[both])))


def entropy(histogram: Histogram, borders: Array) -> tuple[float, dict[int, float]]:
    """amax, and the divergence of every candidate."""
    counts, width = dense(histogram)
    costs = {
        kept: divergence(counts, kept, borders)
        for kept in range(min(128, len(counts)), len(counts) + 1)
        if counts[:kept].sum() >= 0.99 * counts.sum()
    }
    best, lowest = len(counts), float("inf")
    for kept, cost in costs.items():
        if cost <= lowest + 1e-12:
            best, lowest = kept, min(cost, lowest)
    return min(best * width, histogram.absmax), costs


def percentile(values: Array, percent: float) -> float:
    """The smallest magnitude that at least ``percent`` of the values do not exceed."""
    ordered = np.sort(np.abs(values.reshape(-1)))
    needed = int(np.ceil(percent / 100 * ordered.size - 1e-6))
    return float(ordered[max(needed, 1) - 1])


def quantize(values: Array, amax: float, kind: str) -> Array:
    """Rounded to the type's grid, saturating."""
    if kind == "fp8":
        scaled = np.clip(values / (amax / 448), -448, 448)
        return scaled.astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * (amax / 448)
    low, high = (-8, 7) if kind == "int4" else (-127, 127)
    return np.clip(np.rint(values / (amax / high)), low, high) * (amax / high)


def spread_error(histogram: Histogram, amax: float, kind: str, points: int = 64) -> float:
    """The sum of squared errors with every bin's values at many points within it."""
    counts, width = dense(histogram)
    offsets = (np.arange(points) + 0.5) / points
    at = (np.arange(len(counts))[:, None] + offsets) * width
    return float(np.sum(counts[:, None] * (at - quantize(at, amax, kind)) ** 2) / points)
