from __future__ import annotations

import pytest

from toolkit.base.progress import Activity, Lines


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def lines(clock: Clock, said: list[str]) -> Lines:
    return Lines(said.append, words=lambda best: f"<{best}>", clock=clock)


def after(lines: Lines, clock: Clock, seconds: float) -> None:
    """Let time pass as the thread that waits for the next line does."""
    end = clock.now + seconds
    while clock.now + lines.due() <= end:
        clock.now += lines.due()
        lines.tick()
    clock.now = end


def test_a_line_comes_at_least_every_ten_seconds_whether_something_moves_or_not(lines, clock, said):
    lines.progress("calibrating", 3, 64)
    after(lines, clock, 60)
    assert len(said) >= 6 and all("calibrating 3/64" in line for line in said)


def test_there_are_no_more_lines_where_much_moves(lines, clock, said):
    for number in range(1000):
        clock.now = number / 50
        lines.progress("evaluate", number, 1000)
    assert len(said) == 2


def test_a_search_says_what_is_best_so_far(lines, clock, said):
    lines.progress(Activity("search", best="84 %"), 5, 64)
    after(lines, clock, 10)
    assert "search 5/64" in said[-1] and "<84 %>" in said[-1]
    assert Activity("search", best=1) == "search"


def test_the_part_that_is_at_work_is_named(lines, clock, said):
    lines.progress(Activity("passes", part="equalize"), 1, 4)
    after(lines, clock, 10)
    assert said[-1].strip().startswith("passes 1/4 (equalize), ")


def test_what_is_done_is_not_at_work_any_more(lines, clock, said):
    lines.progress("passes", 1, 4)
    lines.progress("calibrating", 8, 64)
    lines.progress("calibrating", 64, 64)
    after(lines, clock, 10)
    assert "passes 1/4" in said[-1]
    lines.step()
    after(lines, clock, 10)
    assert "passes" not in said[-1] and len(said) == 2


def test_work_that_has_no_count_is_told_with_its_time(lines, clock, said):
    clock.now = 5.0
    lines.progress("building", 0, 1)
    after(lines, clock, 40)
    assert said[-1].split(", ")[0].strip() == "building" and "40 s" in said[-1]
