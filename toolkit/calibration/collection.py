"""The statistics of a collection run: histograms by tensor and group of profiles; merging, saving, loading."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from pydantic import ConfigDict, Field, Strict

from toolkit.base.errors import RangesError, did_you_mean
from toolkit.base.files import atomic_path
from toolkit.base.reading import parse_json, reading
from toolkit.base.schema import Extremes, FileSchema, Natural, validated, value_words
from toolkit.base.types import Array
from toolkit.calibration.collection_file import KIND, collection_arrays
from toolkit.calibration.histogram import Histogram
from toolkit.data.arrays import Stored
from toolkit.data.dataset import Batch

SCHEMA = "qtool-collection-1"
MOST_SHARDS = 1 << 16
"""The largest number of shards of a calibration."""
ProfileNames = tuple[str, ...]
Shard = Annotated[int, Strict(), Field(ge=1, le=MOST_SHARDS)]


class DataSum(FileSchema):
    """How many samples there were, and the sum of their digests in hex."""

    samples: Natural
    sum: Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]


class MadeFrom(FileSchema):
    """What a collection was made from; other settings are compared but not interpreted."""

    model_config = ConfigDict(extra="allow")
    data: DataSum | None = None
    shards: list[tuple[Shard, Shard]] = Field(default_factory=list)


class GroupHead(FileSchema):
    """The tensors with histograms of one group of profiles."""

    profiles: list[str]
    tensors: list[str]


class Head(FileSchema):
    """The content of a collection's file besides its arrays; see ``Collection``."""

    schema_id: str = Field(alias="schema")
    groups: list[GroupHead]
    observed: dict[str, Extremes]
    infinite: list[str]
    samples: list[tuple[list[str], Natural]]
    made_from: MadeFrom
    same: dict[str, str] = Field(default_factory=dict)


