"""Compiled inner loops: counting values into bins. They run without the interpreter lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F) -> _F:
    """Compile with numba, kept on disk for the next process where a folder for that can be written."""
    options = {"nogil": True, "error_model": "numpy", "boundscheck": False}
    try:
        made: _F = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # numba found no folder that it may write its cache to
        made = numba.njit(**options)(function)
    return made


@compiled
def count_few(values: Any, scale: Any, counts: Any) -> int:
    """Add every value that is not zero to the bin ``floor(|value| * scale)``; gives how many are zero.

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
) -> tuple[int, int, int]:
    """Find the smallest and largest value, and count as ``count_few`` does where the bins reach so far.

    One pass over memory does all, since reading it takes as long as the rest. As an integer, with all other bits
    inverted where the sign is set, a float32 orders as the float does, NaN outside the infinities, and compilers make
    vector instructions of the smallest and largest integer.

    Args:
        values: float32 [N], N at most 4 * 65535.
        bits: the same memory as int32.
        scale: float32, a power of two.
        most: the bits of the smallest magnitude that is beyond the last bin.
        lanes: uint16 [4 * (bins + 2)], scratch. Neighbouring values go to different lanes, since adding twice to one
            address makes the second wait for the first, and activations repeat (a ReLU gives half zeros). Sixteen
            bits keep them in the first cache.
        slots: uint16 [a multiple of 4], scratch: where values go is found for so many at once, in vector registers,
            which adding to the lanes in the same loop would prevent.
        words: the same memory as uint64: reading four slots at a time takes a third off the time.
        counts: int64 [bins], added to.

    Returns:
        How many values are zero, -1 where a value is beyond the bins and nothing was counted; the smallest and largest
        integer.
    """
    zero, one, low_bits = np.float32(0), np.uint16(1), np.int32(0x7FFFFFFF)
    low, high = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
    bins, block = len(counts), len(slots)
    # slot 0 is for zeros, so that they need no pass of their own; the last one for what is beyond the bins
    end = np.float32(bins)
    second, third, fourth = np.uint64(bins + 2), np.uint64(2 * (bins + 2)), np.uint64(3 * (bins + 2))
    lowest = np.uint64(0xFFFF)
    lanes[:] = 0
    for at in range(0, len(values), block):
        part, integers = values[at : at + block], bits[at : at + block]
        for i in range(len(part)):
            key = np.int32(integers[i] ^ np.int32(np.int32(integers[i] >> 31) & low_bits))
            low, high = min(low, key), max(high, key)
            place = abs(part[i]) * scale
            slots[i] = np.uint16(np.int32(place if place < end else end) + np.int32(part[i] != zero))
        used = (len(part) + 3) // 4
        slots[len(part) : 4 * used] = np.uint16(bins + 1)
        # unsigned, since numba would otherwise look whether an index counts from the end
        for i in range(used):
            word = words[i]
            lanes[word & lowest] += one
            lanes[(word >> np.uint64(16) & lowest) + second] += one
            lanes[(word >> np.uint64(32) & lowest) + third] += one
            lanes[(word >> np.uint64(48)) + fourth] += one
    if max(high, -1 - low) >= most:
        return -1, int(low), int(high)
    zeros = 0
    for lane in range(0, len(lanes), bins + 2):
        zeros += int(lanes[lane])
        for i in range(bins):
            counts[i] += lanes[lane + 1 + i]
    return zeros, int(low), int(high)
