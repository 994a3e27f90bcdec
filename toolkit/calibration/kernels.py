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
    """As ``count_into``, for arrays so short that clearing its lanes would cost more than they save."""
    zeros = 0
    for i in range(len(values)):
        if values[i] == np.float32(0):
            zeros += 1
        else:
            counts[np.int32(abs(values[i]) * scale)] += 1
    return zeros


@compiled
def count_into(values: Any, scale: Any, lanes: Any, slots: Any, counts: Any) -> int:
    """Add every value that is not zero to the bin ``floor(|value| * scale)``.

    Args:
        values: float32 [N], all finite, with |value| * scale < bins.
        scale: float32, a power of two.
        lanes: uint16 [4, bins + 1], scratch. Neighbouring values go to different lanes, since adding twice to one
            address makes the second wait for the first, and activations repeat (a ReLU gives half zeros). Sixteen
            bits keep them in the first cache; they are emptied before they can overflow.
        slots: uint32 [a multiple of 4], scratch: where values go is found for so many at once, in vector registers,
            which adding to the lanes in the same loop would prevent.
        counts: int64 [bins], added to.

    Returns:
        How many values are zero.
    """
    zero = np.float32(0)
    one = np.uint16(1)
    zeros = np.int64(0)
    piece, block = 4 * 65535, len(slots)
    for start in range(0, len(values), piece):
        stop = min(start + piece, len(values))
        whole = start + (stop - start) // 4 * 4
        lanes[:] = 0
        for at in range(start, whole, block):
            part = values[at : min(at + block, whole)]
            for i in range(len(part)):
                # slot 0 is for zeros, so that they need no pass of their own
                slots[i] = np.int32(abs(part[i]) * scale) + (part[i] != zero)
            # unsigned, since numba would otherwise look whether an index counts from the end
            for i in range(0, len(part), 4):
                lanes[0, slots[i]] += one
                lanes[1, slots[i + 1]] += one
                lanes[2, slots[i + 2]] += one
                lanes[3, slots[i + 3]] += one
        for j in range(len(counts)):
            counts[j] += np.int64(lanes[0, j + 1]) + lanes[1, j + 1] + lanes[2, j + 1] + lanes[3, j + 1]
        zeros += np.int64(lanes[0, 0]) + lanes[1, 0] + lanes[2, 0] + lanes[3, 0]
        zeros += count_few(values[whole:stop], scale, counts)
    return int(zeros)
