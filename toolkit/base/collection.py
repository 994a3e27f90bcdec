"""Pausing Python's garbage collector while many long-lived objects are created."""

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
"""Thresholds of the collector: new objects per collection of generation 0, and how many of these per older one."""
MANY_NEW = 100_000
"""Number of new objects above which a collection takes longer than it is worth: a large graph has millions."""
MOST_LIVING = 8_000_000
"""Living objects, about 800 MB, before a full collection; twice the remaining number if that is larger."""


@dataclass
class CollectionThreshold:
    """Number of living objects that triggers a full collection.

    Attributes:
        most: the limit.
        blocks: number of allocated memory blocks from which the objects are counted again.
    """

    most: int = MOST_LIVING
    blocks: int = 0

    def reached(self) -> bool:
        """Whether there may be more living objects than allowed, judged by allocated memory blocks.

        Counting objects visits all of them, which takes 0.2 s for a large graph; the number of blocks is known at once.
        Nearly every object takes at least one block, so few blocks mean few objects, and without more blocks no more
        memory is held by cycles.
        """
        return sys.getallocatedblocks() > max(self.most, self.blocks)

    def counted(self) -> None:
        """Record that the objects were counted; they are counted again once an eighth more blocks are in use."""
        self.blocks = sys.getallocatedblocks() * 9 // 8


living_limit = CollectionThreshold()


@contextmanager
def collector_paused() -> Iterator[None]:
    """Disable the collector of reference cycles for the block, or for a function decorated with this.

    While a graph of a hundred thousand nodes is built, the collector would visit all living objects again and again,
    which takes several times as long as building it. Cycles that become garbage in the block are freed after it. If
    many objects remain, they are moved to the oldest generation at once; this is collected when it has doubled.
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
    """Move all objects to the oldest generation if many are new; this joins two lists and visits no object."""
    # other code may have frozen objects before
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
    """Within the block, run the collector of reference cycles much less often.

    With Python's own thresholds, which suit few objects, a run on a graph of thousands of nodes spends a sixth of its
    time in the collector.
    """
    was = gc.get_threshold()
    gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*was)


@dataclass
class GrownMemory:
    """Frees garbage cycles, while the collector runs seldom, whenever the process has grown.

    A few objects may hold much memory: a discarded simulation holds weights, sessions and states.

    Attributes:
        most: growth of the process, in bytes, that triggers a collection.
        held: bytes that the process held after the last collection.
    """

    most: int = 256 << 20
    held: int = 0

    def give_back(self, young_only: bool = False) -> None:
        """Run a collection if the process has grown by more than ``most``, as far as the system reports its size.

        Args:
            young_only: collect only the younger generations, which takes a tenth of the time: for callers that discard
                no older objects.
        """
        now = resident()
        if now > self.held + self.most:
            gc.collect(1 if young_only else 2)
            return_free_blocks()
            now = self.held = resident()
        self.held = min(self.held, now)


def return_free_blocks() -> None:
    """Return freed memory to the system, on glibc.

    glibc returns only memory at the end of the heap: half a gigabyte stays if threads allocate and free sessions and
    arrays in turn.
    """
    if sys.platform.startswith("linux"):
        # other C libraries have no such function
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


grown_memory = GrownMemory()


def resident() -> int:
    """Resident memory of the process in bytes; 0 if the system does not report it."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
