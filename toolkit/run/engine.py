"""The engine run on this machine's GPU with the evaluation's samples, beside onnxruntime's float run of the model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.base.errors import BackendError, DataError
from toolkit.base.types import Array

if TYPE_CHECKING:
    from toolkit.base.profiles import ShapeProfile
    from toolkit.base.progress import Progress
    from toolkit.data.dataset import Batch, CalibrationData
    from toolkit.run.job import Job
    from toolkit.run.pipeline import Pipeline

_CHUNK_BYTES, _CHUNK_FEEDS = 256 << 20, 4096
_MIXED = (
    "they are too few for the smallest batch of a profile, and an output without an axis of samples mixes them with "
    "what filled it up"
)


@dataclass(frozen=True)
class Feed:
    """What the engine runs at once.

    Attributes:
        profile: the profile it runs in; empty where the engine has none.
        inputs: one array an input, within the profile.
        labels: the labels of its ``count`` samples.
        count: how many samples it holds.
        rows: its length along the batch axis, more than ``count`` where it was filled up; 0 without such an axis.
        origins: the samples' places in the source.
    """

    profile: str
    inputs: dict[str, Array]
    labels: dict[str, Array] | None
    count: int
    rows: int
    origins: tuple[int, ...]


@dataclass
class Tally:
    """What became of the samples.

    Attributes:
        left_out: runs of a sample left out, since their batches fit no shape of the profile.
        filled: batches filled up.
        mixed: runs of a sample left out, since an output of a batch that was filled up has no axis of samples.
    """

    left_out: int = 0
    filled: int = 0
    mixed: int = 0


def run_on_device(pipeline: Pipeline, engine: Path, backend: str) -> dict[str, Any]:
    """Run the engine over the evaluation's samples, each in every profile that it counts for.

    The engine runs in a child process, so that its crash is a failure of the check and of nothing else.

    Args:
        pipeline: the run: recipe, float model, samples, profiles.
        engine: the engine's file.
        backend: what built it.

    Returns:
        The content of device.json: ``status`` (ran, failed or skipped), ``why``, ``gpu``, ``samples``, ``left_out``,
        ``notes``, ``held_out``, ``random``, ``all`` (an EvaluationResult over all profiles), ``profiles`` (one each).

    Raises:
        QtoolError: the samples or the float model cannot be used.
    """
    from toolkit.base.gpu import find_gpu
    from toolkit.data.sample import EVERYTHING
    from toolkit.evaluation.evaluate import first_samples
    from toolkit.evaluation.outputs import OutputComparison
    from toolkit.graph.sessions import session

    section, source = pipeline.recipe.evaluation, pipeline.inputs.reference()
    gpu = find_gpu()
    found: dict[str, Any] = {"status": "ran", "why": "", "gpu": gpu.name if gpu is not None else ""}
    data, held_out = pipeline.inputs.evaluation_data(source)
    if data is None or len(data) == 0:
        raise DataError("there is no sample to run the engine on", remedy="add [evaluation] data")
    known = pipeline.profiles.names or [EVERYTHING]
    total = OutputComparison(source, section.metric, section.output, pipeline.allow_code)
    each = {name: OutputComparison(source, section.metric, section.output, pipeline.allow_code) for name in known}
    tally, seen = Tally(), set[int]()
    size = max([section.batch, *(batch_limits(profile, data)[0] for profile in pipeline.profiles)])
    read = min(len(data), section.samples) if section.samples else len(data)
    reference = session(source)
    feeds = (feed for b in first_samples(data, size, section.samples) for feed in split(b, data, tally))
    for chunk in chunks(feeds):
        with tempfile.TemporaryDirectory(prefix="qtool-device-") as name:
            try:
                answers = run_chunk(pipeline.job, engine, backend, chunk, Path(name))
            except BackendError as error:
                return {**found, "status": "failed", "why": str(error)}
            for feed, outputs in zip(chunk, answers):
                wanted = reference.run(samples_of(feed))
                lost = [output for output in wanted if output not in outputs]
                if lost:
                    return {**found, "status": "failed", "why": f"the engine has no output '{lost[0]}'"}
                own = outputs if feed.rows <= feed.count else own_rows(wanted, outputs, feed)
                if own is None:
                    tally.mixed += feed.count
                    continue
                try:
                    for comparison in (total, each[feed.profile or EVERYTHING]):
                        comparison.add(wanted, own, feed.labels, feed.count)
                except Exception as error:
                    # the same metric took the simulation's outputs: these are such as it cannot take
                    why = f"the metric cannot take the engine's outputs: {type(error).__name__}: {error}"
                    return {**found, "status": "failed", "why": why}
                seen.update(feed.origins)
                pipeline.progress("device", min(len(seen), read), read)
    if not seen:
        why = _MIXED if tally.mixed else "no sample fits the batches of any profile"
        return {**found, "status": "skipped", "why": why}
    return {
        **found,
        "samples": len(seen),
        "left_out": tally.left_out,
        "held_out": held_out,
        "random": data.random,
        "notes": notes(tally, data, [name for name in known if not each[name].samples], section.samples is None),
        "all": total.result().to_json(),
        "profiles": {name: one.result().to_json() for name, one in each.items() if one.samples},
    }


def batch_limits(profile: ShapeProfile, data: CalibrationData) -> tuple[int, int]:
    """The least and the most samples that a batch of this profile holds."""
    batched = [extent for name, extent in profile.shapes.items() if name in data.specs and data.specs[name].batched]
    low = max((extent.min[0] for extent in batched), default=1)
    return low, min((extent.max[0] for extent in batched), default=1 << 30)


def split(batch: Batch, data: CalibrationData, tally: Tally) -> Iterator[Feed]:
    """A batch cut to fit each profile that its samples count for, filled up where it is too short for one.

    It is filled up with samples of its own, whose outputs are left out again.
    """
    profiles = {profile.name: profile for profile in data.profiles}
    if not profiles:
        yield Feed("", batch.inputs, batch.labels, batch.count, 0, batch.indices)
        return
    lengths = {len(values) for values in batch.inputs.values() if values.ndim}
    rowwise = data.can_batch and lengths == {batch.count}
    for name in batch.profiles:
        low, high = batch_limits(profiles[name], data) if rowwise else (1, batch.count)
        for start in range(0, batch.count, max(high, 1)):
            count = min(high, batch.count - start)
            rows = np.arange(max(count, low)) % count + start
            taken = batch.inputs if not rowwise else {n: values[rows] for n, values in batch.inputs.items()}
            if not profiles[name].fits({n: values.shape for n, values in taken.items()}):
                tally.left_out += count
                continue
            labels = batch.labels
            if rowwise and labels is not None:
                labels = {n: values[start : start + count] for n, values in labels.items()}
            tally.filled += rowwise and count < low
            indices = batch.indices[start : start + count]
            yield Feed(name, taken, labels, count, len(rows) if rowwise else 0, indices)


def chunks(feeds: Iterator[Feed]) -> Iterator[list[Feed]]:
    """Feeds in groups of bounded size: a group is what one child process runs and what lies on disk at once."""
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
    """The engine's outputs for each feed; the child process has run all of them when this returns.

    Raises:
        BackendError: the engine cannot be opened or failed, or its process died.
    """
    from toolkit.backends.device_job import load_arrays, store_arrays
    from toolkit.backends.process import run_job
    from toolkit.backends.rtx import profiles_to_json

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
    progress: Progress = job.progress
    answer = run_job("run_engine", request, progress=progress)
    return (dict(zip(names, load_arrays(b["outputs"]))) for b, names in zip(batches, answer["outputs"]))


def samples_of(feed: Feed) -> dict[str, Array]:
    """A feed's inputs without the rows that filled it up: the float model takes batches of any size."""
    return {name: values[: feed.count] if feed.rows else values for name, values in feed.inputs.items()}


