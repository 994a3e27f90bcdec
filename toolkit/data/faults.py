"""The sample that an error belongs to, and errors about how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from toolkit.base.errors import DataError, ModelError, QtoolError
from toolkit.base.types import Array
from toolkit.data.batch import Batch
from toolkit.graph.sessions.endless_loops import EndlessLoopError


@contextmanager
def at_fault(batch: Batch) -> Iterator[Batch]:
    """Add to an error that names no place which of the batch's samples it concerns; yields the batch."""
    try:
        yield batch
    except DataError as error:
        error.at(batch.origins[min(error.row or 0, len(batch.origins) - 1)])
        raise


@contextmanager
def run_of(origins: Sequence[str]) -> Iterator[None]:
    """Say of which sample an error is that onnxruntime raises in the block, where it runs a single one."""
    try:
        yield
    except ModelError as error:
        if len(origins) > 1 or isinstance(error, EndlessLoopError):
            raise
        raise ModelError(f"{error.what} ({origins[0]})", where=error.where, remedy=error.remedy) from error


def run_samples(batch: Batch, run: Callable[[Mapping[str, Array]], dict[str, Array]]) -> dict[str, Array]:
    """What ``run`` computes of a batch's inputs.

    Raises:
        DataError: it fails on a sample and not on another, as where a token's number is not in the vocabulary; the
            message names the first such sample.
        ModelError: it fails on all of them.
    """
    try:
        with run_of(batch.origins):
            return run(batch.inputs)
    except EndlessLoopError:
        # it took half a minute, and is the model's fault
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
    """Why one of a batch's samples cannot be run; None if it can."""
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
    """The error for data of which no sample can be used; ``skipped`` is how many fit no profile."""
    if skipped:
        return DataError(
            f"none of the {skipped} samples fits a profile, and outside = 'skip' leaves them out",
            where=name,
            remedy="widen a profile, or set [calibration] outside to pad or crop",
        )
    return DataError("there are no samples", where=name, remedy="give at least one sample")
