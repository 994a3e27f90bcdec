"""Sums of products over very many values, accurate enough and computed in the calling thread only."""

from __future__ import annotations

import math

import numpy as np

from toolkit.base.kept_results import kept_where_fixed
from toolkit.base.types import Array

_LEAST = 1e-30
"""Smaller sums of float32 products may have lost most of their terms: below 1e-38, few or no digits are left."""
_BLOCK, _BLOCK_64 = 1 << 16, 1 << 13
"""Values per dot product, in float32 and in float64.

OpenBLAS splits dot products of more than 100,000 float32 or 10,000 float64 values among threads. Waking these takes
longer than the computation, up to a thousand times if other threads compute too, and their number affects the last
bits.
"""


def sum_of_products(a: Array, b: Array) -> float:
    """The sum of ``a * b``; for more than 65,536 float32 values, products are in float32 and block sums in float64.

    Args:
        a: float32 or float64, [values].
        b: like ``a``.
    """
    if a.size > _BLOCK and a.dtype == b.dtype == np.float32:
        with np.errstate(over="ignore", invalid="ignore"):
            found = _in_blocks(a, b, _BLOCK)
        if _LEAST < abs(found) < math.inf or not a.any():
            return found
    return _in_blocks(a.astype(np.float64, copy=False), b.astype(np.float64, copy=False), _BLOCK_64)


@kept_where_fixed
def sum_of_squares(a: Array) -> float:
    """``sum_of_products`` of an array with itself."""
    return sum_of_products(a, a)


def _in_blocks(a: Array, b: Array, size: int) -> float:
    return float(sum(float(np.dot(a[at : at + size], b[at : at + size])) for at in range(0, a.size, size)))
