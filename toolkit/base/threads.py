"""Many small tasks in a few threads, and prefetching results in other threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

K = TypeVar("K")
T = TypeVar("T")


def in_threads(pool: Executor, workers: int, work: Callable[[K], T], items: Sequence[K]) -> list[T]:
    """Apply ``work`` to every item and return the results in order; threads of a pool take items from a shared list.

    ``Executor.map`` creates a future with a lock per item: for a graph's 50,000 tensors this takes longer than the
    work.

    Raises:
        Exception: what ``work`` raises; other threads finish their current item and take no more.
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


def in_some_threads(threads: int, work: Callable[..., T], *items: Sequence[Any]) -> list[T]:
    """The results of ``work`` for all items, in order, like ``map``; in this thread if there is one thread or item."""
    count = min(threads, len(items[0]))
    if count <= 1:
        return list(map(work, *items))
    with ThreadPoolExecutor(count, "some") as pool:
        return list(pool.map(work, *items))


def prefetched(items: Iterable[K], work: Callable[[K], T], ahead: int = 1) -> Generator[tuple[K, T], None, None]:
    """Yield each item with the result of ``work``, in order, while other threads work on the following items.

    Args:
        items: taken one at a time, at most ``ahead`` items early.
        work: called for each item.
        ahead: number of threads.

    Raises:
        Exception: what ``work`` raises, when its item is reached.
    """
    with ThreadPoolExecutor(ahead, "prefetch") as pool:
        under_way: deque[tuple[K, Future[T]]] = deque()
        for item in items:
            under_way.append((item, pool.submit(work, item)))
            if len(under_way) > ahead:
                done, result = under_way.popleft()
                yield done, result.result()
        while under_way:
            done, result = under_way.popleft()
            yield done, result.result()
