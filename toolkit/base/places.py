"""Where work runs: in this process, in several processes of this machine, or on the machines of a Ray cluster.

What can be cut into parts says so by a ``SharedWork``: opened once in each process that takes part, it answers one item
after another. Answers come in the items' order wherever they were computed, so that results are the same
for any number of workers. Whoever has such work asks ``elsewhere()`` for the place that the user chose; where there is
none, the work is done here, in the way that is best in one process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

from toolkit.base.needs import Needs
from toolkit.base.reads import current, needs_now

ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")
ItemT_contra = TypeVar("ItemT_contra", contravariant=True)
AnswerT_co = TypeVar("AnswerT_co", covariant=True)


class SharedWork(Protocol[ItemT_contra, AnswerT_co]):
    """What answers items. It is sent to other processes, so it can be pickled, with large arrays kept separate."""

    def open(self) -> Callable[[ItemT_contra], AnswerT_co]:
        """A function that answers one item; made once in each process, where it may load sessions."""
        ...


class Pending(Protocol[AnswerT_co]):
    """An answer that is being computed."""

    def result(self) -> AnswerT_co:
        """Wait for it; what failed there is raised here.

        Raises:
            QtoolError: the work failed, or its worker was lost again and again.
        """
        ...

    def give_up(self) -> None:
        """Cancel it: nobody waits for it any more."""
        ...


class Workers(Protocol[ItemT_contra, AnswerT_co]):
    """Workers that have opened one work.

    Attributes:
        window: how many items to hand over before waiting for the first answer.
    """

    @property
    def window(self) -> int: ...  # noqa: D102

    def submit(self, item: ItemT_contra) -> Pending[AnswerT_co]:
        """Hand over an item."""
        ...


class Workplace(Protocol):
    """Where work runs.

    Attributes:
        unlike: the kinds of CPU, of those that have worked, that this machine is not.
    """

    @property
    def unlike(self) -> Collection[str]: ...  # noqa: D102

    def workers(self, work: SharedWork[ItemT, AnswerT]) -> AbstractContextManager[Workers[ItemT, AnswerT]]:
        """Workers for a work; whatever is still under way at the end of the block is given up."""
        ...

    def gpu_workers(self, work: SharedWork[ItemT, AnswerT]) -> AbstractContextManager[Workers[ItemT, AnswerT] | None]:
        """Workers with a GPU each, as many as ``window``, none of them this process's own; None where there is none."""
        ...


def in_order(workers: Workers[ItemT, AnswerT], items: Iterable[ItemT]) -> Iterator[AnswerT]:
    """The answer to every item, in their order; an item is taken only once the window has room for it."""
    under_way: deque[Pending[AnswerT]] = deque()
    for item in items:
        under_way.append(workers.submit(item))
        if len(under_way) >= workers.window:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


_CHOSEN: ContextVar[Workplace | None] = ContextVar("place of work", default=None)


@contextmanager
def working_at(place: Workplace | None) -> Iterator[None]:
    """In the block, work that can be cut into parts runs at ``place``; here where that is None."""
    before = _CHOSEN.set(place)
    try:
        yield
    finally:
        _CHOSEN.reset(before)


def elsewhere() -> Workplace | None:
    """Where the user wants work to run; None for here, and in a process that works for another."""
    return _CHOSEN.get()


def answered(answer: Callable[[ItemT], AnswerT], item: ItemT) -> tuple[AnswerT, Needs | None]:
    """The answer to an item, and what code of the user's has read for it; for workers."""
    return answer(item), needs_now()


def taken_in(found: tuple[AnswerT, Needs | None]) -> AnswerT:
    """The answer that ``answered`` returned, in the process that asked; what was read there counts as read here."""
    answer, needs = found
    if needs is not None and (reads := current()) is not None:
        reads.add(needs)
    return answer
