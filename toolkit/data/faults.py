"""The sample that an error belongs to, and errors about how many there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from toolkit.base.errors import DataError
from toolkit.data.batch import Batch


@contextmanager
def at_fault(batch: Batch) -> Iterator[Batch]:
    """Add to an error that names no place which of the batch's samples it concerns; yields the batch."""
    try:
        yield batch
    except DataError as error:
        error.at(batch.origins[min(error.row or 0, len(batch.origins) - 1)])
        raise


def refuse_none(count: int) -> None:
    """Refuse a number of samples below 1.

    Raises:
        DataError: it is below 1.
    """
    if count < 1:
        raise DataError(f"{count} samples are requested", remedy="ask for 1 or more")


def no_samples(name: str, skipped: int) -> DataError:
    """The error for data of which no sample can be used; ``skipped`` is how many fit no profile."""
    if skipped:
        return DataError(
            f"none of the {skipped} samples fits a profile, and outside = 'skip' leaves them out",
            where=name,
            remedy="widen a profile, or set [calibration] outside to pad or crop",
        )
    return DataError("there are no samples", where=name, remedy="give at least one sample")
