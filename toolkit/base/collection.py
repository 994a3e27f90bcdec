"""Python's garbage collector, while many objects are made that all stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """The block, or a function that this decorates, runs without the collector of reference cycles.

    It would look through all objects that live, again and again, while a graph of a hundred thousand is built: that
    takes several times as long as the building. Nothing that the block makes and drops in a cycle is freed before its
    end.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