@dataclass
class Collection:
    """Statistics of tensors over samples.

    Attributes:
        histograms: for every group of profiles (the profiles that a sample counts for together), a Histogram a tensor.
        observed: smallest and largest finite value, over all samples, of tensors without a histogram.
        infinite: tensors in ``observed`` that also had NaN or infinities.
        samples: how many samples each group had.
        same: by input the SHA-256 of its value, if it is the same in all samples; empty if it differs.
        made_from: fingerprints and settings: ``model``, ``data`` (count and sum of digests), ``bins``, ``outside``,
            ``mask``, ``tool``, ``shards`` (the parts joined here, each [i, n]).
    """

    histograms: dict[ProfileNames, dict[str, Histogram]] = field(default_factory=dict)
    observed: dict[str, Extremes] = field(default_factory=dict)
    infinite: set[str] = field(default_factory=set)
    samples: dict[ProfileNames, int] = field(default_factory=dict)
    made_from: dict[str, Any] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)

    @property
    def tensors(self) -> list[str]:
        """The tensors that have histograms, sorted."""
        return sorted({name for group in self.histograms.values() for name in group})

    @property
    def profiles(self) -> list[str]:
        """The profiles that had samples, in the order of their first sample."""
        return list(dict.fromkeys(name for group in self.samples for name in group))

    def samples_of(self, profile: str) -> int:
        """How many samples counted for a profile."""
        return sum(count for group, count in self.samples.items() if profile in group)

    def total(self, tensor: str, profile: str | None = None, weights: Mapping[str, int] | None = None) -> Histogram:
        """The histogram of a tensor over all samples or those of one profile; it must not be changed.

        Args:
            tensor: its name.
            profile: count only this profile's samples.
            weights: how often a sample of each profile counts (default 1); for several profiles the largest weight.

        Raises:
            RangesError: the tensor was not collected.
        """
        found = [(group, by_name[tensor]) for group, by_name in self.histograms.items() if tensor in by_name]
        if not found:
            raise RangesError(f"tensor '{tensor}' was not collected", remedy=did_you_mean(tensor, self.tensors))
        parts = []
        for group, histogram in found:
            if profile is None or profile in group:
                weight = max((weights or {}).get(name, 1) for name in group)
                parts.append(histogram if weight == 1 else histogram.scaled(weight))
        if len(parts) == 1:
            return parts[0]
        result = Histogram(found[0][1].bins)
        for part in parts:
            result.merge(part)
        return result

    def has_values(self, tensor: str) -> bool:
        """Whether the tensor had any value, if only NaN, in any sample: the past of a decoder may always be empty."""
        total = self.total(tensor)
        return total.count > 0 or total.nonfinite > 0

    def extremes(self) -> dict[str, Extremes]:
        """Smallest and largest finite value of every tensor seen, with histogram or without."""
        result = dict(self.observed)
        for name in self.tensors:
            histogram = self.total(name)
            if histogram.low <= histogram.high:
                result[name] = histogram.low, histogram.high
        return result

    def histogram(self, group: ProfileNames, tensor: str, bins: int) -> Histogram:
        """The histogram of a tensor within a group, created if there is none yet."""
        by_name = self.histograms.setdefault(group, {})
        if tensor not in by_name:
            by_name[tensor] = Histogram(bins)
        return by_name[tensor]

    def observe(self, tensor: str, low: float, high: float) -> None:
        """Add extremes of a tensor; ignored if ``low`` is above ``high``."""
        if low <= high:
            before = self.observed.get(tensor, (low, high))
            self.observed[tensor] = min(before[0], low) + 0.0, max(before[1], high) + 0.0

    def compare(self, batch: Batch) -> None:
        """Record whether the samples of a batch are equal to all earlier ones; cheap once two differ."""
        for name in batch.inputs:
            rows = batch.each(name)
            while self.same.get(name) != "" and (row := next(rows, None)) is not None:
                # 0 and -0 count as equal: products with 0 may have either sign
                content = (row + 0.0 if row.dtype.kind == "f" else row).tobytes()
                self._compare(name, sha256(f"{row.dtype}{row.shape}".encode() + content).hexdigest())

    def _compare(self, name: str, digest: str) -> None:
        self.same[name] = digest if self.same.get(name, digest) == digest else ""

    # ---------------------------------------------------------------- joining

    def absorb(self, other: Collection) -> None:
        """Add another collection's statistics to these, without checking what it was made from."""
        for group, by_name in other.histograms.items():
            for name, histogram in by_name.items():
                self.histogram(group, name, histogram.bins).merge(histogram)
        for name, (low, high) in other.observed.items():
            self.observe(name, low, high)
        self.infinite |= other.infinite
        for group, count in other.samples.items():
            self.samples[group] = self.samples.get(group, 0) + count
        for name, digest in other.same.items():
            self._compare(name, digest)

    def merge(self, other: Collection) -> Collection:
        """The two parts of one run merged: exactly what one run over both would have collected.

        Raises:
            RangesError: they come from different models, settings or tensors, or share samples; the message names what.
        """
        mine, theirs = self.made_from, other.made_from
        for key, difference in differences(mine, theirs, ignore=("data", "shards")):
            raise RangesError(
                f"the parts differ in {key}: {difference}", remedy="merge only parts of one recipe and one model"
            )
        odd = sorted(set(self.tensors) ^ set(other.tensors))
        if odd and self.samples and other.samples:
            raise RangesError(
                f"the parts differ in tensors: only one of them has '{odd[0]}'", remedy="collect the parts again"
            )
        parts, others = _parts(mine), _parts(theirs)
        twice = sorted(set(parts) & set(others))
        if twice:
            raise RangesError(f"part {_spell(twice[0])} is in both", remedy="merge each part only once")
        counts = {of for _, of in (*parts, *others)}
        if len(counts) > 1:
            raise RangesError(
                f"the parts are cut into unequal numbers of shards: {', '.join(_spell(p) for p in (*parts, *others))}",
                remedy="collect all parts with the same number of shards",
            )
        result = Collection()
        result.absorb(self)
        result.absorb(other)
        result.made_from = {**mine, "shards": sorted([list(part) for part in (*parts, *others)])}
        result.made_from["data"] = _joined_data(mine.get("data"), theirs.get("data"))
        return result

    @property
    def missing_parts(self) -> list[str]:
        """The shards that are still to be merged, as ``3/8``."""
        parts = set(_parts(self.made_from))
        of = max((count for _, count in parts), default=1)
        return [f"{i}/{of}" for i in range(1, of + 1) if (i, of) not in parts]

    def require(self, **expected: Any) -> None:
        """Check fingerprints and settings, for instance ``require(model=model.fingerprint())``.

        Raises:
            RangesError: one does not match; the message names it and both values.
        """
        for key, wanted in expected.items():
            for _, difference in differences({key: self.made_from.get(key)}, {key: wanted}):
                raise RangesError(
                    f"the collection is stale, it was made from another {key}: {difference}", remedy="calibrate again"
                )

    # ---------------------------------------------------------------- files

    def save(self, path: Path) -> None:
        """Write an .npz file atomically; nothing in it is pickled."""
        arrays: dict[str, Any] = {}
        groups = []
        for number, (group, by_name) in enumerate(self.histograms.items()):
            names = sorted(by_name)
            held = [by_name[name] for name in names]
            groups.append({"profiles": list(group), "tensors": names})
            arrays[f"counts_{number}"] = _rows(held)
            arrays[f"whole_{number}"] = np.array([[h.exponent, h.zeros, h.nonfinite] for h in held], np.int64)
            arrays[f"extremes_{number}"] = np.array([[h.low, h.high] for h in held], np.float64)
        head = {
            "schema": SCHEMA,
            "groups": groups,
            "observed": {name: list(value) for name, value in self.observed.items()},
            "infinite": sorted(self.infinite),
            "samples": [[list(group), count] for group, count in self.samples.items()],
            "made_from": self.made_from,
            "same": self.same,
        }
        # histograms are mostly zeros: a higher compression level takes six times as long and saves a tenth
        with atomic_path(path) as temporary, ZipFile(temporary, "w", ZIP_DEFLATED, compresslevel=1) as archive:
            for name, values in {"head": np.array(json.dumps(head)), **arrays}.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, values, allow_pickle=False)

    @classmethod
    def load(cls, path: Path) -> Collection:
        """Read what ``save`` wrote.

        Raises:
            RangesError: it is not such a file.
        """
        arrays = collection_arrays(path)
        with reading(path, KIND):
            content = parse_json(str(arrays["head"].whole()[0]), path, KIND)
            schema = content.get("schema") if isinstance(content, dict) else None
            if schema != SCHEMA:
                raise ValueError(f"its schema is {value_words(schema)}, not '{SCHEMA}'")
            head = validated(Head, content, path, KIND)
            histograms = {
                tuple(group.profiles): _histograms(group.tensors, arrays, number)
                for number, group in enumerate(head.groups)
            }
        return cls(
            histograms,
            dict(head.observed),
            set(head.infinite),
            {tuple(group): count for group, count in head.samples},
            head.made_from.model_dump(exclude_unset=True, mode="json"),
            head.same,
        )


