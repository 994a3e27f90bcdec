"""Run the model on all samples and keep a histogram of every requested tensor, but no values."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from toolkit.base.cpu import cores
from toolkit.base.errors import RangesError
from toolkit.base.files import sha256_json
from toolkit.base.places import Pending, Workplace, elsewhere
from toolkit.base.profiles import Extent, Profiles, Shape, ShapeProfile
from toolkit.base.progress import Progress
from toolkit.base.types import Array
from toolkit.base.version import __version__
from toolkit.calibration.checkpoint import GROUPS, Checkpoint
from toolkit.calibration.collection import Collection
from toolkit.calibration.histogram import BINS, load_kernels
from toolkit.calibration.probes import (
    MEMORY,
    bytes_per_sample,
    check_tensors,
    largest_samples,
    small_tensors,
    split_by_memory,
)  # fmt: skip
from toolkit.calibration.tapped import BatchStatistics, Tapped, TappedSession, count, size_of
from toolkit.data.dataset import Batch, CalibrationData, SampleFingerprint
from toolkit.graph.large_models.partitions import Boundaries, by_partition
from toolkit.graph.model import Model

# larger batches are no faster: their tensors exceed the caches, and allocating memory takes time
_COMFORT = 128 << 20
_MOST_SIDE_BY_SIDE = 4
"""Batches to compute in parallel at most: each holds inner tensors that the memory limit does not cover."""
_LIKE = math.log(1.25)
"""Samples whose sizes differ by less than this factor count as equally large."""


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

    The result depends only on the samples: not on their order, the batch size, the shards or ``memory``, provided
    onnxruntime computes a sample the same way in any batch. Where work runs elsewhere (see ``toolkit.base.places``),
    the same batches are distributed.

    Args:
        model: the float model; not changed.
        taps: float tensors of the main graph, or inputs, that need a histogram.
        profiles: must equal ``data.profiles``; None means these.
        scalars: float tensors of which only the smallest and largest value are needed, computed inside the graph.
        batch: the most samples, of equal shape, to run at once.
        bins: bins of a histogram, a power of two; with 4,096 there are at least 2,048 up to any largest value.
        memory: most bytes of tapped tensors in memory (default 192 MiB). To stay below it, batches get smaller, and
            then the taps are split into groups with one pass over the data each.
        threads: threads of onnxruntime within one operator, and of counting.
        progress: called with the current task, the samples done, and their total.
        checkpoint: a file to save the state to every 20 seconds, so that a killed run resumes; removed at the end.
        shard: (i, n): take only every n-th sample, starting with the i-th, counted from 1. It may have none.

    Raises:
        RangesError: a tensor does not exist, is constant or not float; the checkpoint is of another run.
        DataError: a sample does not fit, or there are none.
        ModelError: onnxruntime cannot run the model.
    """
    if profiles is not None and profiles is not data.profiles and profiles != data.profiles:
        raise RangesError("the data was opened with other profiles", remedy="pass the profiles of the data")
    part, of = shard
    if not 1 <= part <= of:
        raise RangesError(f"there is no shard {part}/{of}", remedy="write i/n with i from 1 to n")
    counted = dict.fromkeys(taps)
    scalars = [name for name in dict.fromkeys(scalars) if name not in counted]
    facts = model.facts(largest_samples(data))
    check_tensors(model, [*counted, *scalars], facts)
    keep = data.shard(part, of) if of > 1 else None
    made_from = _made_from(model, data, tensors_digest(counted, scalars), bins, shard)
    limit = memory or MEMORY
    sizes = bytes_per_sample(facts, counted)
    # remote workers do not share what is passed from partition to partition
    parts = by_partition(model, [*counted, *scalars]) if elsewhere() is None else [[*counted, *scalars]]
    groups = [group for part in parts for group in _groups(part, sizes, limit)]
    boundaries = Boundaries()
    tally = SampleFingerprint()
    state = Checkpoint(None, {})
    if checkpoint is not None:
        # to resume, the samples must be known to be the same, in the same order
        for sample in data.all_samples(keep):
            tally.add(sample)
        state = Checkpoint(checkpoint, {**made_from, GROUPS: sha256_json(groups), "data": tally.in_order()})
    collection = state.collection
    # counting may require reading the whole source
    total = data.count(keep) * len(groups) if progress is not None else 0
    small = small_tensors(model, facts, data, scalars)
    for number in range(state.group, len(groups)):
        tapped = Tapped.of(model, facts, *groups[number], bins, threads, small, len(parts) == 1)
        others = _bytes_of_others(model, counted.keys() - set(groups[number][0]))
        run = CollectionRun(tapped, limit, sizes, collection, (boundaries, others) if len(parts) > 1 else None)
        counting = None if checkpoint is not None or number else tally
        for done in run.go(data.batches(run.size(batch), state.left(keep), counting), count_samples=number == 0):
            state.done(number, done)
            if progress is not None:
                progress("calibrating", min(total, state.total), total)
        if number + 1 < len(groups):
            state.finish(number)
    # a shard may have none, as where there are more shards than samples; merged with the others, nothing is missing
    if not tally.count and (of == 1 or not data.count()):
        raise data.no_samples_error()
    collection.made_from = {**made_from, "data": tally.to_json()}
    state.remove()
    return collection


