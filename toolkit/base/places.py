"""Where work runs: in this process, in several processes of this machine, or on the machines of a Ray cluster.

Work that can be split is a ``SharedWork``: it is opened once in each participating process and then answers one item
after another. Answers come in the order of the items wherever they were computed, so that results are the same for any
number of workers. ``elsewhere()`` returns the place that the user chose; without one, work is done in this process, in
the way that is fastest in a single process.
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
    """Work that answers items. It is sent to other processes, so it can be pickled, with large arrays kept separate."""

    def open(self) -> Callable[[ItemT_contra], AnswerT_co]:
        """Return a function that answers one item; called once in each process, where it may load sessions."""
        ...


class Pending(Protocol[AnswerT_co]):
    """An answer that is being computed."""

    def result(self) -> AnswerT_co:
        """Wait for the answer; an error in the worker is raised here.

        Raises:
            QtoolError: the work failed, or its worker was lost repeatedly.
        """
        ...

    def give_up(self) -> None:
        """Cancel the computation: its answer is no longer needed."""
        ...


class Workers(Protocol[ItemT_contra, AnswerT_co]):
    """Workers that have opened one work.

    Attributes:
        window: number of items to submit before waiting for the first answer.
    """

    @property
    def window(self) -> int: ...  # noqa: D102

    def submit(self, item: ItemT_contra) -> Pending[AnswerT_co]:
        """Submit an item."""
        ...


class Workplace(Protocol):
    """A place where work runs.

    Attributes:
        unlike: kinds of CPU, among those that have worked, that differ from this machine's.
    """

    @property
    def unlike(self) -> Collection[str]: ...  # noqa: D102

    def workers(self, work: SharedWork[ItemT, AnswerT]) -> AbstractContextManager[Workers[ItemT, AnswerT]]:
        """Workers for a work; items still under way at the end of the block are cancelled."""
        ...

    def gpu_workers(self, work: SharedWork[ItemT, AnswerT]) -> AbstractContextManager[Workers[ItemT, AnswerT] | None]:
        """Workers, ``window`` in number, with a GPU each that this process does not use; None if there are none."""
        ...


def in_order(workers: Workers[ItemT, AnswerT], items: Iterable[ItemT]) -> Iterator[AnswerT]:
    """Answer every item, in order; an item is taken only when the window has room for it."""
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
    """Within the block, run work that can be split at ``place``; in this process if it is None."""
    before = _CHOSEN.set(place)
    try:
        yield
    finally:
        _CHOSEN.reset(before)


def elsewhere() -> Workplace | None:
    """The place where the user wants work to run; None for this process, and within a worker process."""
    return _CHOSEN.get()


def answered(answer: Callable[[ItemT], AnswerT], item: ItemT) -> tuple[AnswerT, Needs | None]:
    """The answer to an item, and what user code has read for it; for workers."""
    return answer(item), needs_now()


def taken_in(found: tuple[AnswerT, Needs | None]) -> AnswerT:
    """The answer that ``answered`` returned in a worker; what was read there counts as read in this process."""
    answer, needs = found
    if needs is not None and (reads := current()) is not None:
        reads.add(needs)
    return answer