def _rows(held: Sequence[Histogram]) -> Array:
    """The counts of histograms, [histograms, bins], in the smallest sufficient type: most counts are small."""
    most = max((int(one.counts.max()) for one in held), default=0)
    kind = next(kind for kind in (np.int16, np.int32, np.int64) if most <= np.iinfo(kind).max)
    rows = np.empty((len(held), held[0].bins if held else 0), kind)
    for row, one in zip(rows, held):
        row[:] = one.counts
    return rows


def _histograms(tensors: Sequence[str], arrays: Mapping[str, Stored], number: int) -> dict[str, Histogram]:
    """The histograms of one group of profiles.

    Raises:
        ValueError: arrays are missing, or have other shapes, types or values than ``save`` writes.
    """
    found = {}
    for name, kind, columns in (("counts", "i", None), ("whole", "i", 3), ("extremes", "f", 2)):
        stored = arrays.get(f"{name}_{number}")
        if stored is None:
            raise ValueError(f"there is no array '{name}_{number}'")
        shape = stored.shape
        if len(shape) != 2 or shape[0] != len(tensors) or (columns is not None and shape[1] != columns):
            raise ValueError(f"'{name}_{number}' has the shape {list(shape)} for {len(tensors)} tensors")
        if stored.dtype.kind != kind:
            raise ValueError(f"'{name}_{number}' is {stored.dtype}")
        found[name] = stored.whole()
    rows = zip(tensors, found["counts"], found["whole"], found["extremes"])
    return {name: Histogram.of(counts, whole, extremes) for name, counts, whole, extremes in rows}


def merge_all(parts: Iterable[Collection]) -> Collection:
    """All parts merged, see ``Collection.merge``.

    Raises:
        RangesError: there are none, or they do not belong together.
    """
    result: Collection | None = None
    for part in parts:
        result = part if result is None else result.merge(part)
    if result is None:
        raise RangesError("there are no parts to merge", remedy="name the files that qtool calibrate --shard wrote")
    return result


def differences(
    mine: Mapping[str, Any], theirs: Mapping[str, Any], ignore: Iterable[str] = ()
) -> Iterable[tuple[str, str]]:
    """Each key whose values differ, with both values in words."""
    for key in sorted((set(mine) | set(theirs)) - set(ignore)):
        a, b = mine.get(key), theirs.get(key)
        if a != b:
            yield key, f"{_short(a)} and {_short(b)}"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:12] + "..."


def _parts(made_from: Mapping[str, Any]) -> list[tuple[int, int]]:
    return [(int(i), int(of)) for i, of in made_from.get("shards", [[1, 1]])]


def _spell(part: tuple[int, int]) -> str:
    return f"{part[0]}/{part[1]}"


def _joined_data(mine: Any, theirs: Any) -> Any:
    if not isinstance(mine, Mapping) or not isinstance(theirs, Mapping):
        return None
    total = (int(mine["sum"], 16) + int(theirs["sum"], 16)) % (1 << 256)
    return {"samples": mine["samples"] + theirs["samples"], "sum": f"{total:064x}"}
