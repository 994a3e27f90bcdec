"""Errors that name the sample they concern, and errors about the number of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from toolkit.base.errors import DataError, ModelError, QtoolError
from toolkit.base.types import Array
from toolkit.data.batch import Batch
from toolkit.graph.sessions.endless_loops import EndlessLoopError


@contextmanager
def at_fault(batch: Batch) -> Iterator[Batch]:
    """Add the sample of ``batch`` that a DataError concerns to an error without a location; yields the batch."""
    try:
        yield batch
    except DataError as error:
        error.at(batch.origins[min(error.row or 0, len(batch.origins) - 1)])
        raise


@contextmanager
def run_of(origins: Sequence[str]) -> Iterator[None]:
    """Add the sample to errors that onnxruntime raises in the block, if the block runs only one sample."""
    try:
        yield
    except ModelError as error:
        if len(origins) > 1 or isinstance(error, EndlessLoopError):
            raise
        raise ModelError(f"{error.what} ({origins[0]})", where=error.where, remedy=error.remedy) from error


def run_samples(batch: Batch, run: Callable[[Mapping[str, Array]], dict[str, Array]]) -> dict[str, Array]:
    """The outputs that ``run`` computes from a batch's inputs.

    Raises:
        DataError: it fails on some samples but not on others, for example on a token id outside the vocabulary; the
            message names the first of them.
        ModelError: it fails on every sample.
    """
    try:
        with run_of(batch.origins):
            return run(batch.inputs)
    except EndlessLoopError:
        # this took half a minute, and the cause is the model
        raise
    except ModelError:
        faults = [_fault(batch, row, run) for row in range(batch.count if batch.count > 1 else 0)]
        failed = next(((row, fault) for row, fault in enumerate(faults) if fault is not None), None)
        if failed is None or None not in faults:
            raise
        row, fault = failed
        remedy = "correct its values: the model takes those of other samples"
        raise DataError(fault.what, where=batch.origins[row], remedy=remedy) from fault


def _fault(batch: Batch, row: int, run: Callable[[Mapping[str, Array]], object]) -> QtoolError | None:
    """The error that one sample of a batch causes if run alone; None if it runs."""
    try:
        run(batch.rows(slice(row, row + 1)))
    except ModelError as error:
        return error
    return None


def refuse_none(count: int) -> None:
    """Refuse a number of samples below 1.

    Raises:
        DataError: it is below 1.
    """
    if count < 1:
        raise DataError(f"{count} samples are requested", remedy="ask for 1 or more")


def no_samples(name: str, skipped: int) -> DataError:
    """The error for data without a usable sample; ``skipped`` is the number of samples that fit no profile."""
    if skipped:
        return DataError(
            f"none of the {skipped} samples fits a profile, and outside = 'skip' leaves them out",
            where=name,
            remedy="widen a profile, or set [calibration] outside to pad or crop",
        )
    return DataError("there are no samples", where=name, remedy="give at least one sample")
