"""Tensors with the same values in several forms of a model, which can share statistics.

A helper pass that is exact in float changes the values of a few tensors, and only the last bits of the others. This is
checked on a few samples, not inferred from names: a tensor whose channels were divided keeps its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from toolkit.base.files import sha256_json
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.base.spread import spread_indices
from toolkit.base.types import Array
from toolkit.calibration.collection import Collection
from toolkit.calibration.probes import MEMORY, bytes_per_sample, split_by_memory
from toolkit.graph.model import Model
from toolkit.graph.sessions.side_by_side import BATCHES_HELD, run_side_by_side

if TYPE_CHECKING:
    from toolkit.data.dataset import CalibrationData

_SAMPLES, _AMONG = 2, 8
"""The smallest of this many samples are compared: where two forms differ does not depend on the size."""
_SAME = 1e-4
"""Largest relative difference of equal values, by the tensor's maximum or norm: 80 dB do not show in a histogram."""
_LONG = 1 << 14
"""Length of the pieces in which values are summed with random factors, before the sums are summed with others."""


@dataclass
class _RunForm:
    """A form of the model that was run.

    Attributes:
        collection: what was collected from it.
        wanted: the tensors that were collected.
        model: the form, until it has been looked at.
        sketches: see ``_sketches_of``.
    """

    collection: Collection
    wanted: Sequence[str]
    model: Model | None
    sketches: dict[str, Array] = field(default_factory=dict)


class SameValues:
    """The forms of one model from which statistics were collected, and which of their tensors have the same values.

    Values are compared only once a second form is requested.
    """

    def __init__(self) -> None:
        self._forms: list[_RunForm] = []
        self._data: CalibrationData | None = None
        self._asked: dict[str, dict[str, Array]] = {}

    def learn(self, model: Model, wanted: Sequence[str], data: CalibrationData, collection: Collection) -> None:
        """Add the statistics of a form of the model.

        Args:
            model: the form; copied.
            wanted: the tensors in the collection.
            data: the samples, the same for all forms; a few of them are compared.
            collection: must not be changed afterwards.
        """
        self._data = self._data if self._data is not None else _smallest(data)
        if all(form.collection is not collection for form in self._forms):
            found = self._asked.pop(_key(model, wanted), {})
            self._forms.append(_RunForm(collection, list(wanted), None if found else model.copy(), found))

    def known(
        self, model: Model, taps: Sequence[str], scalars: Sequence[str], memory: int | None = None
    ) -> dict[str, Collection]:
        """By tensor, the collection of another form in which it has the same values; later forms take precedence.

        Args:
            model: a form of the model.
            taps: its tensors whose histograms are wanted.
            scalars: tensors that need only extremes.
            memory: most bytes of tensors in memory; None for 192 MiB.

        Raises:
            DataError: a sample does not fit.
            ModelError: onnxruntime cannot run the form.
        """
        if not self._forms or self._data is None:
            return {}
        limit, wanted, found = memory or MEMORY, [*taps, *scalars], dict[str, Collection]()
        own = _sketches_of(model, wanted, self._data, limit)
        # what is collected from this form will be asked for by the next one
        self._asked = {_key(model, wanted): own}
        for form in reversed(self._forms):
            if not own.keys() - found.keys():
                break
            if form.model is not None:
                form.sketches, form.model = _sketches_of(form.model, form.wanted, self._data, limit), None
            enough = set(form.collection.tensors).union(scalars)
            for name in form.sketches.keys() & enough & own.keys() - found.keys():
                if _alike(form.sketches[name], own[name]):
                    found[name] = form.collection
        return found


def _key(model: Model, wanted: Iterable[str]) -> str:
    """What the sketches of a form's tensors depend on, besides the samples."""
    return sha256_json([model.fingerprint(), sorted(wanted)])


