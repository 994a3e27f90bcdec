"""Contents of a file of samples: arrays by name, their shapes and types, value ranges, and oddities."""

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
        name: of the array; for members, the part before the slash.
        dtype: as stored; several if the members differ.
        shapes: number of members per shape; for one array, its shape.
        samples: number of rows along axis 0, or of members; 1 for a scalar.
        low: smallest finite value; None if there is none, or the values are not numbers.
        high: largest finite value; None likewise.
        nan: number of NaN values.
        infinite: number of infinite values.
        alike: whether there are several samples and all are identical.
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
        """Add some of the values."""
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
    """Summaries of the arrays in an .npz or .npy file, which is read in parts.

    Raises:
        DataError: it is not such a file, or broken.
    """
    arrays = {path.stem: open_array(path)} if path.suffix.lower() == ".npy" else open_archive(path)
    members: dict[str, list[Stored]] = {}
    for key, stored in arrays.items():
        members.setdefault(key.rpartition("/")[0] or key, []).append(stored)
    return [_summary(name, found, any(f"{name}/" in key for key in arrays)) for name, found in members.items()]


def _summary(name: str, members: Sequence[Stored], each: bool) -> ArraySummary:
    """Summary of the arrays of one name; ``each`` is a sample, else there is one array with one sample per row."""
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
                # comparing single rows takes little memory, and most samples differ at the first value
                made.alike = all(np.array_equal(row, first, equal_nan=row.dtype.kind == "f") for row in rows)
    return made


def _parts(stored: Stored) -> Iterator[Array]:
    step = max(1, _AT_ONCE // max(1, math.prod(stored.shape[1:]) * stored.dtype.itemsize))
    for start in range(0, stored.shape[0], step):
        yield stored.rows(start, start + step)
