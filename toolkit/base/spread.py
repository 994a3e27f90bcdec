"""An order of items whose first few represent all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

_UNLIKE = 4.0
"""The first few may have so many times the mean weight of all, or this part of it."""


def spread_indices(count: int) -> list[int]:
    """The numbers below ``count``, the first few spread evenly over all: van der Corput's sequence to the base 2."""
    bits = max(count - 1, 1).bit_length()
    turned = (int(format(number, f"0{bits}b")[::-1], 2) for number in range(2**bits))
    return [number for number in turned if number < count]


def representative(order: Sequence[int], weights: Sequence[float]) -> list[int]:
    """An order as it is, as far as the first few of it have about the mean weight of all.

    Where the next one would take their mean too far from it, the one that brings it nearest comes first.

    Args:
        order: the numbers below as many as there are weights.
        weights: at least 0 each.
    """
    middle = math.fsum(weights) / max(len(weights), 1)
    if not 0 < middle < math.inf:
        return list(order)
    left, found, total = list(order), list[int](), 0.0

    def off(index: int) -> float:
        mean = (total + weights[index]) / (len(found) + 1)
        return abs(math.log(mean / middle)) if mean > 0 else math.inf

    while left:
        following = left[0] if off(left[0]) <= math.log(_UNLIKE) else min(left, key=off)
        left.remove(following)
        found.append(following)
        total += weights[following]
    return found