def joined(fresh: Collection | None, known: Mapping[str, Collection], taps: Iterable[str]) -> Collection:
    """The statistics of a form of a model and known ones of its other tensors, as one collection.

    Args:
        fresh: the statistics collected now, with fingerprints; None if none were needed.
        known: by tensor, the collection of another form in which it has the same values.
        taps: tensors that need histograms; the others need extremes.
    """
    first = fresh if fresh is not None else next(iter(known.values()))
    histograms = {group: dict(by_name) for group, by_name in fresh.histograms.items()} if fresh is not None else {}
    observed, infinite = (dict(fresh.observed), set(fresh.infinite)) if fresh is not None else ({}, set[str]())
    made = replace(
        first, histograms=histograms, observed=observed, infinite=infinite, samples=dict(first.samples),
        same=dict(first.same), made_from=dict(first.made_from),
    )  # fmt: skip
    wanted = set(taps)
    for name, source in known.items():
        groups = {group: by_name[name] for group, by_name in source.histograms.items() if name in by_name}
        if name in wanted:
            for group, histogram in groups.items():
                made.histograms.setdefault(group, {})[name] = histogram
            continue
        for low, high in [source.observed[name]] if name in source.observed else []:
            made.observe(name, low, high)
        for histogram in groups.values():
            made.observe(name, histogram.low, histogram.high)
        if name in source.infinite or any(histogram.nonfinite for histogram in groups.values()):
            made.infinite.add(name)
    return made


def _smallest(data: CalibrationData) -> CalibrationData:
    """The smallest of some evenly spread samples; those with an empty input, which show nothing, last."""
    some = data.spread(_AMONG)
    sizes = [([value.nbytes for value in one.inputs.values()], one.index) for one in some.all_samples()]
    in_turn = sorted((sizes[place] for place in spread_indices(len(sizes))), key=lambda one: (0 in one[0], sum(one[0])))
    chosen = frozenset(index for _, index in in_turn[:_SAMPLES])
    return some.part(chosen.__contains__, data.name)


def _sketches_of(model: Model, names: Iterable[str], data: CalibrationData, limit: int) -> dict[str, Array]:
    """What tells the values of tensors apart, float64 [samples, 4] each: of each sample the smallest and the largest
    value, the norm, and the sum with random factors. Tensors of ``limit`` bytes are held at a time, in all batches.
    """
    random = np.random.default_rng(0)
    inner, found = random.standard_normal(_LONG, np.float32), dict[str, list[Array]]()
    outer = random.standard_normal(_LONG)
    feeds = [batch.inputs for batch in data.batches(1)]
    largest = max(feeds, key=lambda feed: sum(value.nbytes for value in feed.values()), default={})
    shapes = {name: Extent(value.shape, value.shape, value.shape) for name, value in largest.items()}
    facts = model.facts(Profiles((ShapeProfile("largest", shapes),)))
    sizes = bytes_per_sample(facts, dict.fromkeys(names))
    room = limit // max(min(BATCHES_HELD, len(feeds)), 1)
    for some in split_by_memory(sizes, room) if sizes else ():
        for _, values in run_side_by_side(model, some, feeds, dict):
            for name in some:
                flat = np.asarray(values[name], np.float32).reshape(-1)
                found.setdefault(name, []).append(_sketch_of(flat, inner, outer))
    return {name: np.array(rows) for name, rows in found.items()}


def _sketch_of(values: Array, inner: Array, outer: Array) -> Array:
    if not values.size:
        return np.zeros(4)
    whole = len(values) // _LONG
    # infinite values, such as those of a mask, make sums that are not finite; `_alike` takes them for unlike
    with np.errstate(invalid="ignore", over="ignore"):
        sums = values[: whole * _LONG].reshape(whole, _LONG) @ inner
        rest = values[whole * _LONG :] @ inner[: len(values) - whole * _LONG]
        total = float(np.append(sums, rest).astype(np.float64) @ np.resize(outer, whole + 1))
        return np.array([values.min(), values.max(), np.sqrt(float(values @ values)), total])


def _alike(one: Array, other: Array) -> bool:
    """Whether a tensor has the same values, according to sketches; False if these are zero or not finite."""
    if one.shape != other.shape or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return False
    largest, norm = np.abs(one[:, :2]).max(axis=1), one[:, 2]
    apart, room = np.abs(one - other), np.stack([largest, largest, norm, norm], axis=1)
    return bool(norm.min(initial=np.inf) > 0 and len(one) and (apart <= _SAME * room).all())
