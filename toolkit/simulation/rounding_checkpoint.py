"""A checkpoint of roundings chosen on samples, so that an interrupted run need not repeat them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from toolkit.base.array_files import write_arrays
from toolkit.base.errors import QtoolError
from toolkit.base.reading import OWN, parse_json, reading
from toolkit.base.schema import FileSchema, validated
from toolkit.base.types import Array
from toolkit.data.arrays import open_archive
from toolkit.simulation.output_ranges import RangeErrors
from toolkit.simulation.rounder import RoundedWeight

WeightKey = tuple[str, "int | None"]
"""A weight's name and the axis of its channels or blocks."""
PATTERN = "roundings-*.npz"
"""Glob pattern of the checkpoints' file names."""
_EVERY = 5.0
"""The most seconds of work to lose by an interrupt."""


class _RoundingsHead(FileSchema):
    """Names in the order of the file's arrays: rounded weights, and layers; then all weights that are done."""

    weights: list[tuple[str, int | None]]
    layers: list[str]
    done: list[tuple[str, int | None]]


class RoundingCheckpoint:
    """The roundings found so far on samples, by weight.

    Args:
        path: the file; None keeps results only in memory. A damaged file, or one of other weights, is ignored.
        shapes: the shapes of the weights to round, by name.

    Attributes:
        found: by weight, a rounding that is better than to the nearest level.
        errors: by layer, output errors for ranges of its input.
        done: the weights that are done, with or without a better rounding.
    """

    def __init__(self, path: Path | None = None, shapes: Mapping[str, Sequence[int]] | None = None) -> None:
        self.path = path
        self.found: dict[WeightKey, RoundedWeight] = {}
        self.errors: dict[str, RangeErrors] = {}
        self.done: set[WeightKey] = set()
        self._saved, self._new = time.monotonic(), False
        if path is not None and path.exists():
            with suppress(QtoolError):
                self.found, self.errors, self.done = _read(path, shapes or {})

    def add(self, key: WeightKey, errors: Mapping[str, RangeErrors], rounded: RoundedWeight | None) -> None:
        """Add the results for a weight and its layers; saves if the last save is over five seconds ago."""
        self.errors |= errors
        if rounded is not None:
            self.found[key] = rounded
        self.done.add(key)
        self._new = True
        if time.monotonic() - self._saved > _EVERY:
            self.save()

    def save(self) -> None:
        """Write the file atomically, if anything was added."""
        if self.path is None or not self._new:
            return
        arrays: dict[str, Array] = {}
        for number, one in enumerate(self.found.values()):
            levels = np.array([np.nan if level is None else level for level in (one.before_db, one.after_db)])
            arrays |= {f"scale_{number}": one.scale, f"values_{number}": one.values, f"db_{number}": levels}
        for number, error in enumerate(self.errors.values()):
            arrays[f"steps_{number}"] = np.array(list(error.noise), np.int64)
            arrays[f"noise_{number}"] = np.array([*error.noise.values(), error.largest], np.float64)
        head = _RoundingsHead(weights=list(self.found), layers=list(self.errors), done=sorted(self.done, key=str))
        write_arrays(self.path, {"head": np.array(head.model_dump_json()), **arrays})
        self._saved, self._new = time.monotonic(), False


def _read(
    path: Path, shapes: Mapping[str, Sequence[int]]
) -> tuple[dict[WeightKey, RoundedWeight], dict[str, RangeErrors], set[WeightKey]]:
    arrays = open_archive(path, OWN)
    found: dict[WeightKey, RoundedWeight] = {}
    errors: dict[str, RangeErrors] = {}
    with reading(path, OWN):
        head = validated(_RoundingsHead, parse_json(str(arrays["head"].whole()[0]), path, OWN), path, OWN)
        for number, (name, axis) in enumerate(head.weights):
            scale, values, levels = (arrays[f"{what}_{number}"].whole() for what in ("scale", "values", "db"))
            if values.shape != tuple(shapes[name]) or values.dtype.kind != "f":
                raise ValueError(f"the weights of '{name}' are others")
            before, after = (None if np.isnan(level) else float(level) for level in levels)
            found[name, axis] = RoundedWeight(scale, values, before, after)
        for number, name in enumerate(head.layers):
            steps, noise = (arrays[f"{what}_{number}"].whole().tolist() for what in ("steps", "noise"))
            errors[name] = RangeErrors(dict(zip(steps, noise[:-1])), noise[-1])
    return found, errors, set(head.done)
