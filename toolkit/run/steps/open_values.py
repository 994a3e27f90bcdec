"""Values of inner tensors of the opened engine on this machine's GPU, and the types that they reveal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.base.errors import DataError
from toolkit.base.files import write_bytes
from toolkit.base.temporary import temporary_folder
from toolkit.base.types import Array
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.run.inputs.feeds import Feed, Tally, run_chunk, split
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.steps.passes import PassesRecord

_SAMPLES = 16
_RUN_BYTES, _DISK_BYTES = 256 << 20, 2 << 30


def opened_values(
    inputs: Inputs, passes: PassesRecord, engine: bytes, backend: str, tensors: Sequence[str], journal: Journal
) -> dict[str, dict[str, Any]]:
    """Run the opened engine on a few samples, and compare its inner tensors with the float and the quantized model.

    Args:
        inputs: float model and samples.
        passes: the model with Q/DQ pairs.
        engine: the opened engine.
        backend: the backend that built it.
        tensors: the marked tensors, the most important first.
        journal: receives events about samples that were run or left out.

    Returns:
        For each tensor the result of ``OpenedAccumulator.result``, and ``samples``.

    Raises:
        QtoolError: there are no samples that fit a profile, or the engine cannot be run.
    """
    from toolkit.evaluation.evaluate import first_samples
    from toolkit.evaluation.node_errors.opened_values import OpenedAccumulator

    job, tally = inputs.job, Tally()
    source = inputs.reference()
    data, _ = inputs.evaluation_data(source)
    if data is None or len(data) == 0:
        raise DataError("there is no sample to run it on", remedy="add [evaluation] data or [calibration] data")
    feeds = [feed for batch in first_samples(data, 1, _SAMPLES) for feed in split(batch, data, tally)]
    if not feeds:
        raise DataError("no sample fits the batches of any profile", remedy="add samples that fit a profile")
    with temporary_folder("opened") as folder:
        path = folder / "opened.engine"
        write_bytes(path, engine)
        # the smallest inputs are run first, to estimate the memory that the others need
        smallest = min(feeds, key=_bytes)
        first = next(iter(run_chunk(job, path, backend, [smallest], folder)))
        chosen = _within(tensors, first)
        comparison = OpenedAccumulator(source, passes.model(), chosen)
        if not comparison.tensors:
            there = len([tensor for tensor in tensors if tensor in first])
            journal.noted(Code.OPENED_NONE_COMPARABLE(tensors=len(tensors), there=there))
            return {}
        comparison.add(smallest.inputs, first)
        runs = [smallest, *_affordable(feeds, smallest, first, chosen)]
        del first
        rest = folder / "rest"
        rest.mkdir()
        if runs[1:]:
            for number, (feed, values) in enumerate(
                zip(runs[1:], run_chunk(job, path, backend, runs[1:], rest)), start=1
            ):
                comparison.add(feed.inputs, values)
                job.progress("opened tensors", number, len(runs) - 1)
    samples = len({origin for feed in runs for origin in feed.origins})
    found = {tensor: {"samples": samples, **told} for tensor, told in comparison.result().items()}
    _note(journal, tensors, found, samples, len(runs), len(feeds) - len(runs), tally.left_out)
    return found


def _within(tensors: Sequence[str], values: Mapping[str, Array]) -> list[str]:
    """The tensors that the engine returned, as many as fit into memory several times."""
    held = 0
    chosen: list[str] = []
    for tensor in tensors:
        if tensor in values and (not chosen or held + values[tensor].nbytes <= _RUN_BYTES):
            held += values[tensor].nbytes
            chosen.append(tensor)
    return chosen


def _affordable(
    feeds: Sequence[Feed], smallest: Feed, values: Mapping[str, Array], chosen: Sequence[str]
) -> list[Feed]:
    """The other feeds whose tensors fit into memory individually, and on disk together."""
    compared = sum(values[tensor].nbytes for tensor in chosen)
    written = sum(value.nbytes for value in values.values())
    held = 0.0
    taken: list[Feed] = []
    for feed in feeds:
        growth = _bytes(feed) / max(_bytes(smallest), 1)
        if feed is smallest or growth * compared > _RUN_BYTES or held + growth * written > _DISK_BYTES:
            continue
        held += growth * written
        taken.append(feed)
    return taken


def _bytes(feed: Feed) -> int:
    return sum(values.nbytes for values in feed.inputs.values())


def _note(
    journal: Journal, tensors: Sequence[str], found: Mapping[str, Mapping[str, Any]], samples: int, runs: int,
    large: int, misfits: int,
) -> None:  # fmt: skip
    verdicts = Counter(told["verdict"] for told in found.values())
    journal.noted(
        Code.OPENED_RAN(
            samples=samples, runs=runs, verdicts=list(verdicts), counts=list(verdicts.values()), large=large,
            misfits=misfits,
        )
    )  # fmt: skip
    lost = [tensor for tensor in tensors if tensor not in found]
    if lost:
        journal.noted(Code.OPENED_NOT_COMPARED(tensors=lost))
    strange = [tensor for tensor, told in found.items() if told["engine"] is None]
    if strange:
        journal.noted(Code.OPENED_WITHOUT_ERROR(tensors=strange))