def _made_from(model: Model, data: CalibrationData, tensors: str, bins: int, shard: tuple[int, int]) -> dict[str, Any]:
    """What a collection depends on besides the samples."""
    return {
        "model": model.fingerprint(),
        "tensors": tensors,
        "profiles": sha256_json([[profile.name, profile.corners()] for profile in data.profiles]),
        "bins": bins,
        "outside": data.outside,
        "mask": data.mask,
        "random": data.random,
        "tool": __version__,
        "shards": [list(shard)],
    }


def tensors_digest(taps: Iterable[str], scalars: Iterable[str]) -> str:
    """A digest, for ``made_from``, of a collection's tensors: those with histograms, and those with extremes only."""
    return sha256_json([sorted(taps), sorted(scalars)])


def _groups(names: Sequence[str], sizes: Mapping[str, int], limit: int) -> Iterator[tuple[list[str], list[str]]]:
    """Taps and scalars for each pass over the data; ``sizes`` are the bytes of the taps."""
    scalars = [name for name in names if name not in sizes]
    for taps in split_by_memory({name: sizes[name] for name in names if name in sizes}, limit):
        yield taps, scalars
        scalars = []


def _bytes_of_others(model: Model, taps: Iterable[str]) -> Callable[[Batch], int]:
    """The bytes that taps of other passes take for a batch, as far as shapes can be inferred."""

    def taken(batch: Batch) -> int:
        shapes = {name: Extent(value.shape, value.shape, value.shape) for name, value in batch.inputs.items()}
        return sum(bytes_per_sample(model.facts(Profiles((ShapeProfile("batch", shapes),))), taps).values())

    return taken


