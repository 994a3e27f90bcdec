"""Many small pieces of work in a few threads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import HANG
from toolkit.base.threads import in_threads, prefetched


@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_results_come_in_the_order_of_the_items_and_each_is_worked_on_once(count):
    seen: list[int] = []

    def work(item: int) -> int:
        seen.append(item)
        return item * item

    with ThreadPoolExecutor(3) as pool:
        assert in_threads(pool, 3, work, range(count)) == [item * item for item in range(count)]
    assert sorted(seen) == list(range(count))


def test_items_are_shared_out_among_the_threads():
    meeting = threading.Barrier(2, timeout=HANG)
    with ThreadPoolExecutor(2) as pool:
        # each waits for the other: one thread alone would never end
        names = in_threads(pool, 2, lambda _: (meeting.wait(), threading.get_ident())[1], range(2))
    assert len(set(names)) == 2


def test_what_fails_is_raised_and_no_more_is_begun():
    seen: list[int] = []

    def work(item: int) -> None:
        seen.append(item)
        if item == 3:
            raise ValueError("three")

    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="three"):
        in_threads(pool, 1, work, range(1000))
    assert seen == [0, 1, 2, 3]


def test_the_next_item_is_worked_on_while_one_is_used_and_a_failure_comes_in_its_turn():
    begun, release = list[int](), threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 2:
            raise ValueError("two")
        if item == 1:
            assert release.wait(HANG)
        return -item

    results = prefetched(range(4), work)
    assert next(results) == (0, 0)
    while 1 not in begun:
        time.sleep(0.001)
    release.set()
    assert next(results) == (1, -1)
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert list(prefetched([], work)) == [] and list(prefetched([0], work)) == [(0, 0)]


def test_several_threads_work_ahead_and_no_more_items_are_taken_than_that():
    taken, together = list[int](), threading.Barrier(2, timeout=HANG)

    def items():
        for item in range(6):
            taken.append(item)
            yield item

    def work(item: int) -> int:
        # neither of two goes on before the other is here
        together.wait()
        return -item

    results = prefetched(items(), work, 2)
    assert next(results) == (0, 0) and len(taken) == 3
    assert list(results) == [(item, -item) for item in range(1, 6)]
