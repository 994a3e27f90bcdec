"""Compiled inner loops: counting values into bins. They run without the interpreter lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

_F = TypeVar("_F", bound=Callable[..., Any])
PIECE = 4 * 65535
"""Values that can be counted before one of the four lanes could overflow."""
ZERO_SLOTS = 4
"""A power of two."""


def compiled(function: _F) -> _F:
    """Compile with numba, cached on disk if a folder for that is writable."""
    options = {"nogil": True, "error_model": "numpy", "boundscheck": False}
    try:
        made: _F = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # numba found no writable folder for its cache
        made = numba.njit(**options)(function)
    return made


@compiled
def count_few(values: Any, scale: Any, counts: Any) -> int:
    """Add every value that is not zero to the bin ``floor(|value| * scale)``; returns how many are zero.

    Args:
        values: float32 [N], all finite, with |value| * scale < bins.
        scale: float32, a power of two.
        counts: integers [bins], added to.
    """
    zeros = 0
    for i in range(len(values)):
        if values[i] == np.float32(0):
            zeros += 1
        else:
            counts[np.int32(abs(values[i]) * scale)] += 1
    return zeros


@compiled
def count_into(
    values: Any, bits: Any, scale: Any, most: int, lanes: Any, slots: Any, words: Any, counts: Any
) -> tuple[int, int, int, int]:
    """Find the smallest and largest value, and count like ``count_few`` until a value exceeds the bins.

    All in one pass, since reading memory takes as long as the rest. As integers, with all other bits inverted if the
    sign is set, float32 values have the order of the floats, with NaN outside the infinities; and compilers vectorize
    the smallest and largest of integers.

    Args:
        values: float32 [N].
        bits: the same memory as int32.
        scale: float32, a power of two.
        most: the bits of the smallest magnitude that is beyond the last bin.
        lanes: uint16 [4 * (bins + ``ZERO_SLOTS`` + 1)], scratch. Neighbouring values go to different lanes, since a
            second addition to the same address waits for the first. With 16 bits they fit the L1 cache.
        slots: uint16 [a multiple of 4], scratch: bins are computed for this many values at once in vector registers,
            which adding to the lanes in the same loop would prevent. More than a few hundred exceed the cache.
        words: the same memory as uint64: reading four slots at a time saves a third of the time.
        counts: int64 [bins], added to.

    Returns:
        How many values were counted (all, or those before a piece of ``PIECE`` with a value that exceeds the bins); how
        many of them are zero; the smallest and largest integer among them.
    """
    zero, one, low_bits = np.float32(0), np.uint16(1), np.int32(0x7FFFFFFF)
    lowest, highest = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
    bins, block, width = len(counts), len(slots), len(lanes) // 4
    # the first slots are for zeros, so that these need no separate pass: several, since a ReLU makes half of the
    # values zero; the last slot is for values beyond the bins
    end, first, turn = np.float32(bins), np.int32(ZERO_SLOTS), np.int32(ZERO_SLOTS - 1)
    second, third, fourth = np.uint64(width), np.uint64(2 * width), np.uint64(3 * width)
    low_word = np.uint64(0xFFFF)
    zeros = 0
    for begin in range(0, len(values), PIECE):
        low, high = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
        stop = min(begin + PIECE, len(values))
        lanes[:] = 0
        for at in range(begin, stop, block):
            part, integers = values[at : min(at + block, stop)], bits[at : min(at + block, stop)]
            for i in range(len(part)):
                key = np.int32(integers[i] ^ np.int32(np.int32(integers[i] >> 31) & low_bits))
                low, high = min(low, key), max(high, key)
                place = abs(part[i]) * scale
                slot = np.int32(place if place < end else end) + first
                slots[i] = np.uint16(slot if part[i] != zero else np.int32(i >> 2) & turn)
            used = (len(part) + 3) // 4
            slots[len(part) : 4 * used] = np.uint16(width - 1)
            # unsigned, since numba would otherwise check for negative indices
            for i in range(used):
                word = words[i]
                lanes[word & low_word] += one
                lanes[(word >> np.uint64(16) & low_word) + second] += one
                lanes[(word >> np.uint64(32) & low_word) + third] += one
                lanes[(word >> np.uint64(48)) + fourth] += one
        if max(high, -1 - low) >= most:
            return begin, zeros, int(lowest), int(highest)
        lowest, highest = min(lowest, low), max(highest, high)
        for lane in range(0, len(lanes), width):
            for i in range(ZERO_SLOTS):
                zeros += int(lanes[lane + i])
            for i in range(bins):
                counts[i] += lanes[lane + ZERO_SLOTS + i]
    return len(values), zeros, int(lowest), int(highest)
