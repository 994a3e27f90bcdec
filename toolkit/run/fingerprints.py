"""Fingerprints of what a recipe reads: computed once a run, without importing any code."""

from __future__ import annotations

from pathlib import Path

from toolkit.base.given import is_given, samples_print
from toolkit.base.versions import module_fingerprint, path_fingerprint
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
                self._samples[data] = samples_print(data)
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
        if other is not None and self.job.names_code(data) and self.job.names_code(other):
            return data == other
        return self.of_data(data) == self.of_data(other)