def own_rows(wanted: Mapping[str, Array], found: Mapping[str, Array], feed: Feed) -> dict[str, Array] | None:
    """The outputs of a feed that was filled up, cut to its own samples along whichever axis counts them.

    None where an output has no such axis: what it holds comes from the other rows too.
    """
    cut = {}
    for name, values in wanted.items():
        longer = found[name].shape
        axes = [axis for axis in range(values.ndim) if longer[axis : axis + 1] != values.shape[axis : axis + 1]]
        if len(longer) != values.ndim or [(values.shape[a], longer[a]) for a in axes] != [(feed.count, feed.rows)]:
            return None
        cut[name] = found[name].take(range(feed.count), axis=axes[0])
    return cut


def notes(tally: Tally, data: CalibrationData, empty: Sequence[str], whole: bool) -> list[str]:
    """What the reader should know of the samples. ``whole``: all of the data was read."""
    fits = "no sample fits it" if whole and not tally.mixed else "none of the samples read could be judged in it"
    told = [f"profile '{name}' was not run: {fits}" for name in empty]
    if tally.left_out:
        told.append(f"{tally.left_out} runs of a sample were left out: their batches do not fit the profile's shapes")
    if tally.mixed:
        told.append(f"{tally.mixed} runs of a sample were left out: {_MIXED}")
    if tally.filled:
        told.append(f"{tally.filled} batches were filled up to the smallest that their profile takes")
    if whole and data.counts.skipped:
        told.append(f"{data.counts.skipped} samples fit no profile and were skipped")
    return told
