"""Where a recipe's work is done: on this machine, or by Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from toolkit.base.cluster import cluster
from toolkit.base.places import working_at


@contextmanager
def working(on: str) -> Iterator[None]:
    """Within the block, work that can be split is done there.

    Args:
        on: ``here``, ``ray``, or ``ray://host:port``; see ``[run] on``.

    Raises:
        QtoolError: Ray is not installed.
    """
    if on == "here":
        yield
        return
    with cluster(None if on == "ray" else on) as place, working_at(place):
        yield
