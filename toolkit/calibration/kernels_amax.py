"""Compiled inner loops: the cost of every candidate amax, from a histogram or from weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from toolkit.calibration.kernels import compiled

_SAME = 1e-12
_ROUNDED = 1e-13
"""A bound on the rounding error of sums of divergences."""
_SPARSE = 64
_SURELY = 1 + 1e-6
_FIRST = 8
"""Every so many candidates, one is evaluated first, to rule out others that clip too much."""


@compiled
def _divergence(i: int, mass: Any, entropy: Any, filled: Any, bounds: Any, last: float, most: float) -> float:
    """The divergence of ``i`` kept bins, see ``best_divergence``; infinite where it is above ``most`` for certain.

    By the log sum inequality no level's term is negative, so a partial sum is a lower bound.

    Args:
        i: the candidate.
        mass: float64 [N + 1], the sums of counts before each bin.
        entropy: float64 [N + 1], likewise for counts times their logarithms.
        filled: float64 [N + 1], likewise for the number of bins that are not empty.
        bounds: see ``best_divergence``.
        last: the count of the last bin kept.
        most: the largest divergence of interest.
    """
    beyond = mass[-1] - mass[i]
    if mass[i] == 0 or (last == 0 and beyond > 0):
        return np.inf
    # the last level first: it contains what a small candidate clips
    end, levels = i, len(bounds) - 1
    left = (last + beyond) * math.log(last + beyond) - last * math.log(last) if last > 0 else 0.0
    whole = math.log(mass[-1]) - math.log(mass[i])
    enough = (most + whole + _ROUNDED) * mass[-1]
    for level in range(levels - 1, -1, -1):
        start = int(bounds[level] * i)
        if end <= start:
            continue
        inside = mass[end] - mass[start]
        if inside > 0:
            reference = inside + beyond if end == i else inside
            left += entropy[end] - entropy[start] - reference * math.log(inside / (filled[end] - filled[start]))
            if left > enough:
                return np.inf
        end = start
    return left / mass[-1] - whole


@compiled
def best_divergence(counts: Any, bounds: Any, first: int, keep: float) -> int:
    """The number of bins to keep for the smallest divergence.

    For ``i`` kept bins the reference P is their counts with everything beyond added to the last one; Q is the counts
    without what is beyond, with each level's mass spread evenly over its nonempty bins. If a candidate's last bin is
    empty but there are values beyond, P has mass where Q has none: an infinite divergence. Of equal candidates the
    largest is taken, which clips least.

    Args:
        counts: int64 [N].
        bounds: float64 [levels + 1], rising from 0 to 1: where the levels begin, as parts of the range.
        first: the smallest candidate.
        keep: the part of all counts that a candidate must hold.
    """
    size = len(counts)
    mass = np.zeros(size + 1)
    entropy = np.zeros(size + 1)
    filled = np.zeros(size + 1)
    for j in range(size):
        value = float(counts[j])
        mass[j + 1] = mass[j] + value
        entropy[j + 1] = entropy[j] + (value * math.log(value) if value > 0 else 0.0)
        filled[j + 1] = filled[j] + (1.0 if value > 0 else 0.0)
    total = mass[size]
    while first < size and mass[first] < keep * total:
        first += 1
    # the best of a few candidates ends the sums of all others that cannot be smaller
    known = np.inf
    for i in range(size, min(first, size) - 1, -_SPARSE):
        known = min(known, _divergence(i, mass, entropy, filled, bounds, float(counts[i - 1]), known))
    best, best_cost = size, np.inf
    for i in range(min(first, size), size + 1):
        cost = _divergence(i, mass, entropy, filled, bounds, float(counts[i - 1]), known + _SAME)
        if cost <= best_cost + _SAME:
            best = i
            best_cost = min(best_cost, cost)
        known = min(known, best_cost)
    return best


@compiled
def rounding_integral(u: float, limit: float) -> float:
    """The integral from 0 to u of (t - round(t))^2, where nothing rounds beyond ``limit``."""
    nearest = min(np.floor(u + 0.5), limit)
    rest = u - nearest
    return nearest / 12.0 + rest * rest * rest / 3.0


@compiled
def e4m3_octave(octave: int, u: float) -> float:
    """The integral of (t - e4m3(t))^2 from the start of an octave to u in it; octave 0 is the subnormal numbers.

    Within an octave the numbers are evenly spaced: 8 steps an octave from 2^-6 on, steps of 2^-9 below. Octave 15,
    from 256, ends with 448: what lies beyond saturates.
    """
    start = 0.0 if octave == 0 else 2.0 ** (octave - 7)
    step = 2.0 ** (-9 if octave == 0 else octave - 10)
    limit = 14.0 if octave == 15 else 16.0
    return step**3 * (rounding_integral(u / step, limit) - rounding_integral(start / step, limit))


@compiled
def e4m3_sums() -> Any:
    """The integral of (t - e4m3(t))^2 from 0 to the start of each of the 16 octaves."""
    sums = np.zeros(16)
    for octave in range(15):
        sums[octave + 1] = sums[octave] + e4m3_octave(octave, 2.0 ** (octave - 6))
    return sums


@compiled
def e4m3_integral(u: float, sums: Any) -> float:
    """The integral from 0 to u of (t - e4m3(t))^2."""
    octave = min(15, max(0, math.frexp(u)[1] + 6)) if u > 0 else 0
    return sums[octave] + e4m3_octave(octave, u)


@compiled
def expected_errors(counts: Any, width: float, amaxes: Any, levels: float, floating: bool) -> Any:
    """The sum of squared errors of rounding and clipping for each candidate, values spread evenly within a bin.

    Args:
        counts: int64 [N].
        width: of a bin.
        amaxes: float64 [K], the candidates.
        levels: the largest number of the type: 127 for INT8, 448 for FP8.
        floating: whether the type is e4m3.

    Returns:
        float64 [K].
    """
    costs = np.zeros(len(amaxes))
    sums = e4m3_sums()
    scales = amaxes / levels
    before = np.zeros(len(amaxes))
    known = 0
    # with few samples most bins are empty; the inner loop over candidates is vectorized
    for found in np.nonzero(counts)[0]:
        j = int(found)
        if known < j:
            for k in range(len(scales)):
                edge = j * width / scales[k]
                before[k] = e4m3_integral(edge, sums) if floating else rounding_integral(edge, levels)
        count = float(counts[j])
        for k in range(len(scales)):
            edge = (j + 1) * width / scales[k]
            after = e4m3_integral(edge, sums) if floating else rounding_integral(edge, levels)
            costs[k] += count * (after - before[k])
            before[k] = after
        known = j + 1
    return costs * scales**3 / width


@compiled
def least_error(counts: Any, width: float, amaxes: Any, levels: float, floating: bool) -> int:
    """The candidate with the smallest of ``expected_errors``, of equals the first.

    Values beyond a candidate have at least their distance from it as error: if that alone exceeds a known error by more
    than rounding, the candidate and all smaller ones are skipped.

    Args:
        counts: int64 [N].
        width: of a bin.
        amaxes: float64 [K], the candidates, from the largest to the smallest.
        levels: see ``expected_errors``.
        floating: see ``expected_errors``.
    """
    lowest = expected_errors(counts, width, amaxes[::_FIRST].copy(), levels, floating).min()
    filled = np.nonzero(counts)[0]
    likely = 0
    for k in range(len(amaxes)):
        clipped = 0.0
        for place in range(len(filled) - 1, -1, -1):
            beyond = filled[place] * width - amaxes[k]
            if beyond <= 0 or clipped > lowest * _SURELY:
                break
            clipped += counts[filled[place]] * beyond * beyond
        if clipped > lowest * _SURELY:
            break
        likely = k + 1
    return int(np.argmin(expected_errors(counts, width, amaxes[:likely].copy(), levels, floating)))


@compiled
def round_e4m3(value: float) -> float:
    """The nearest e4m3 number to a value that is not negative, ties to even, saturating at 448."""
    if value >= 448.0:
        return 448.0
    step = 2.0**-9 if value < 2.0**-6 else 2.0 ** (math.floor(math.log2(value)) - 3)
    scaled = value / step
    nearest = math.floor(scaled)
    if scaled - nearest > 0.5 or (scaled - nearest == 0.5 and nearest % 2 == 1):
        nearest += 1
    return nearest * step


@compiled
def best_weight_factor(rows: Any, amax: Any, factors: Any, levels: float, below: float, floating: bool) -> Any:
    """For each row the factor of its amax whose squared error is smallest; of equals the first.

    Args:
        rows: float32 [channels, N].
        amax: float32 [channels].
        factors: float64 [K].
        levels: see ``expected_errors``.
        below: the largest magnitude of numbers below 0.
        floating: see ``expected_errors``.

    Returns:
        float64 [channels].
    """
    best = np.ones(len(rows))
    for c in range(len(rows)):
        if amax[c] == 0:
            continue
        lowest = np.inf
        for factor in factors:
            scale = amax[c] * factor / levels
            cost = 0.0
            for value in rows[c]:
                magnitude = abs(value)
                if floating:
                    kept = round_e4m3(magnitude / scale) * scale
                else:
                    kept = min(math.floor(magnitude / scale + 0.5), levels if value > 0 else below) * scale
                cost += (magnitude - kept) ** 2
                if cost >= lowest:
                    break
            if cost < lowest:
                lowest, best[c] = cost, factor
    return best
