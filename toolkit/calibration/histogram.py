"""A histogram of magnitudes that widens losslessly, so that it does not depend on the order of values."""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from struct import Struct
from typing import Any

import numpy as np

from toolkit.base.errors import RangesError
from toolkit.base.types import Array

BINS = 4096
WANTED_BINS = 2048
"""Smallest number of bins up to the largest magnitude that methods use; finer histograms are coarsened to it."""
_LOWEST, _HIGHEST = -100, 128
_FEW = 8192
"""Most values for which counts take two bytes: with many small tensors, histograms take most of the memory."""
_MOST = 2.0**62
_PIECE = 4 * 65535
"""Values per piece: their extremes are found, then they are counted while they are in the L2 cache."""
_MOST_SLOTS = 1 << 15
"""Most bins for which an index takes two bytes."""
_MAGNITUDE, _INFINITE = 0x7FFFFFFF, 0x7F800000
"""The bits of a float32's magnitude, and of an infinity, above those of every finite magnitude."""
_SLOTS = 256
_INTEGERS, _KEYS = Struct("2i"), Struct("2f")
_thread = threading.local()


class Histogram:
    """Counts of |value| in equal bins over [0, 2^exponent), and exact extremes.

    The exponent is the smallest that holds the largest magnitude seen (never below -100), so the bins in use number
    more than half of all. A larger value raises the exponent and merges neighbouring bins: the result is the same as if
    the exponent had been known before. Zeros are counted separately: they are exactly representable at any scale, and
    a ReLU makes half of the values zero.

    Attributes:
        counts: int64 [bins], int16 while there are few; values that are not zero.
        exponent: log2 of the upper edge of the last bin.
        zeros: how many values are zero.
        nonfinite: how many values were NaN or infinite; they are not in the bins.
        low, high: the smallest and largest finite value; inf and -inf if there was none.
    """

    __slots__ = ("counts", "exponent", "high", "low", "nonfinite", "zeros")

    def __init__(self, bins: int = BINS) -> None:
        if bins < 256 or bins & (bins - 1):
            raise RangesError(
                f"a histogram cannot have {bins} bins", remedy="give a power of two, 2048 or more for entropy"
            )
        self.counts: Array = np.zeros(bins, np.int16)
        self.exponent = _LOWEST
        self.zeros = self.nonfinite = 0
        self.low, self.high = math.inf, -math.inf

    @classmethod
    def of(cls, counts: Array, whole: Array, extremes: Array) -> Histogram:
        """A histogram from its saved form.

        Args:
            counts: int64 [bins].
            whole: exponent, zeros, nonfinite.
            extremes: low, high.

        Raises:
            ValueError: these numbers are inconsistent.
        """
        made = cls(len(counts))
        made.counts = np.array(counts, np.int64)
        made.exponent, made.zeros, made.nonfinite = (int(value) for value in whole)
        made.low, made.high = (float(value) for value in extremes)
        if not made._sound():
            raise ValueError(
                f"no histogram has the exponent {made.exponent}, {made.zeros} zeros and values from {made.low:g} to "
                f"{made.high:g}"
            )
        return made

    @property
    def bins(self) -> int:
        """The number of bins."""
        return len(self.counts)

    @property
    def width(self) -> float:
        """The width of a bin."""
        return math.ldexp(1.0 / self.bins, self.exponent)

    @property
    def absmax(self) -> float:
        """The largest magnitude seen; 0 if there was none."""
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    @property
    def count(self) -> int:
        """How many finite values there are."""
        return int(self.counts.sum()) + self.zeros

    @property
    def used(self) -> int:
        """The number of bins up to the largest magnitude."""
        absmax = self.absmax
        return min(self.bins, int(absmax / self.width) + 1) if absmax else 0

    def _sound(self) -> bool:
        """Whether these numbers can result from counting values."""
        if self.low > self.high:
            ordered = (self.low, self.high) == (math.inf, -math.inf)
        else:
            ordered = math.isfinite(self.low) and math.isfinite(self.high)
        total = float(self.counts.sum(dtype=np.float64)) + self.zeros
        return (
            ordered
            and _LOWEST <= self.exponent <= _HIGHEST
            and min(self.zeros, self.nonfinite, int(self.counts.min())) >= 0
            and total < _MOST
            and _exponent(self.absmax) <= self.exponent
            and not self.counts[self.used :].any()
        )

    def add(self, values: Array, weight: int = 1) -> None:
        """Count values of any float type and shape, each ``weight`` times."""
        flat = np.ascontiguousarray(values).reshape(-1)
        if flat.dtype != np.float32:
            with np.errstate(over="ignore"):
                flat = flat.astype(np.float32)
        done = 0
        while done < flat.size:
            rest = flat[done:]
            # usually the range suffices, which counting checks
            if self.exponent > _LOWEST and self._is_long(rest):
                done += self._count(rest, weight)
            piece = flat[done : done + _PIECE]
            if piece.size:
                self._add(piece, weight)
            done += piece.size

    def add_zeros(self, number: int) -> None:
        """Count zeros, as if an array of them were added."""
        if number:
            self._observe(0.0, 0.0)
            self.zeros += number

    def _is_long(self, flat: Array) -> bool:
        return flat.size >= _FEW and self.bins <= _MOST_SLOTS

    def _add(self, flat: Array, weight: int) -> None:
        low, high = flat.min(), flat.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            finite = flat[np.isfinite(flat)]
            self.nonfinite += (flat.size - finite.size) * weight
            if finite.size:
                self._add(finite, weight)
            return
        self._observe(float(low), float(high))
        self._widen(_exponent(self.absmax))
        self._count(flat, weight)

    def _count(self, flat: Array, weight: int) -> int:
        """Count values up to the first that exceeds the bins, for long arrays with extremes; returns how many."""
        self._make_room(flat.size * weight)
        counts = self.counts if weight == 1 else np.zeros_like(self.counts)
        if self._is_long(flat):
            done, zeros, low, high = _count_long(flat, self.exponent, counts)
            if done:
                self._observe(low, high)
        else:
            done, zeros = flat.size, _count_few(flat, _limits(self.bins, self.exponent)[0], counts)
        self.zeros += zeros * weight
        if weight != 1:
            self.counts += counts * weight
        return done

    def _observe(self, low: float, high: float) -> None:
        # adding 0.0 turns -0.0 into 0.0, so that their order does not matter
        self.low, self.high = min(self.low, low + 0.0), max(self.high, high + 0.0)

    def _widen(self, exponent: int) -> None:
        if exponent > self.exponent:
            if self.counts.any():
                self.counts = regrouped(self.counts, exponent - self.exponent)
            self.exponent = exponent

    def _make_room(self, more: int) -> None:
        """Use a type for counts that can hold ``more`` additional values."""
        if self.counts.dtype == np.int16 and int(self.counts.sum()) + more >= _FEW:
            self.counts = self.counts.astype(np.int64)

    def merge(self, other: Histogram) -> None:
        """Add another histogram, as if its values had been added here.

        Raises:
            RangesError: it has a different number of bins.
        """
        if other.bins != self.bins:
            raise RangesError(
                f"histograms of {self.bins} and {other.bins} bins cannot be merged", remedy="collect with equal bins"
            )
        self._widen(other.exponent)
        self._make_room(int(other.counts.sum()))
        self.counts = self.counts + regrouped(other.counts, self.exponent - other.exponent)
        self.zeros += other.zeros
        self.nonfinite += other.nonfinite
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def scaled(self, weight: int) -> Histogram:
        """A copy in which every value counts ``weight`` times."""
        twin = Histogram(self.bins)
        twin.counts = self.counts.astype(np.int64) * weight
        twin.exponent, twin.low, twin.high = self.exponent, self.low, self.high
        twin.zeros, twin.nonfinite = self.zeros * weight, self.nonfinite * weight
        return twin

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Histogram)
            and np.array_equal(self.counts, other.counts)
            and (self.exponent, self.zeros, self.nonfinite, self.low, self.high)
            == (other.exponent, other.zeros, other.nonfinite, other.low, other.high)
        )

    __hash__ = None  # type: ignore[assignment]


