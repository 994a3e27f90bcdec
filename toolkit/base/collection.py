"""Python's garbage collector, while many objects are made that all stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_SELDOM = (1_000_000, 10, 5)
"""New objects before the youngest are looked through, and how often that is done before older ones are."""


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
