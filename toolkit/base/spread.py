"""Orders of items whose first few represent all of them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

_UNLIKE = 4.0
"""The mean weight of the first few may differ from the overall mean by this factor."""


def spread_indices(count: int) -> list[int]:
    """The integers below ``count``, the first few spread evenly over all: van der Corput's sequence in base 2."""
    bits = max(count - 1, 1).bit_length()
    turned = (int(format(number, f"0{bits}b")[::-1], 2) for number in range(2**bits))
    return [number for number in turned if number < count]


def representative(order: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Rearrange an order, if necessary, so that its first few items have about the mean weight of all.

    If the next item would move their mean too far from it, the item that brings it closest comes first.

    Args:
        order: a permutation of the indices of ``weights``.
        weights: at least 0 each.
    """
    middle = math.fsum(weights) / max(len(weights), 1)
    if not 0 < middle < math.inf:
        return list(order)
    # sorted by weight, then position: the best item is next to the weight that would give exactly the mean
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
