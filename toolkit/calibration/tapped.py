"""Running a model batch by batch to collect statistics of its inner tensors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from onnx import TensorProto

from toolkit.base.types import Array
from toolkit.calibration.collection import Collection
from toolkit.calibration.histogram import Histogram
from toolkit.calibration.probes import Probe, add_probes, repeated_tensors
from toolkit.data.dataset import Batch
from toolkit.data.faults import run_samples
from toolkit.graph.large_models.memory import limit_memory, memory_limited
from toolkit.graph.large_models.partitions import Boundaries
from toolkit.graph.layers.zero_pads import ZeroPad, zero_pads
from toolkit.graph.model import Model
from toolkit.graph.proto.light import LightModel
from toolkit.graph.sessions.session import Session, session
from toolkit.graph.shape_inference.facts import Facts

ToCount = deque[tuple[Histogram, Array, int, int]]
"""Histograms, the values and the number of further zeros to add to each, and the weight of both."""


@dataclass(frozen=True)
class BatchStatistics:
    """The statistics of one batch, and the bytes of the tensors that have histograms."""

    collection: Collection
    size: int


@dataclass(frozen=True)
class Tapped:
    """A model and the tensors to collect statistics of; can be sent to another process, see ``SharedWork``.

    Attributes:
        model: the model.
        taps: tensors that need a histogram.
        scalars: tensors that need only extremes, which the graph computes.
        small: scalars so small that their extremes are computed outside the graph.
        other_types: scalars whose type may differ from float32.
        repeated: taps that may be computed once per batch, see ``repeated_tensors``.
        bins: bins of a histogram.
        threads: threads of onnxruntime within one operator; None for one per core.
        memory: see ``memory_limit``; applies to each process separately.
        pads: taps of which the values before the padding are computed.
    """

    model: LightModel
    taps: list[str]
    scalars: list[str]
    small: list[str]
    other_types: frozenset[str]
    repeated: frozenset[str]
    bins: int
    threads: int | None = None
    memory: int | None = None
    pads: Mapping[str, ZeroPad] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: Model,
        facts: Facts,
        taps: list[str],
        scalars: list[str],
        bins: int,
        threads: int | None,
        small: frozenset[str] = frozenset(),
        whole: bool = True,
    ) -> Tapped:
        """For the arguments see the attributes; ``facts`` are the model's, and determine which scalars are small.

        The model is not changed. ``whole``: whether it is run in one piece.
        """
        other_types = frozenset(name for name in scalars if facts.types.get(name) != TensorProto.FLOAT)
        repeated = frozenset(repeated_tensors(model, taps))
        here = small - other_types
        found_here = [name for name in scalars if name in here]
        probed = [name for name in scalars if name not in here]
        light, pads = model.to_light(), zero_pads(model, taps) if whole else {}
        return cls(light, taps, probed, found_here, other_types, repeated, bins, threads, memory_limited(), pads)

    @property
    def computed(self) -> dict[str, str]:
        """By tap, the tensor that is computed for it."""
        return {name: self.pads[name].source if name in self.pads else name for name in self.taps}

    def open(self) -> Callable[[Batch], BatchStatistics]:
        """See ``SharedWork``."""
        limit_memory(self.memory)
        run = TappedSession(self)

        def collect(batch: Batch) -> BatchStatistics:
            collection = Collection()
            values, weights = run.compute(batch, collection)
            size = size_of(values)
            count(self.to_count(batch, values, weights, collection))
            return BatchStatistics(collection, size)

        return collect

    def to_count(
        self, batch: Batch, values: Mapping[str, Array], weights: Mapping[str, int], into: Collection
    ) -> ToCount:
        """The values of one batch to add to the histograms of a collection."""
        todo: ToCount = deque()
        for name in self.taps:
            value, pad = values[name], self.pads.get(name)
            zeros = pad.zeros(value.shape) if pad is not None else 0
            todo.append((into.histogram(batch.profiles, name, self.bins), value, zeros, weights.get(name, 1)))
        return todo


@dataclass(frozen=True)
class _Opened:
    """A session with probes.

    Attributes:
        loaded: the session.
        probes: by tensor, the outputs with its extremes.
        careful: tensors of which only finite values count.
    """

    loaded: Session
    probes: Mapping[str, Probe]
    careful: frozenset[str]

    def odd(self, values: Mapping[str, Array]) -> set[str]:
        """The tensors that have values that are not finite, or that overflow when summed."""
        return {
            name
            for name, probe in self.probes.items()
            if name not in self.careful and not np.isfinite(values[probe.check])
        }


class TappedSession:
    """The session that computes the tapped tensors.

    Args:
        boundaries: see ``session``.
    """

    def __init__(self, tapped: Tapped, boundaries: Boundaries | None = None) -> None:
        self._tapped, self._boundaries = tapped, boundaries
        self._alone: dict[Any, dict[str, int]] = {}
        self._careful: set[str] = set()
        self._opening = Lock()
        self._opened = self._open()

    def _open(self) -> _Opened:
        own = self._tapped
        # nothing else refers to the message, so a large session can drop it
        prepared = own.model.copy()
        probes = add_probes(prepared.proto, own.scalars, self._careful, own.other_types) if own.scalars else {}
        outputs = [name for probe in probes.values() for name in (probe.low, probe.high, probe.check)]
        wanted = list(dict.fromkeys([*own.computed.values(), *own.small, *outputs]))
        loaded = session(prepared, wanted, own.threads, boundaries=self._boundaries, any_order=True)
        return _Opened(loaded, probes, frozenset(self._careful))

    def compute(self, batch: Batch, into: Collection) -> tuple[dict[str, Array], dict[str, int]]:
        """Run a batch; returns the values of its taps, and the weight of taps that are computed once for all samples.

        The extremes of the other tensors go into the collection. Several threads may compute a batch each.
        """
        opened = self._opened
        values = run_samples(batch, opened.loaded.run)
        odd = opened.odd(values)
        if odd:
            # these have infinities or NaN, or overflow when summed: from now on count only their finite values
            with self._opening:
                if not odd <= self._careful:
                    self._careful |= odd
                    self._opened = self._open()
                opened = self._opened
            values = opened.loaded.run(batch.inputs)
        for name, probe in opened.probes.items():
            into.observe(name, float(values[probe.low]), float(values[probe.high]))
            if name in opened.careful and values[probe.check] > 0:
                into.infinite.add(name)
        for name in self._tapped.small:
            _observe(name, values[name], into)
        taps = {name: values[source] for name, source in self._tapped.computed.items()}
        return taps, self._weights(batch, taps)

    def _weights(self, batch: Batch, values: Mapping[str, Array]) -> dict[str, int]:
        repeated = self._tapped.repeated
        if batch.count == 1 or not repeated:
            return {}
        first = batch.rows(slice(0, 1))
        key = tuple((name, value.shape) for name, value in sorted(first.items()))
        if key not in self._alone:
            one = self._opened.loaded.run(first)
            computed = self._tapped.computed
            self._alone[key] = {name: one[computed[name]].size for name in repeated}
        return {name: batch.count for name, size in self._alone[key].items() if values[name].size == size}


def _observe(name: str, values: Array, into: Collection) -> None:
    """Add the extremes of a tensor's finite values."""
    if not values.size:
        return
    # NaN and infinities show in one or the other
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        into.infinite.add(name)
        values = values[np.isfinite(values)]
        if not values.size:
            return
        low, high = values.min(), values.max()
    into.observe(name, float(low), float(high))


def size_of(values: Mapping[str, Array]) -> int:
    """The bytes of tensors."""
    return sum(value.nbytes for value in values.values())


def count(todo: ToCount) -> None:
    """Count tensors from a list, which several threads may share, until it is empty."""
    while True:
        try:
            histogram, values, zeros, weight = todo.popleft()
        except IndexError:
            return
        histogram.add(values, weight)
        histogram.add_zeros(zeros * weight)
