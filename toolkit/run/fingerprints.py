"""Fingerprints of what a recipe reads, computed once a run."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import Any

from toolkit.base.code import load_object
from toolkit.base.errors import DataError
from toolkit.base.given import is_given
from toolkit.base.profiles import Shape
from toolkit.base.reads import aside
from toolkit.base.types import Array
from toolkit.base.versions import path_fingerprint
from toolkit.contract.findings import Finding
from toolkit.data.codes import DataCode
from toolkit.data.sources import HeldSamples, LoadedSamples, feeds_of_loader, sample_digest
from toolkit.run.job import Job
from toolkit.run.state import RunState

_HELD_BYTES = 256 << 20


class Fingerprints:
    """SHA-256 of what a job reads; for each file or loader it is computed once.

    Data from code is known only by its samples: all of them are read for their fingerprint, and held in memory where
    they are few, so that they need not be read again.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._known: dict[Path, str] = {}
        self._seen: dict[Path, list[tuple[str, int, int, int]]] = {}
        self._samples: dict[Any, tuple[str, HeldSamples | LoadedSamples]] = {}

    def of(self, path: Path) -> str:
        """SHA-256 of a file or folder; empty where there is none."""
        if path not in self._known:
            self._seen[path] = _looks(path)
            self._known[path] = path_fingerprint(path) if path.exists() else ""
        return self._known[path]

    def require_unchanged(self) -> None:
        """Check that no file has changed since its fingerprint was taken, so that the key holds for what was read.

        Raises:
            DataError: one has; a result kept under its old fingerprint would belong to neither content.
        """
        for path, before in self._seen.items():
            if _looks(path) != before:
                raise DataError(
                    "it was changed while it was being read", where=str(path), remedy="run again when it is complete"
                )

    def of_data(self, data: str | None) -> str:
        """SHA-256 of a recipe's data: of its files, or of all samples where code supplies them.

        Raises:
            DataError: the code failed, or yields no dictionaries.
        """
        if data is None:
            return ""
        return self._read(data)[0] if self.job.names_code(data) else self.of_file(data)

    def from_code(self) -> dict[str, str]:
        """``of_data`` of data from code, by its use and its name in the recipe."""
        recipe = self.job.recipe
        named = {"calibration": recipe.calibration.data, "evaluation": recipe.evaluation.data}
        return {
            f"{use} {data}": self.of_data(data)
            for use, data in named.items()
            if data is not None and self.job.names_code(data)
        }

    def other_samples(self) -> list[Finding]:
        """Findings of uses whose code yields samples other than those of the results in the run folder."""
        before = RunState.load(self.job.folder.path).samples
        changed = [name.split(" ", 1) for name, found in self.from_code().items() if before.get(name, found) != found]
        return [DataCode.OTHER_SAMPLES(use=use, data=_spoken(data)) for use, data in changed]

    def given(self, data: str) -> HeldSamples | LoadedSamples:
        """The samples that code yields, where they are few enough to be held; else the code, which is asked again.

        Raises:
            DataError: see ``of_data``.
        """
        return self._read(data)[1]

    def _read(self, data: str) -> tuple[str, HeldSamples | LoadedSamples]:
        with aside():
            loader = load_object(data, self.job.allow_code, "data")
            # two names may stand for one object, and one name for two
            place = data if type(data) is str else id(loader)
            if place not in self._samples:
                self._samples[place] = samples_read(loader, _spoken(data))
        return self._samples[place]

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
        """Whether both name the same samples."""
        return self.of_data(data) == self.of_data(other)


def _looks(path: Path) -> list[tuple[str, int, int, int]]:
    """What the system reports about a file, or all files in a folder: enough to notice a change within one run."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = []
    for file in files:
        try:
            said = file.stat()
        except OSError:
            continue
        if not stat.S_ISDIR(said.st_mode):
            found.append((str(file), said.st_ino, said.st_size, said.st_mtime_ns))
    return found


def _spoken(data: str) -> str:
    """What messages call the data."""
    return "the iterable" if is_given(data) else data


def samples_read(loader: Any, name: str) -> tuple[str, HeldSamples | LoadedSamples]:
    """SHA-256 over all samples of a loader, and the samples themselves, or what yields them again.

    They are held where they are few, and in any case for an iterator, which can be read only once.

    Raises:
        DataError: the loader failed, or yields no dictionaries.
    """
    digest = hashlib.sha256()
    held: list[dict[str, Array]] | None = []
    digests: list[bytes] = []
    shapes: list[dict[str, Shape]] = []
    size, once = 0, hasattr(loader, "__next__")
    for feed in feeds_of_loader(loader, name):
        digests.append(sample_digest(feed))
        shapes.append({key: values.shape for key, values in feed.items()})
        digest.update(digests[-1])
        digest.update(repr([(key, values.tolist()) for key, values in feed.items() if values.dtype.hasobject]).encode())
        size += sum(values.nbytes for values in feed.values())
        if held is not None:
            # a loader may fill the same arrays again
            held.append({key: values.copy() for key, values in feed.items()})
        if size > _HELD_BYTES and not once:
            held = None
    samples = HeldSamples(name, held) if held is not None else LoadedSamples(name, loader, digests, shapes)
    return digest.hexdigest(), samples
