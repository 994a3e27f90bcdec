"""The sample that an error belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from toolkit.base.errors import DataError
from toolkit.data.dataset import Batch


@contextmanager
def at_fault(batch: Batch) -> Iterator[Batch]:
    """Add to an error that names no place which of the batch's samples it concerns; yields the batch."""
    try:
        yield batch
    except DataError as error:
        error.at(batch.origins[min(error.row or 0, len(batch.origins) - 1)])
        raise