class CollectionRun:
    """One pass over the data for one group of taps.

    Args:
        limit: most bytes of taps in memory.
        sizes: bytes of all taps for the largest sample.
        collection: receives the statistics.
        partition: for a pass over one partition of the model: the tensors passed between partitions, stored per batch,
            and the bytes of the other passes' taps, since all passes use the batches of the whole model.
    """

    def __init__(
        self,
        tapped: Tapped,
        limit: int,
        sizes: Mapping[str, int],
        collection: Collection,
        partition: tuple[Boundaries, Callable[[Batch], int]] | None = None,
    ) -> None:
        self._limit, self._collection, self._partition = limit, collection, partition
        sized = [sizes[name] for name in (sizes if partition is not None else tapped.taps)]
        self._largest = sum(sized) if all(sized) else 0
        self._seen: dict[int, int] = {}
        self._threads = tapped.threads or cores()
        # with several groups the last taps are small, but computing them is not
        whole = sum(sizes.values()) if self._largest and all(sizes.values()) else 0
        # tensors passed between partitions are stored per batch, so batches run one at a time
        fits = limit // whole if whole and partition is None and elsewhere() is None else 1
        self._side_by_side = max(1, min(self._threads, fits, _MOST_SIDE_BY_SIDE))
        more = self._side_by_side > 1
        self._tapped = replace(tapped, threads=self._threads // self._side_by_side) if more else tapped

    def go(self, batches: Iterator[Batch], count_samples: bool) -> Iterator[Batch]:
        """Run every batch; yield each, in order, when its statistics are in the collection."""
        place = elsewhere()
        if place is None:
            under_way = self._here(batches)
        else:
            under_way = self._shared_out(place, batches)
        for batch in under_way:
            if count_samples:
                samples = self._collection.samples
                samples[batch.profiles] = samples.get(batch.profiles, 0) + batch.count
                self._collection.compare(batch)
            yield batch

    def _here(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Compute a few batches in parallel, as memory allows: within one operator of a small batch, threads mostly
        wait. Then all threads count values: counting during computation would compete for cores and caches.
        """
        with ThreadPoolExecutor(self._threads + 1, "histogram") as pool:
            if self._tapped.taps:
                # in the meantime the session is opened, and the first batches are computed
                pool.submit(load_kernels)
            run = TappedSession(self._tapped, self._partition[0] if self._partition is not None else None)

            def computed(batch: Batch) -> tuple[Collection, dict[str, Array], dict[str, int]]:
                part = Collection()
                return part, *run.compute(batch, part)

            while some := list(islice(batches, self._side_by_side)):
                made = deque(pool.map(computed, some) if len(some) > 1 else map(computed, some))
                for batch in some:
                    part, values, weights = made.popleft()
                    self._collection.absorb(part)
                    self._learn(batch, partial(self._size, batch, values))
                    todo = self._tapped.to_count(batch, values, weights, self._collection)
                    del values
                    others = [pool.submit(count, todo) for _ in range(self._threads - 1)]
                    count(todo)
                    for other in others:
                        other.result()
                    yield batch

    def _shared_out(self, place: Workplace, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Run the batches elsewhere; they, and what is learnt about their sizes, are the same as when run here."""
        under_way: deque[tuple[Batch, Pending[BatchStatistics]]] = deque()
        with place.workers(replace(self._tapped, threads=1)) as remote:
            for batch in batches:
                under_way.append((batch, remote.submit(batch)))
                self._learn(batch, lambda: under_way[-1][1].result().size)
                if len(under_way) >= remote.window:
                    yield self._taken_in(*under_way.popleft())
            while under_way:
                yield self._taken_in(*under_way.popleft())

    def _taken_in(self, batch: Batch, pending: Pending[BatchStatistics]) -> Batch:
        self._collection.absorb(pending.result().collection)
        return batch

    def _size(self, batch: Batch, values: Mapping[str, Array]) -> int:
        return size_of(values) + (self._partition[1](batch) if self._partition is not None else 0)

    def size(self, batch: int) -> Callable[[Mapping[str, Shape]], int]:
        """Returns how many samples of a shape may share a batch: ``batch``, or fewer to limit memory."""
        # batches do not depend on the number of cores, nor on where work runs
        room = min(self._limit // _MOST_SIDE_BY_SIDE, _COMFORT)

        def allowed(shapes: Mapping[str, Shape]) -> int:
            expected = self._expected(_volume(shapes))
            return max(1, min(batch, room // expected)) if expected else 1

        return allowed

    def _learn(self, batch: Batch, size: Callable[[], int]) -> None:
        """Record the bytes that a batch takes, if none with samples of about its size was seen.

        Args:
            size: returns the bytes of its taps; waits for them if they are computed elsewhere.
        """
        volume = _volume({name: value.shape for name, value in batch.inputs.items()}) // batch.count
        near = self._nearest(volume)
        if near is None or abs(math.log(near / volume)) > _LIKE:
            self._seen[volume] = size() // batch.count

    def _nearest(self, volume: int) -> int | None:
        return min(self._seen, key=lambda seen: abs(math.log(seen / volume)), default=None)

    def _expected(self, volume: int) -> int:
        """Expected bytes of the taps of one sample, from samples seen; 0 if nothing is known."""
        near = self._nearest(volume)
        if near is None:
            return self._largest
        ratio = volume / near
        # attention grows with the square of the length
        expected = math.ceil(self._seen[near] * (ratio * ratio if ratio > 1 else ratio))
        return min(expected, self._largest) if self._largest and ratio != 1 else expected


def _volume(shapes: Mapping[str, Shape]) -> int:
    return max(1, sum(math.prod(shape) for shape in shapes.values()))
