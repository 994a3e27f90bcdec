"""An order of items whose first few represent all of them."""

from __future__ import annotations

import math
from bisect import bisect_left
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
    # by weight, then place in the order: what brings the mean nearest lies beside the weight that would do so exactly
    left = sorted((weights[number], place) for place, number in enumerate(order))
    taken, found, total = [False] * len(order), list[int](), 0.0

    def off(place: int) -> float:
        mean = (total + weights[order[place]]) / (len(found) + 1)
        return abs(math.log(mean / middle)) if mean > 0 else math.inf

    for first in range(len(order)):
        while not taken[first]:
            place = first
            if off(first) > math.log(_UNLIKE):
                at = bisect_left(left, (middle * (len(found) + 1) - total, 0))
                lighter = [left[bisect_left(left, (left[at - 1][0], 0))]] if at else []
                place = min((place for _, place in [*lighter, *left[at : at + 1]]), key=lambda one: (off(one), one))
            weight = weights[order[place]]
            left.pop(bisect_left(left, (weight, place)))
            taken[place] = True
            found.append(order[place])
            total += weight
    return found
