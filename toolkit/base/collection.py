"""Pausing Python's garbage collector while many lasting objects are created."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_SELDOM = (1_000_000, 10, 5)
"""New objects before the youngest are looked through, and how often that is done before older ones are."""
MANY_NEW = 100_000
"""New objects from which on looking through them takes longer than it is worth: a large graph has millions."""
MOST_LIVING = 8_000_000
"""Objects that live, about 800 MB, before all are looked through; twice as many as are left, where these are more."""


@dataclass
class CollectionThreshold:
    """How many objects may live before they are all looked through.

    Attributes:
        most: the limit.
        blocks: blocks of memory that Python may have in use before the objects are counted again.
    """

    most: int = MOST_LIVING
    blocks: int = 0

    def reached(self) -> bool:
        """Whether more objects may live than are allowed, as far as blocks of memory tell.

        Counting the objects walks over all of them, of a large graph 0.2 s each time; blocks are counted by the pool.
        Nearly every object takes a block or more, so that there are not too many objects where there are few blocks,
        and what cycles hold has not grown where the blocks have not.
        """
        return sys.getallocatedblocks() > max(self.most, self.blocks)

    def counted(self) -> None:
        """Say that the objects were counted: that is done again once an eighth more blocks are in use."""
        self.blocks = sys.getallocatedblocks() * 9 // 8


living_limit = CollectionThreshold()


@contextmanager
def collector_paused() -> Iterator[None]:
    """The block, or a function that this decorates, runs without the collector of reference cycles.

    It would look through all objects that live, again and again, while a graph of a hundred thousand is built: that
    takes several times as long as the building. Nothing that the block makes and drops in a cycle is freed before its
    end. What it makes and keeps, where that is much, counts as old at once: it is looked through with all that lives
    when that has doubled.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            _made_old()
            gc.enable()


def _made_old() -> None:
    """Make all objects old, where many are new, without looking through them: two lists are joined."""
    # earlier objects may have been frozen by other code
    if gc.get_count()[0] < MANY_NEW or gc.get_freeze_count():
        return
    gc.freeze()
    living = gc.get_freeze_count() if living_limit.reached() else 0
    gc.unfreeze()
    if living > living_limit.most:
        gc.collect()
        living_limit.most = max(MOST_LIVING, 2 * len(gc.get_objects()))
    if living:
        living_limit.counted()


@contextmanager
def collector_seldom() -> Iterator[None]:
    """In the block the collector of reference cycles looks much more seldom through what lives.

    At Python's own thresholds, which are made for few objects, a run on a graph of thousands of nodes spends a sixth
    of its time there.
    """
    was = gc.get_threshold()
    gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*was)


@dataclass
class GrownMemory:
    """Gives back what was dropped in cycles while the collector looks seldom.

    A few objects may hold much: a simulation that is no longer used has weights, sessions and states in it.

    Attributes:
        most: bytes that the process may have grown by before all objects are looked through.
        held: bytes that it held after that was done last.
    """

    most: int = 256 << 20
    held: int = 0

    def give_back(self, young_only: bool = False) -> None:
        """Look through objects where the process has grown by that much, as far as the system tells.

        Args:
            young_only: through those alone that were made since the last time, which takes a tenth as long: for who
                drops nothing that is older.
        """
        now = resident()
        if now > self.held + self.most:
            gc.collect(1 if young_only else 2)
            return_free_blocks()
            now = self.held = resident()
        self.held = min(self.held, now)


def return_free_blocks() -> None:
    """Give freed memory between blocks that are in use back to the system, where it runs on glibc.

    By itself glibc returns only what lies at the end: of the sessions and arrays that threads make and drop in
    turn, half a gigabyte stays.
    """
    if sys.platform.startswith("linux"):
        # other C libraries have no such function
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


grown_memory = GrownMemory()


def resident() -> int:
    """Bytes of memory that the process holds; 0 where the system does not say so."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
