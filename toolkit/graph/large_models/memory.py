"""The memory limit of a process that computes with weights, and the onnxruntime sessions loaded under that limit.

The limit is for the whole process. A part of it is for the program itself, another for arrays that are not spilled to
disk; the remainder is for the weights of all sessions.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fractions import Fraction
from itertools import count
from math import ceil
from typing import Any

from toolkit.base.mapped import hold_pages, release_pages, return_freed_memory
from toolkit.graph.proto.on_disk import ROOM, set_array_memory

_PROGRAM, _PROGRAM_PART = 224 << 20, 4
"""Bytes for Python, its libraries, graphs and temporary arrays; at most this fraction (1/4) of a small limit."""
_ROOM_PART = 8
"""Arrays that are not spilled use at most this fraction (1/8) of a limit; so do pages of mapped files."""


@contextmanager
def memory_limit(size: int | None) -> Iterator[None]:
    """Limit the memory of the process to ``size`` bytes within the block: models with more weights are partitioned.

    The program itself needs some 200 MB, more than its part of a limit below 1 GB.
    """
    before = loaded.limit
    limit_memory(size)
    try:
        yield
    finally:
        _set(before)
        loaded.clear()


def limit_memory(size: int | None) -> None:
    """Set the limit permanently, for a worker process."""
    _set(size)
    if size is not None:
        return_freed_memory()


def _set(limit: int | None) -> None:
    loaded.limit = limit
    set_array_memory(_room(limit))
    hold_pages(None if limit is None else _room(limit))


def memory_limited() -> int | None:
    """The limit in bytes; None if there is none."""
    return loaded.limit


def weights_limit() -> int | None:
    """Bytes of the limit that weights in sessions may use; None if there is no limit."""
    return loaded.room


def least_limit(weights: int) -> int:
    """The smallest limit that leaves room for ``weights`` bytes of weights, accurate to a few bytes."""
    # each of the two parts is a fraction of the limit, or its maximum
    program = (0, Fraction(1, _PROGRAM_PART)), (_PROGRAM, Fraction(0))
    room = (0, Fraction(1, _ROOM_PART)), (ROOM, Fraction(0))
    return min(ceil((weights + one + two) / (1 - part - share)) for one, part in program for two, share in room)


def _room(limit: int | None) -> int:
    return ROOM if limit is None else min(ROOM, limit // _ROOM_PART)


class LoadedSessions:
    """The sessions of all models that are loaded part by part, in the order of their last use.

    Attributes:
        limit: see ``memory_limit``.
    """

    def __init__(self) -> None:
        self.limit: int | None = None
        self._known: OrderedDict[tuple[int, Hashable], tuple[Any, int]] = OrderedDict()
        self._reserved: dict[int, int] = {}
        self._owners = count()
        self._gone: deque[int] = deque()
        self._lock, self._depth = threading.RLock(), 0
        self._turns, self._loading = threading.RLock(), set[tuple[int, Hashable]]()
        self._urgent: Counter[tuple[int, Hashable]] = Counter()
        self._used: Counter[tuple[int, Hashable]] = Counter()
        self._released, self._own = threading.Condition(self._lock), threading.local()

    @property
    def room(self) -> int | None:
        """See ``weights_limit``."""
        limit = self.limit
        return None if limit is None else limit - min(_PROGRAM, limit // _PROGRAM_PART) - _room(limit)

    def join(self, owner: object) -> int:
        """Register an owner of parts, which are dropped when it is garbage collected; returns its number."""
        number = next(self._owners)
        weakref.finalize(owner, self._leave, number).atexit = False
        return number

    def _leave(self, owner: int) -> None:
        """Called when an owner is garbage collected, possibly in a thread that holds locks a load waits for.

        It never blocks: the owner's parts are dropped by whoever changes the state next.
        """
        self._gone.append(owner)
        if self._lock.acquire(blocking=False):
            try:
                with self._alone():
                    pass
            finally:
                self._lock.release()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Exclusive access to the state, also against owners that are garbage collected within the block."""
        with self._lock:
            self._depth += 1
            try:
                self._drop_gone()
                yield
            finally:
                self._drop_gone()
                self._depth -= 1

    def _drop_gone(self) -> None:
        while self._depth == 1 and self._gone:
            self._drop(self._gone.popleft())

    @contextmanager
    def use(
        self,
        owner: int,
        part: Hashable,
        make: Callable[[], tuple[int, Callable[[], Any]]],
        most: int | None = None,
    ) -> Iterator[Any]:
        """A part of the owner's model, which stays loaded while the block computes with it.

        The least recently used parts are dropped if the limit or ``most`` requires it. If parts in use leave no room,
        it waits for them, but not within a block that uses another part (others might wait for that one), nor while
        such a block waits for this part. Other threads can load and compute during a load; under a limit loads are
        serialized, since a load needs more memory than its result.

        Args:
            owner: number of the owner.
            part: key of the part.
            make: returns the memory that the part needs in bytes, including mapped files, and a function that loads it.
            most: limit in bytes for all parts of the owner; None for the limit of the process.
        """
        key = owner, part
        with self._alone():
            self._await_load(key)
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                self._take(key)
            else:
                self._loading.add(key)
        found = known[0] if known is not None else self._load(key, make, most)
        try:
            yield found
        finally:
            with self._alone():
                self._release(key)

    @property
    def _own_parts(self) -> int:
        """The number of parts that this thread computes with."""
        return getattr(self._own, "parts", 0)

    def _take(self, key: tuple[int, Hashable]) -> None:
        self._used[key] += 1
        self._own.parts = self._own_parts + 1

    def _release(self, key: tuple[int, Hashable]) -> None:
        self._used[key] -= 1
        self._own.parts -= 1
        self._used += Counter()
        self._released.notify_all()

    def _load(
        self, key: tuple[int, Hashable], make: Callable[[], tuple[int, Callable[[], Any]]], most: int | None
    ) -> Any:
        """Load a part and mark it as in use by this thread."""
        taken = False
        try:
            with self._turn():
                size, load = make()
            with self._alone():
                while not self._room_for(size, most, key[0]) and self._may_wait(key):
                    self._wait()
                # its memory is reserved from here on
                self._known[key] = None, size
                self._take(key)
                taken = True
            with self._turn():
                found = load()
            with self._alone():
                self._known[key] = found, size
                self._known.move_to_end(key)
            return found
        except BaseException:
            with self._alone():
                if taken:
                    self._known.pop(key, None)
                    self._release(key)
            raise
        finally:
            with self._alone():
                self._loading.discard(key)
                self._released.notify_all()

    def _turn(self) -> AbstractContextManager[Any]:
        return self._turns if self.limit is not None else nullcontext()

    def _room_for(self, size: int, most: int | None, owner: int) -> bool:
        room = self._make_room(size, most, owner)
        return room and self._make_room(size + self.reserved, self.room, None)

    def _await_load(self, key: tuple[int, Hashable]) -> None:
        """Wait until no other thread is loading this part; a load does not wait for room if this thread may hold it."""
        holds = key in self._loading and self._own_parts > 0
        if holds:
            self._urgent[key] += 1
            self._released.notify_all()
        try:
            while key in self._loading:
                self._wait()
        finally:
            if holds:
                self._urgent[key] -= 1
                self._urgent += Counter()

    def _wait(self) -> None:
        """Wait until a part is released or loaded."""
        depth, self._depth = self._depth, 0
        try:
            self._released.wait()
        finally:
            self._depth = depth

    def _may_wait(self, key: tuple[int, Hashable]) -> bool:
        """Whether loading a part may wait for others to release theirs."""
        return self._depth == 1 and not self._own_parts and key not in self._urgent

    def _make_room(self, size: int, most: int | None, owner: int | None) -> bool:
        """Drop least recently used parts; False if not enough can be dropped because parts are in use."""
        if most is None:
            return True
        held = {key: taken for key, (_, taken) in self._known.items() if owner in (None, key[0])}
        left = sum(held.values())
        for key, taken in held.items():
            if left + size <= most:
                return True
            if key not in self._used:
                del self._known[key]
                left -= taken
                release_pages()
        return left + size <= most or self._used.keys().isdisjoint(held)

    def reserve(self, owner: int, size: int) -> None:
        """Account for memory that an owner needs besides its parts, until these are dropped."""
        with self._alone():
            self._reserved[owner] = size

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Account for mapped arrays of ``size`` bytes that the block reads besides its sessions."""
        owner = next(self._owners)
        self.reserve(owner, size)
        try:
            yield
        finally:
            self.drop(owner)

    @property
    def reserved(self) -> int:
        """Bytes that all owners need besides their parts."""
        with self._alone():
            return sum(self._reserved.values())

    def count(self, owner: int) -> int:
        """The number of an owner's loaded parts."""
        with self._alone():
            return sum(one == owner for one, _ in self._known)

    def drop(self, owner: int) -> None:
        """Free all memory of an owner."""
        with self._alone():
            self._drop(owner)

    def _drop(self, owner: int) -> None:
        for key in [key for key in self._known if key[0] == owner]:
            del self._known[key]
        self._reserved.pop(owner, None)

    def unload(self, owner: int) -> None:
        """Free an owner's parts that are not in use; memory reserved for it stays accounted for."""
        with self._alone():
            for key in [key for key in self._known if key[0] == owner and key not in self._used]:
                del self._known[key]

    def clear(self) -> None:
        """Free the memory of all parts."""
        with self._alone():
            self._known.clear()


loaded = LoadedSessions()
"""The sessions of this process."""
