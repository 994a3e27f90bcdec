"""The fewest neighbouring layers that must stay in float32 so that a model keeps its budget in a narrower type."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def shortest_wide_run(order: Sequence[str], meets: Callable[[Sequence[str]], bool]) -> Sequence[str]:
    """A run of layers, none of which may be left out at either end; about 2 log2 n trials for n layers.

    Some layers make values that a narrow type cannot hold, others need them: large ones whose difference matters, tiny
    ones of a logarithm. From the first to the last of these all stay wide, so that nothing is rounded on the way.

    Args:
        order: the layers, each after those whose results it reads.
        meets: whether the budget holds with these in float32; it does with all.
    """
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(order[:middle]) else (middle + 1, high)
    end, low, high = high, 0, high
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if meets(order[middle:end]) else (low, middle - 1)
    return order[low:end]
