"""Run the model over the samples once and keep, of every tensor wanted, a histogram: never the values."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.base.errors import RangesError
from toolkit.base.files import sha256_json
from toolkit.base.profiles import Profiles, Shape
from toolkit.base.progress import Progress
from toolkit.base.types import Array
from toolkit.base.version import __version__
from toolkit.calibration.checkpoint import Checkpoint
from toolkit.calibration.collection import Collection
from toolkit.calibration.histogram import BINS, Histogram
from toolkit.calibration.probes import (
    Probe,
    add_probes,
    bytes_per_sample,
    check_tensors,
    largest_samples,
    repeated_tensors,
    split_by_memory,
)
from toolkit.data.dataset import Batch, CalibrationData, Keep, SampleFingerprint
from toolkit.graph.model import Model
from toolkit.graph.sessions import Session, session

_MEMORY = 384 << 20
# larger batches are no faster, since their tensors no longer stay in any cache, and fresh memory costs time
_COMFORT = 128 << 20


def collect(
    model: Model,
    taps: Sequence[str],
    data: CalibrationData,
    profiles: Profiles | None = None,
    *,
    scalars: Sequence[str] = (),
    batch: int = 8,
    bins: int = BINS,
    memory: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    shard: tuple[int, int] = (1, 1),
) -> Collection:
    """Collect histograms of ``taps`` and extremes of ``scalars`` over all samples.

    The result depends on the samples only: not on their order, the batch size, how they are spread over shards, nor
    on ``memory`` (as far as onnxruntime gives the same values for a sample whatever it shares a batch with).

    Args:
        model: the float model; not changed.
        taps: float tensors of the main graph, or inputs, that want a histogram.
        data: the samples.
        profiles: taken for granted to be ``data.profiles`` where None.
        scalars: float tensors of which smallest and largest value are enough; these are found inside the graph.
        batch: samples of equal shape run together, at most.
        bins: bins of a histogram, a power of two; 4,096 leave 2,048 or more up to any largest value.
        memory: bytes of tapped tensors that may be held at a time (default 384 MiB). Batches get smaller, then the
            taps are split into groups with one pass over the data each, so as not to exceed it.
        threads: threads of onnxruntime within one operator, and of counting.
        progress: called with what is being done, samples done, and of how many.
        checkpoint: a file in which the state is kept every 20 seconds, so that a killed run goes on from there; it is
            removed at the end.
        shard: (i, n): take only every n-th sample, starting with the i-th, counted from 1.

    Raises:
        RangesError: a tensor does not exist, is constant or no float; no samples; a checkpoint of another run.
        DataError: a sample does not fit.
        ModelError: onnxruntime cannot run the model.
    """
    if profiles is not None and profiles is not data.profiles and profiles != data.profiles:
        raise RangesError(
            "the data was opened with other profiles", remedy="give collect the profiles that the data has"
        )
    part, of = shard
    if not 1 <= part <= of:
        raise RangesError(f"there is no shard {part}/{of}", remedy="write i/n with i from 1 to n")
    taps = list(dict.fromkeys(taps))
    scalars = [name for name in dict.fromkeys(scalars) if name not in set(taps)]
    facts = model.facts(largest_samples(data))
    check_tensors(model, [*taps, *scalars], facts)
    keep: Keep | None = (lambda index: index % of == part - 1) if of > 1 else None
    made_from = {
        "model": model.fingerprint(),
        "tensors": sha256_json([sorted(taps), sorted(scalars)]),
        "profiles": sha256_json([[profile.name, profile.corners()] for profile in data.profiles]),
        "bins": bins,
        "outside": data.outside,
        "mask": data.mask,
        "random": data.random,
        "tool": __version__,
        "shards": [[part, of]],
    }
    limit = (memory or _MEMORY) // 2
    sizes = bytes_per_sample(facts, taps)
    groups = split_by_memory(sizes, limit)
    tally = SampleFingerprint()
    state = Checkpoint(None, {})
    if checkpoint is not None:
        # going on needs to know beforehand that the samples are the same and in the same places
        for sample in data.all_samples(keep):
            tally.add(sample)
        state = Checkpoint(checkpoint, {**made_from, "groups": len(groups), "data": tally.in_order()})
    collection = state.collection
    # counting may mean going through the source
    total = data.count(keep) * len(groups) if progress is not None else 0
    for number in range(state.group, len(groups)):
        probed = scalars if number == 0 else []
        run = CollectionRun(model, groups[number], probed, bins, threads, limit, sizes, collection)
        counting = None if checkpoint is not None or number else tally
        for done in run.go(data.batches(run.size(batch), state.left(keep), counting), count_samples=number == 0):
            state.done(number, done)
            if progress is not None:
                progress("calibrating", min(total, state.total), total)
        state.finish(number)
    if not tally.count:
        raise RangesError("there are no samples to calibrate with", where=data.name, remedy="give at least one sample")
    collection.made_from = {**made_from, "data": tally.to_json()}
    state.remove()
    return collection


class CollectionRun:
    """One pass over the data for one group of taps."""

    def __init__(
        self,
        model: Model,
        taps: list[str],
        scalars: list[str],
        bins: int,
        threads: int | None,
        limit: int,
        sizes: Mapping[str, int],
        collection: Collection,
    ) -> None:
        self._model, self._taps, self._scalars = model, taps, scalars
        self._bins, self._threads, self._limit, self._collection = bins, threads, limit, collection
        self._largest = sum(sizes[name] for name in taps) if all(sizes[name] for name in taps) else 0
        self._repeated = repeated_tensors(model, taps)
        self._alone: dict[Any, dict[str, int]] = {}
        self._seen: dict[int, int] = {}
        self._careful: set[str] = set()
        self._probes: dict[str, Probe] = {}
        self._session = self._open()

    def _open(self) -> Session:
        if not self._scalars:
            return session(self._model, self._taps, self._threads, spin=False)
        prepared = self._model.to_light()
        self._probes = add_probes(prepared.proto, self._scalars, self._careful)
        outputs = [name for probe in self._probes.values() for name in (probe.low, probe.high, probe.check)]
        return session(prepared, [*self._taps, *outputs], self._threads, spin=False)

    def go(self, batches: Iterator[Batch], count_samples: bool) -> Iterator[Batch]:
        """Run every batch; give each back once its statistics are in.

        While one batch is counted the next is computed; two are held at most.
        """
        workers = self._threads or os.cpu_count() or 1
        under_way: tuple[Batch, list[Future[None]]] | None = None
        with ThreadPoolExecutor(workers, "histogram") as pool:
            for batch in batches:
                values = self._compute(batch)
                weights = self._weights(batch, values)
                if under_way is not None:
                    yield _finished(*under_way)
                todo: deque[tuple[Histogram, Array, int]] = deque()
                for name in self._taps:
                    histogram = self._collection.histogram(batch.profiles, name, self._bins)
                    todo.append((histogram, values[name], weights.get(name, 1)))
                del values
                if count_samples:
                    samples = self._collection.samples
                    samples[batch.profiles] = samples.get(batch.profiles, 0) + batch.count
                    self._collection.compare(batch)
                under_way = batch, [pool.submit(_count, todo) for _ in range(workers)]
            if under_way is not None:
                yield _finished(*under_way)

    def _compute(self, batch: Batch) -> dict[str, Array]:
        values = self._session.run(batch.inputs)
        odd = {
            name
            for name, probe in self._probes.items()
            if name not in self._careful and not np.isfinite(values[probe.check])
        }
        if odd:
            # these hold infinities or NaN, or overflow when summed: watch their finite values from here on
            self._careful |= odd
            self._session = self._open()
            values = self._session.run(batch.inputs)
        for name, probe in self._probes.items():
            self._collection.observe(name, float(values[probe.low]), float(values[probe.high]))
            if name in self._careful and values[probe.check] > 0:
                self._collection.infinite.add(name)
        self._seen[_volume({n: v.shape for n, v in batch.inputs.items()}) // batch.count] = (
            sum(values[name].nbytes for name in self._taps) // batch.count
        )
        return values

    def _weights(self, batch: Batch, values: Mapping[str, Array]) -> dict[str, int]:
        """How often each tensor counts that this batch has computed once for all its samples."""
        if batch.count == 1 or not self._repeated:
            return {}
        first = batch.rows(slice(0, 1))
        key = tuple((name, value.shape) for name, value in sorted(first.items()))
        if key not in self._alone:
            one = self._session.run(first)
            self._alone[key] = {name: one[name].size for name in self._repeated}
        return {name: batch.count for name, size in self._alone[key].items() if values[name].size == size}

    def size(self, batch: int) -> Callable[[Mapping[str, Shape]], int]:
        """How many samples of a shape may share a batch: ``batch``, or fewer where they would take much memory."""
        room = min(self._limit, _COMFORT)

        def allowed(shapes: Mapping[str, Shape]) -> int:
            expected = self._expected(_volume(shapes))
            return max(1, min(batch, room // expected)) if expected else 1

        return allowed

    def _expected(self, volume: int) -> int:
        """Bytes that the taps of one sample take, judged from samples seen; 0 where nothing is known."""
        if volume in self._seen:
            return self._seen[volume]
        if not self._seen:
            return self._largest
        near = min(self._seen, key=lambda seen: abs(math.log(seen / volume)))
        ratio = volume / near
        # attention grows with the square of the length
        expected = int(self._seen[near] * (ratio * ratio if ratio > 1 else ratio)) + 1
        return min(expected, self._largest) if self._largest else expected


def _count(todo: deque[tuple[Histogram, Array, int]]) -> None:
    """Take tensors from the list that the workers share until it is empty."""
    while True:
        try:
            histogram, values, weight = todo.popleft()
        except IndexError:
            return
        histogram.add(values, weight)


def _finished(batch: Batch, jobs: list[Future[None]]) -> Batch:
    for job in jobs:
        job.result()
    return batch


def _volume(shapes: Mapping[str, Shape]) -> int:
    return max(1, sum(math.prod(shape) for shape in shapes.values()))
