"""Fingerprints of what a recipe reads: computed once a run, without importing any code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from toolkit.base.given import is_given, taken
from toolkit.base.versions import module_fingerprint, path_fingerprint
from toolkit.data.sources import feeds_of_loader
from toolkit.run.job import Job


class Fingerprints:
    """SHA-256 of the files that a job reads; those of one file are computed once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._known: dict[Path, str] = {}
        self._samples: dict[str, str] = {}

    def of(self, path: Path) -> str:
        """SHA-256 of a file or folder; empty where there is none."""
        if path not in self._known:
            self._known[path] = path_fingerprint(path) if path.exists() else ""
        return self._known[path]

    def of_data(self, data: str | None) -> str:
        """SHA-256 of a recipe's data, or of the module that gives it."""
        if data is None:
            return ""
        if is_given(data):
            if data not in self._samples:
                self._samples[data] = samples_print(taken(data))
            return self._samples[data]
        if self.job.names_code(data):
            return module_fingerprint(data.partition(":")[0])
        return self.of_file(data)

    def of_file(self, path: str | None) -> str:
        """SHA-256 of a file that the recipe names."""
        return self.of(self.job.recipe.resolve(path)) if path is not None else ""

    def of_weights(self) -> list[str]:
        """SHA-256 of each file of weights that lies beside the float model."""
        return [self.of(path) for path in (self.job.header.external if self.job.header is not None else ())]

    def of_model(self) -> list[str]:
        """The float model: its file and the files of its weights."""
        return [self.of(self.job.model_path), *self.of_weights()]

    def same_samples(self, data: str, other: str | None) -> bool:
        """Whether both name the same samples; of code in one file it is the names that tell."""
        code = other is not None and self.job.names_code(data) and self.job.names_code(other)
        if code and not (is_given(data) and is_given(other or "")):
            return data == other
        return self.of_data(data) == self.of_data(other)


def samples_print(loader: Any) -> str:
    """SHA-256 over all samples of a data loader that was given: it is read once for that.

    One that can be read only once gives another value each time: nothing made with it is found again.

    Raises:
        DataError: the loader failed, or gives no dictionaries.
    """
    if isinstance(loader, Iterator):
        return uuid4().hex
    digest = hashlib.sha256()
    for feed in feeds_of_loader(loader, "the iterable"):
        for name, values in sorted(feed.items()):
            digest.update(f"{name}\0{values.dtype}\0{values.shape}\0".encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
