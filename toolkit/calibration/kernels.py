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
def count_into(values: Any, scale: Any, lanes: Any, counts: Any) -> int:
    """Add every value that is not zero to the bin ``floor(|value| * scale)``.

    Args:
        values: float32 [N], all finite, with |value| * scale < bins.
        scale: float32, a power of two.
        lanes: uint16 [4, bins + 1], scratch. Neighbouring values go to different lanes, since adding twice to one
            address makes the second wait for the first, and activations repeat (a ReLU gives half zeros). Sixteen
            bits keep them in the first cache; they are emptied before they can overflow.
        counts: int64 [bins], added to.

    Returns:
        How many values are zero.
    """
    zero = np.float32(0)
    one = np.uint16(1)
    zeros = np.int64(0)
    piece = 4 * 65535
    for start in range(0, len(values), piece):
        stop = min(start + piece, len(values))
        whole = start + (stop - start) // 4 * 4
        lanes[:] = 0
        for i in range(start, whole, 4):
            a, b, c, d = values[i], values[i + 1], values[i + 2], values[i + 3]
            # slot 0 is for zeros, so that they need no pass of their own; unsigned, since numba would otherwise
            # look whether an index counts from the end
            lanes[0, np.uint64(np.int32(abs(a) * scale) + (a != zero))] += one
            lanes[1, np.uint64(np.int32(abs(b) * scale) + (b != zero))] += one
            lanes[2, np.uint64(np.int32(abs(c) * scale) + (c != zero))] += one
            lanes[3, np.uint64(np.int32(abs(d) * scale) + (d != zero))] += one
        for j in range(len(counts)):
            counts[j] += np.int64(lanes[0, j + 1]) + lanes[1, j + 1] + lanes[2, j + 1] + lanes[3, j + 1]
        zeros += np.int64(lanes[0, 0]) + lanes[1, 0] + lanes[2, 0] + lanes[3, 0]
        zeros += count_few(values[whole:stop], scale, counts)
    return int(zeros)
