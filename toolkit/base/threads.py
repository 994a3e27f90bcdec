"""Very many small pieces of work in a few threads, or one piece in another while this one works."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")


def in_threads(pool: Executor, workers: int, work: Callable[[K], T], items: Sequence[K]) -> list[T]:
    """What ``work`` returns for every item, in order; the threads of a pool take items one by one from one list.

    ``Executor.map`` makes a future with a lock for every item: for a graph's 50,000 tensors these take longer
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


def prefetched(items: Iterable[K], work: Callable[[K], T]) -> Generator[tuple[K, T], None, None]:
    """Each item with what ``work`` returns for it, in order; another thread works on the next item meanwhile.

    Raises:
        Exception: what ``work`` raises, in its item's turn.
    """
    with ThreadPoolExecutor(1, "prefetch") as pool:
        before: tuple[K, Future[T]] | None = None
        for item in items:
            now = item, pool.submit(work, item)
            if before is not None:
                yield before[0], before[1].result()
            before = now
        if before is not None:
            yield before[0], before[1].result()