class SummedBins:
    """A histogram with derived values that all methods need; nothing may be added to the histogram afterwards.

    Attributes:
        counts, bins, width, absmax, used, zeros: as of the histogram.
        cumulated: int64 [used], the counts of all bins up to each.
        count: how many finite values there are.
    """

    __slots__ = ("absmax", "bins", "count", "counts", "cumulated", "used", "wanted", "width", "zeros")

    def __init__(self, histogram: Histogram) -> None:
        self.counts, self.bins, self.width = histogram.counts, histogram.bins, histogram.width
        self.absmax, self.used, self.zeros = histogram.absmax, histogram.used, histogram.zeros
        self.cumulated = np.cumsum(self.counts[: self.used])
        self.count = (int(self.cumulated[-1]) if self.used else 0) + self.zeros
        self.wanted = self._wanted()

    @classmethod
    def of(cls, histogram: Histogram | SummedBins) -> SummedBins:
        """The ``SummedBins`` of a histogram; the argument itself if it is one."""
        return histogram if isinstance(histogram, SummedBins) else cls(histogram)

    def _wanted(self) -> tuple[Array, float]:
        """Counts up to the largest magnitude, int64, in 2,048 to 4,095 bins if there are that many; and their width."""
        octaves, used = 0, self.used
        while used >> (octaves + 1) >= WANTED_BINS:
            octaves += 1
        used = -(-used // (1 << octaves))
        counts = np.ascontiguousarray(regrouped(self.counts, octaves)[:used], np.int64)
        return counts, math.ldexp(self.width, octaves)


def regrouped(counts: Array, octaves: int) -> Array:
    """The counts over a range 2^octaves times as wide, in as many bins."""
    if octaves <= 0:
        return counts
    factor = min(1 << min(octaves, 62), len(counts))
    result = np.zeros_like(counts)
    result[: len(counts) // factor] = counts.reshape(-1, factor).sum(axis=1)
    return result


def _exponent(magnitude: float) -> int:
    return max(_LOWEST, math.frexp(magnitude)[1]) if magnitude else _LOWEST


def load_kernels() -> None:
    """Load the compiled loops that count values: they are loaded at their first use, which takes most of a second."""
    for size in (1, _FEW):
        Histogram().add(np.ones(size, np.float32))


def _count_few(flat: Array, scale: Any, counts: Array) -> int:
    from toolkit.calibration.kernels import count_few

    return int(count_few(flat, scale, counts))


def _count_long(flat: Array, exponent: int, counts: Array) -> tuple[int, int, float, float]:
    """How many values were counted (all, or those before a piece with one that exceeds the bins), zeros, extremes."""
    scratch = getattr(_thread, "scratch", None)
    if scratch is None or scratch.bins != len(counts):
        scratch = _thread.scratch = _Scratch(len(counts))
    scale, most = _limits(len(counts), exponent)
    bits = flat.view(np.int32)
    done, zeros, *keys = scratch.count_into(
        flat, bits, scale, most, scratch.lanes, scratch.slots, scratch.words, counts
    )
    low, high = _KEYS.unpack(_INTEGERS.pack(*(key if key >= 0 else key ^ _MAGNITUDE for key in keys)))
    return done, zeros, low, high


class _Scratch:
    """A thread's scratch memory, see ``count_into``."""

    def __init__(self, bins: int) -> None:
        from toolkit.calibration.kernels import ZERO_SLOTS, count_into

        self.bins, self.count_into = bins, count_into
        self.lanes = np.empty(4 * (bins + ZERO_SLOTS + 1), np.uint16)
        self.slots = np.empty(_SLOTS, np.uint16)
        self.words = self.slots.view(np.uint64)


@lru_cache(maxsize=512)
def _limits(bins: int, exponent: int) -> tuple[Any, int]:
    """The factor from values to bins, and the bits of the smallest magnitude beyond the bins."""
    scale = np.float32(math.ldexp(float(bins), -exponent))
    return scale, _INFINITE if exponent >= _HIGHEST else int(np.float32(math.ldexp(1.0, exponent)).view(np.int32))
