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


def prefetched(items: Iterable[K], work: Callable[[K], T], ahead: int = 1) -> Generator[tuple[K, T], None, None]:
    """Each item with what ``work`` returns for it, in order; other threads work on the next ones meanwhile.

    Args:
        items: taken one by one, at most ``ahead`` before they are wanted.
        work: called for each.
        ahead: how many threads work.

    Raises:
        Exception: what ``work`` raises, in its item's turn.
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
