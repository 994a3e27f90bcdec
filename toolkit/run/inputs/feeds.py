"""Batches of samples that fit an engine's profiles, and the engine's outputs for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.data.batch import Labels
from toolkit.data.sample import rows_of
from toolkit.report.codes import ReportCode

if TYPE_CHECKING:
    from toolkit.base.profiles import ShapeProfile
    from toolkit.data.dataset import Batch, CalibrationData
    from toolkit.run.job import Job

_CHUNK_BYTES, _CHUNK_FEEDS = 256 << 20, 4096


@dataclass(frozen=True)
class Feed:
    """The inputs of one inference of the engine.

    Attributes:
        profile: the name of the profile; empty if the engine has none.
        inputs: one array per input, within the profile.
        labels: the labels of its ``count`` samples.
        count: number of samples.
        rows: length along the batch axis, more than ``count`` if the batch was padded; 0 without a batch axis.
        origins: the samples' positions in the source.
        axes: the batch axis of each input.
    """

    profile: str
    inputs: dict[str, Array]
    labels: dict[str, Array] | None
    count: int
    rows: int
    origins: tuple[int, ...]
    axes: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Tally:
    """Counts of samples and batches that were changed or left out.

    Attributes:
        left_out: samples left out, counted once per profile, since their batches fit no shape of the profile.
        filled: padded batches.
        mixed: samples left out, counted once per profile, since an output of their padded batch has no batch axis.
    """

    left_out: int = 0
    filled: int = 0
    mixed: int = 0


def batch_limits(profile: ShapeProfile, data: CalibrationData) -> tuple[int, int]:
    """The smallest and the largest number of samples in a batch of this profile."""
    batched = [(extent, data.axes[name]) for name, extent in profile.shapes.items() if name in data.axes]
    low = max((extent.min[axis] for extent, axis in batched), default=1)
    return low, min((extent.max[axis] for extent, axis in batched), default=1 << 30)


def split(batch: Batch, data: CalibrationData, tally: Tally) -> Iterator[Feed]:
    """Split a batch for each profile that its samples fit, padded if it is smaller than the profile's minimum.

    It is padded with its own samples, whose repeated outputs are then discarded.
    """
    profiles = {profile.name: profile for profile in data.profiles}
    if not profiles:
        yield Feed("", batch.inputs, batch.labels, batch.count, 0, batch.indices)
        return
    rowwise = data.can_batch and {batch.inputs[name].shape[axis] for name, axis in data.axes.items()} == {batch.count}
    for name in batch.profiles:
        low, high = batch_limits(profiles[name], data) if rowwise else (1, batch.count)
        for start in range(0, batch.count, max(high, 1)):
            count = min(high, batch.count - start)
            rows = np.arange(max(count, low)) % count + start
            taken = batch.rows(rows) if rowwise else batch.inputs
            if not profiles[name].fits({n: values.shape for n, values in taken.items()}):
                tally.left_out += count
                continue
            labels = batch.labels
            indices = batch.indices[start : start + count]
            if rowwise and labels is not None:
                labels = Labels({n: values[start : start + count] for n, values in labels.items()})
                labels.indices = indices
            tally.filled += rowwise and count < low
            yield Feed(name, taken, labels, count, len(rows) if rowwise else 0, indices, batch.axes)


def chunks(feeds: Iterator[Feed]) -> Iterator[list[Feed]]:
    """Group feeds into chunks of bounded size: each chunk is run by one child process and stored on disk at once."""
    held: list[Feed] = []
    size = 0
    for feed in feeds:
        held.append(feed)
        size += sum(values.nbytes for values in feed.inputs.values())
        if size >= _CHUNK_BYTES or len(held) >= _CHUNK_FEEDS:
            yield held
            held, size = [], 0
    if held:
        yield held


def run_chunk(job: Job, engine: Path, backend: str, chunk: Sequence[Feed], folder: Path) -> Iterator[dict[str, Array]]:
    """The engine's outputs for each feed; a child process has run all of them when this function returns.

    Raises:
        BackendError: the engine cannot be opened or fails, or its process dies.
    """
    from toolkit.backends.processes.exchange import load_arrays, profiles_to_json, store_arrays
    from toolkit.backends.processes.process import run_job

    batches: list[dict[str, Any]] = []
    for number, feed in enumerate(chunk):
        given, wanted = folder / f"in{number}.npz", folder / f"out{number}.npz"
        store_arrays(given, list(feed.inputs.values()))
        batches.append(
            {"profile": feed.profile or None, "names": list(feed.inputs), "inputs": str(given), "outputs": str(wanted)}
        )
    request = {
        "engine": str(engine.resolve()),
        "backend": backend,
        "profiles": profiles_to_json(job.profiles),
        "batches": batches,
    }
    answer = run_job("run_engine", request, progress=job.progress)
    return (dict(zip(names, load_arrays(b["outputs"]))) for b, names in zip(batches, answer["outputs"]))


def samples_of(feed: Feed) -> dict[str, Array]:
    """A feed's inputs without padding rows, for the float model, which accepts batches of any size."""
    return rows_of(feed.inputs, feed.axes, slice(0, feed.count)) if feed.rows else dict(feed.inputs)


def own_rows(wanted: Mapping[str, Array], found: Mapping[str, Array], feed: Feed) -> dict[str, Array] | None:
    """The outputs of a padded feed without padding rows, along whichever axis has the length of the batch.

    None if an output has no such axis: its values then depend on the padding rows too.
    """
    cut = {}
    for name, values in wanted.items():
        longer = found[name].shape
        axes = [axis for axis in range(values.ndim) if longer[axis : axis + 1] != values.shape[axis : axis + 1]]
        if len(longer) != values.ndim or [(values.shape[a], longer[a]) for a in axes] != [(feed.count, feed.rows)]:
            return None
        cut[name] = found[name].take(range(feed.count), axis=axes[0])
    return cut


def notes(tally: Tally, data: CalibrationData, empty: Sequence[str], whole: bool) -> list[Finding]:
    """Findings about the samples. ``whole``: all of the data was read."""
    fits = whole and not tally.mixed
    found = [ReportCode.PROFILE_NOT_RUN(profile=name, unfit=fits) for name in empty]
    if tally.left_out:
        found.append(ReportCode.SAMPLES_LEFT_OUT(count=tally.left_out))
    if tally.mixed:
        found.append(ReportCode.SAMPLES_MIXED_LEFT_OUT(count=tally.mixed, why=ReportCode.SAMPLES_MIXED()))
    if tally.filled:
        found.append(ReportCode.BATCHES_FILLED(count=tally.filled))
    if whole and data.counts.skipped:
        found.append(ReportCode.SAMPLES_SKIPPED(count=data.counts.skipped))
    return found
