"""The methods that choose amax, the largest magnitude kept, from a histogram.

To apply several of them to one histogram, pass each the same ``SummedBins``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Final

import numpy as np

from toolkit.base.errors import RangesError, did_you_mean
from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.calibration.histogram import Histogram, SummedBins

LEVELS = 128
KEPT = 0.99
_STEPS_PER_OCTAVE, _OCTAVES = 32, 6


def minmax(histogram: Histogram | SummedBins, precision: Precision = Precision.INT8) -> float:
    """The largest magnitude seen: nothing is clipped."""
    return histogram.absmax


def percentile(histogram: Histogram | SummedBins, percent: float = 99.99, zeros: bool = True) -> float:
    """The upper edge of the first bin up to which ``percent`` of all values lie; ``zeros``: whether to count zeros.

    The result is exact to one bin (less than 1/2048 of the largest magnitude at 4,096 bins).

    Raises:
        RangesError: ``percent`` is not above 0 and at most 100.
    """
    if not 0 < percent <= 100:
        raise RangesError(f"the percentile is {percent}", remedy="give a number above 0 and at most 100")
    seen = SummedBins.of(histogram)
    if not seen.absmax:
        return 0.0
    cumulated = seen.cumulated + seen.zeros if zeros else seen.cumulated
    reached = int(np.searchsorted(cumulated, percent / 100 * int(cumulated[-1]) - 1e-6))
    return min((reached + 1) * seen.width, seen.absmax)


def entropy(histogram: Histogram | SummedBins, precision: Precision = Precision.INT8) -> float:
    """The amax whose quantized distribution has the smallest Kullback-Leibler divergence from the original.

    S. Migacz, "8-bit inference with TensorRT", GTC 2017: for each number of bins from 128 up, the bins kept, with
    everything beyond added to the last one, are compared with themselves quantized to 128 levels. Differences from that
    method:

    - No candidate clips more than 1% of the nonzero values: with a single value left the divergence would be zero,
    which
      can happen with images of few grey levels.
    - Exact zeros are left out: every scale represents them, and a ReLU's zeros would outweigh everything else.
    - Levels cover equal parts of the range, without a remainder for the last.
    - The histogram has 2,048 to 4,095 bins up to the largest magnitude, as in TensorRT, since the divergence depends on
      their width.

    For FP8 the levels are those of E4M3. With block scales (NVFP4) nothing is clipped: the tensor's scale
    only bounds those of the blocks.
    """
    from toolkit.calibration.kernels_amax import best_divergence

    if not histogram.absmax or precision.block:
        return histogram.absmax
    counts, width = SummedBins.of(histogram).wanted
    kept = int(best_divergence(counts, _borders(precision), LEVELS, KEPT))
    return min(kept * width, histogram.absmax)


def mse(histogram: Histogram | SummedBins, precision: Precision = Precision.INT8) -> float:
    """The amax with the smallest expected squared error of rounding and clipping, values spread evenly in each bin.

    Candidates are 2.2% apart, from the largest magnitude down over six octaves; of equals the largest is taken. With
    block scales (NVFP4) nothing is clipped.
    """
    if not histogram.absmax or precision.block:
        return histogram.absmax
    from toolkit.calibration.kernels_amax import least_error

    amaxes = histogram.absmax * _parts_kept()
    counts, width = SummedBins.of(histogram).wanted
    best = least_error(counts, width, amaxes, float(precision.max), precision is Precision.FP8)
    return float(amaxes[int(best)])


METHODS: dict[str, Callable[[Histogram | SummedBins, Precision], float]] = {
    "minmax": minmax,
    "entropy": entropy,
    "mse": mse,
}
NAMES = ("minmax", "entropy", "percentile", "mse")
DEFAULT: Final = "mse"
"""The default method. Trained models with all layers in INT8, by entropy and by mse: a detector keeps 61 and 98 % of
its answers; a text recogniser has 18.4 and 24.4 dB SQNR, a classifier of page orientation 25.9 and 27.3, the digits
33.9 and 34.0, the strip reader 37.0 and 37.5."""


def amax_by(
    method: str, histogram: Histogram | SummedBins, precision: Precision = Precision.INT8, percent: float = 99.99
) -> float:
    """The amax that a method, given by name, chooses. ``percentile:99.9`` sets the percentage.

    Raises:
        RangesError: there is no such method.
    """
    name, _, own = method.partition(":")
    if name == "percentile":
        try:
            return percentile(histogram, float(own) if own else percent)
        except ValueError as error:
            raise RangesError(f"the percentile is '{own}'", remedy="write it as percentile:99.9") from error
    if name not in METHODS or own:
        raise RangesError(f"there is no method '{method}'", remedy=did_you_mean(method, NAMES))
    return METHODS[name](histogram, precision)


def errors(histogram: Histogram | SummedBins, amaxes: Array, precision: Precision) -> Array:
    """The expected sum of squared errors over all values for each amax (float64 [K])."""
    from toolkit.calibration.kernels_amax import expected_errors

    counts, width = SummedBins.of(histogram).wanted
    found = expected_errors(
        counts, width, np.asarray(amaxes, np.float64), float(precision.max), precision is Precision.FP8
    )
    return np.asarray(found)


def sqnr(histogram: Histogram | SummedBins, amax: float, precision: Precision) -> float | None:
    """The expected SQNR in dB; None without signal or noise, or for block scales."""
    seen = SummedBins.of(histogram)
    if not seen.absmax or not amax or precision.block:
        return None
    # the width is a power of two, so factoring it out is exact
    squares = float(np.sum(seen.counts[: seen.used] * _cubes_apart(seen.bins)[: seen.used])) / 3
    signal = squares * seen.width * seen.width
    noise = float(errors(seen, np.array([amax]), precision)[0])
    return 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else None


def clipped(histogram: Histogram | SummedBins, amax: float) -> float:
    """The fraction of all values whose magnitude is above ``amax``, exact to one bin."""
    if not histogram.count or amax >= histogram.absmax:
        return 0.0
    first = math.ceil(amax / histogram.width - 1e-9)
    return float(histogram.counts[first:].sum()) / histogram.count


@functools.cache
def _parts_kept() -> Array:
    """The candidates of ``mse`` as fractions of the largest magnitude: float64, descending from 1."""
    return np.exp2(-np.arange(_STEPS_PER_OCTAVE * _OCTAVES + 1) / _STEPS_PER_OCTAVE)


@functools.cache
def _cubes_apart(bins: int) -> Array:
    """The cube of every bin's upper edge less that of its lower, in bins: float64 [bins]."""
    return np.diff(np.arange(bins + 1, dtype=np.float64) ** 3)


@functools.cache
def _borders(precision: Precision) -> Array:
    """The boundaries of the levels as fractions of the range: float64 [levels + 1] from 0 to 1."""
    if precision is not Precision.FP8:
        return np.arange(LEVELS + 1) / LEVELS
    codes = np.arange(LEVELS - 1)
    exponents, mantissas = codes >> 3, codes & 7
    values = np.where(
        exponents == 0, mantissas * 2.0**-9, (8 + mantissas) * np.exp2(np.maximum(exponents, 1).astype(float) - 10)
    )
    return np.concatenate([[0.0], (values[1:] + values[:-1]) / 2 / precision.max, [1.0]])
