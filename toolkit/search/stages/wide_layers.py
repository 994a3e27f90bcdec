"""The shortest run of layers that must stay in float32 so that a model meets its budget in a narrower type."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def shortest_wide_run(
    order: Sequence[str], meets: Callable[[Sequence[str]], bool], over: Callable[[], bool] = lambda: False
) -> Sequence[str]:
    """A run of layers that cannot be shortened at either end; takes about 2 log2 n trials for n layers.

    Some layers produce values that a narrow type cannot hold and others read them: large values whose difference
    matters, or tiny arguments of a logarithm. All layers between the first and the last of these stay in float32, so
    that nothing is rounded between them.

    Args:
        order: the layers in topological order.
        meets: whether the budget is met with these layers in float32; it must be met with all of them.
        over: asked before each trial; once it returns true, the shortest run known to meet the budget is returned.
    """
    low, high = 0, len(order)
    while low < high and not over():
        middle = (low + high) // 2
        low, high = (low, middle) if meets(order[:middle]) else (middle + 1, high)
    end, low, high = high, 0, high
    while low < high and not over():
        middle = (low + high + 1) // 2
        low, high = (middle, high) if meets(order[middle:end]) else (low, middle - 1)
    return order[low:end]
