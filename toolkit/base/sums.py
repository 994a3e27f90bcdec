"""Sums of products over very many values: accurate enough, and in the calling thread alone."""

from __future__ import annotations

import math

import numpy as np

from toolkit.base.kept_results import kept_where_fixed
from toolkit.base.types import Array

_LEAST = 1e-30
"""Smaller sums of float32 products may have lost most of their terms: below 1e-38 few digits or none are left."""
_BLOCK, _BLOCK_64 = 1 << 16, 1 << 13
"""Values whose products are summed at once, in float32 and in float64.

OpenBLAS shares a product of vectors of more than 100,000 float32 or 10,000 float64 values among its threads. Waking
them takes longer than computing it, up to a thousand times where others compute too, and their number decides the last
bits.
"""


def sum_of_products(a: Array, b: Array) -> float:
    """The sum of ``a * b``: more than 65,536 float32 products in float32 by blocks, and their sums in float64.

    Args:
        a: float32 or float64, [values].
        b: the same.
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
