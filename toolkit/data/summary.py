"""What a file of samples holds: arrays by name, their shapes and types, the range of their values, and what is odd."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.base.types import Array
from toolkit.data.arrays import Stored, open_archive, open_array

_AT_ONCE = 32 << 20


@dataclass
class ArraySummary:
    """One array, or all members ``name/...`` of an archive, each of which is a sample.

    Attributes:
        name: of the array; for members what is before the slash.
        dtype: as stored; several where the members' differ.
        shapes: how many members have each shape; of one array its own.
        samples: rows along the first axis, or members; 1 for a single number.
        low: the smallest finite value; None where there is none, or they are no numbers.
        high: the largest.
        nan: how many values are NaN.
        infinite: how many are infinite.
        alike: whether there are several samples and all are the same.
    """

    name: str
    dtype: list[str]
    shapes: dict[tuple[int, ...], int] = field(default_factory=dict)
    samples: int = 0
    low: float | None = None
    high: float | None = None
    nan: int = 0
    infinite: int = 0
    alike: bool = False

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        shapes = [{"shape": list(shape), "members": count} for shape, count in self.shapes.items()]
        return {**asdict(self), "shapes": shapes}

    def take(self, values: Array) -> None:
        """Take in some of the values."""
        if values.dtype.kind not in "biuf" or not values.size:
            return
        finite = values
        if values.dtype.kind == "f":
            nan = np.isnan(values)
            self.nan += int(nan.sum())
            known = np.isfinite(values)
            self.infinite += int(values.size - known.sum() - nan.sum())
            finite = values[known]
        if finite.size:
            low, high = finite.min().item(), finite.max().item()
            self.low = low if self.low is None else min(self.low, low)
            self.high = high if self.high is None else max(self.high, high)


def summarized(path: Path) -> list[ArraySummary]:
    """The arrays of an .npz or .npy file; they are read in parts.

    Raises:
        DataError: it is no such file, or broken.
    """
    arrays = {path.stem: open_array(path)} if path.suffix.lower() == ".npy" else open_archive(path)
    members: dict[str, list[Stored]] = {}
    for key, stored in arrays.items():
        members.setdefault(key.rpartition("/")[0] or key, []).append(stored)
    return [_summary(name, found, any(f"{name}/" in key for key in arrays)) for name, found in members.items()]


def _summary(name: str, members: Sequence[Stored], each: bool) -> ArraySummary:
    """The summary of the members of one name; ``each`` of them a sample, else one array with a row per sample."""
    made = ArraySummary(name, sorted({stored.dtype.name for stored in members}))
    made.shapes = dict(Counter(stored.shape for stored in members).most_common())
    shape = members[0].shape
    made.samples = len(members) if each else shape[0] if shape else 1
    first: Array | None = None
    made.alike = made.samples > 1
    for stored in members:
        for values in [stored.whole().reshape(stored.shape)] if each or not stored.shape else _parts(stored):
            made.take(values)
            rows = values[None] if each else values
            if made.alike and len(rows):
                first = rows[0] if first is None else first
                # one row at a time takes the least memory, and most samples differ at once
                made.alike = all(np.array_equal(row, first, equal_nan=row.dtype.kind == "f") for row in rows)
    return made


def _parts(stored: Stored) -> Iterator[Array]:
    step = max(1, _AT_ONCE // max(1, math.prod(stored.shape[1:]) * stored.dtype.itemsize))
    for start in range(0, stored.shape[0], step):
        yield stored.rows(start, start + step)
