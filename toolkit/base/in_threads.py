"""Very many small pieces of work in a few threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")


def in_threads(pool: Executor, workers: int, work: Callable[[K], T], items: Sequence[K]) -> list[T]:
    """What ``work`` gives for every item, in their order; the threads of a pool take them one by one from one list.

    ``Executor.map`` makes a future of every item, with a lock of its own: of a graph's 50,000 tensors these take longer
    than the work.

    Raises:
        Exception: what ``work`` raises; the other threads finish what they have begun, and take no more.
    """
    left = deque(range(len(items)))
    done: dict[int, T] = {}

    def take() -> None:
        while True:
            try:
                place = left.popleft()
            except IndexError:
                return
            try:
                done[place] = work(items[place])
            except BaseException:
                left.clear()
                raise

    for one in [pool.submit(take) for _ in range(max(1, min(workers, len(items))))]:
        one.result()
    return [done[place] for place in range(len(items))]
