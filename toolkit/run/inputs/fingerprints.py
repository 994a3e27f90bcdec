"""Fingerprints of the files and samples that a recipe reads, computed once per run."""

from __future__ import annotations

import hashlib
import math
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from toolkit.base.code import load_object
from toolkit.base.errors import DataError, QtoolError
from toolkit.base.files import file_state
from toolkit.base.given import is_given
from toolkit.base.profiles import Shape
from toolkit.base.progress import Activity, Progress, silent
from toolkit.base.reads import aside
from toolkit.base.types import Array
from toolkit.base.versions import path_fingerprint
from toolkit.calibration.collection_file import collection_arrays
from toolkit.calibration.interchange import require_ranges
from toolkit.contract.findings import Finding
from toolkit.data.codes import DataCode
from toolkit.data.loaders import arrays_of, feeds_once, length_of, most_held, too_large
from toolkit.data.sources import HeldSamples, LoadedSamples, require_headers, sample_digest
from toolkit.run.folder.state import RunState
from toolkit.run.job import Job

_HELD_BYTES = 256 << 20
_LOOKED = 16_384
"""Number of samples after which a loader without a length is treated as endless."""
_TOLD = 64
_COMPARED = 2
"""Number of samples that are read a second time; the first may be the same even if the loader shuffles."""


class Fingerprints:
    """SHA-256 of the files and samples that a job reads; each is computed once.

    Samples from user code are all read for their fingerprint. Small data sets are then held in memory, so that they
    need not be read again.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._known: dict[Path, str] = {}
        self._seen: dict[Path, list[tuple[str | int, ...]]] = {}
        self._samples: dict[Any, SamplesRead] = {}

    def of(self, path: Path) -> str:
        """SHA-256 of a file or folder; empty if it does not exist."""
        if path not in self._known:
            self._seen[path] = _looks(path)
            self._known[path] = path_fingerprint(path) if path.exists() else ""
        return self._known[path]

    def require_unchanged(self) -> None:
        """Check that no file has changed since its fingerprint was taken, so that keys match the data that was read.

        Raises:
            DataError: a file has changed; a result with the old fingerprint would belong to neither content.
        """
        for path, before in self._seen.items():
            if _looks(path) != before:
                raise DataError(
                    "it was changed while it was being read", where=str(path), remedy="run again when it is complete"
                )

    def of_data(self, data: str | None) -> str:
        """SHA-256 of a recipe's data: of its files, or of all samples if code supplies them.

        Raises:
            DataError: the code failed, or does not yield dictionaries; or a file, which may be huge, has no headers of
                samples.
        """
        if data is None:
            return ""
        if self.job.names_code(data):
            return self._read(data).print
        require_headers(self.job.recipe.resolve(data))
        return self.of_file(data)

    def from_code(self) -> dict[str, str]:
        """``of_data`` for data from code, keyed by use and name in the recipe."""
        recipe = self.job.recipe
        named = {"calibration": recipe.calibration.data, "evaluation": recipe.evaluation.data}
        return {
            f"{use} {data}": self.of_data(data)
            for use, data in named.items()
            if data is not None and self.job.names_code(data)
        }

    def loader_notes(self) -> list[Finding]:
        """Findings about code whose samples do not end, change when read again, or differ from the last run's."""
        before = RunState.load(self.job.folder.path).samples
        changed = [name.split(" ", 1) for name, found in self.from_code().items() if before.get(name, found) != found]
        notes = dict.fromkeys(note for read in self._samples.values() for note in read.notes)
        return [*notes, *(DataCode.OTHER_SAMPLES(use=use, data=_spoken(data)) for use, data in changed)]

    def given(self, data: str) -> HeldSamples | LoadedSamples:
        """The samples that code yields, in memory if they are few; otherwise a loader that calls the code again.

        Raises:
            DataError: see ``of_data``.
        """
        return self._read(data).samples

    def _read(self, data: str) -> SamplesRead:
        with aside():
            loader = self._loader(data)
            # two names may refer to one object, and one name to two
            place = data if type(data) is str else id(loader)
            if place not in self._samples:
                self._samples[place] = samples_read(loader, _spoken(data), self._wanted(loader), self.job.progress)
        return self._samples[place]

    def _loader(self, data: str) -> Any:
        try:
            return load_object(data, self.job.allow_code, "data")
        except QtoolError as error:
            recipe = self.job.recipe
            tables = [name for name in ("calibration", "evaluation") if getattr(recipe, name).data == data]
            if tables:
                error.at(recipe.locate(tables[0], "data"))
            raise

    def _wanted(self, loader: Any) -> int | None:
        """The largest number of samples of a loader that the recipe uses; None if unlimited."""
        calibration, evaluation = self.job.recipe.calibration, self.job.recipe.evaluation
        counts: list[int | None] = []
        if self._names(calibration.data, loader):
            share = 1.0 if evaluation.data is not None else 1 - evaluation.hold_out
            counts.append(None if calibration.samples is None else math.ceil(calibration.samples / share))
        if self._names(evaluation.data, loader):
            counts.append(evaluation.samples)
        known = [number for number in counts if number is not None]
        return max(known) if known and len(known) == len(counts) else None

    def _names(self, data: str | None, loader: Any) -> bool:
        if data is None or not self.job.names_code(data):
            return False
        return load_object(data, self.job.allow_code, "data") is loader

    def of_file(self, path: str | None) -> str:
        """SHA-256 of a file named in the recipe; empty if ``path`` is None."""
        return self.of(self.job.recipe.resolve(path)) if path is not None else ""

    def of_ranges(self) -> str:
        """SHA-256 of the given ranges; empty if the recipe gives none.

        Raises:
            RangesError: the file, which may be huge, holds no ranges.
        """
        path = self.job.recipe.calibration.ranges
        if path is not None:
            require_ranges(self.job.recipe.resolve(path))
        return self.of_file(path)

    def of_collection(self) -> str:
        """SHA-256 of the given collection; empty if the recipe gives none.

        Raises:
            RangesError: the file, which may be huge, is not a collection.
        """
        path = self.job.recipe.calibration.collection
        if path is not None:
            collection_arrays(self.job.recipe.resolve(path))
        return self.of_file(path)

    def of_weights(self) -> list[str]:
        """SHA-256 of each external weight file of the float model."""
        return [self.of(path) for path in (self.job.header.external if self.job.header is not None else ())]

    def of_model(self) -> list[str]:
        """SHA-256 of the float model's file and of each external weight file."""
        return [self.of(self.job.model_path), *self.of_weights()]

    def same_samples(self, data: str, other: str | None) -> bool:
        """Whether both name the same samples, compared by content."""
        files = [] if self.job.names_code(data) or other is None or self.job.names_code(other) else [data, other]
        paths = [path for path in map(self.job.recipe.resolve, files) if path.is_file()]
        # reading both for their fingerprints takes long if they are large
        if len(paths) == 2 and paths[0].stat().st_size != paths[1].stat().st_size:
            return False
        return self.of_data(data) == self.of_data(other)


def _looks(path: Path) -> list[tuple[str | int, ...]]:
    """Path and state of a file or of all files in a folder, to detect changes in one run."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found: list[tuple[str | int, ...]] = []
    for file in files:
        try:
            said = file.stat()
        except OSError:
            continue
        if not stat.S_ISDIR(said.st_mode):
            found.append((str(file), *file_state(said)))
    return found


def _spoken(data: str) -> str:
    """The name of the data in messages."""
    return "the iterable" if is_given(data) else data


@dataclass(frozen=True)
class SamplesRead:
    """The result of reading a loader's samples for the first time.

    Attributes:
        print: SHA-256 of all samples.
        samples: the samples themselves, or a source that yields them again.
        notes: findings about the loader.
    """

    print: str
    samples: HeldSamples | LoadedSamples
    notes: tuple[Finding, ...] = ()


def samples_read(loader: Any, name: str, wanted: int | None = None, progress: Progress = silent) -> SamplesRead:
    """Read all samples of a loader, once.

    They are held in memory if they are few, and always for an iterator, which can be read only once.

    Args:
        loader: see ``repeatable``.
        name: its name in messages.
        wanted: how many samples are used. If given, only this many are taken of a loader that has no length and does
            not end within the first ``wanted`` or ``_LOOKED`` samples, whichever is more.
        progress: called with the number of samples read.

    Raises:
        DataError: the loader failed, does not yield dictionaries, or does not end.
    """
    held: list[dict[str, Array]] | None = []
    digests: list[bytes] = []
    objects: list[bytes] = []
    shapes: list[dict[str, Shape]] = []
    size, once, most = 0, hasattr(loader, "__next__"), most_held()
    feeds = feeds_once(loader, name)
    unsized, limit = length_of(feeds, name) is None, None
    looked = max(wanted or 0, _LOOKED)
    for number, feed in enumerate(arrays_of(feeds, name)):
        full = once and size > most
        if wanted is not None and unsized and number >= wanted and (full or number == looked):
            limit = wanted
            break
        if full:
            raise too_large(number, size, name)
        if not number % _TOLD:
            progress(_reading(name, number), 0, 1)
        digests.append(sample_digest(feed))
        shapes.append({key: values.shape for key, values in feed.items()})
        of_objects = [(key, values.tolist()) for key, values in feed.items() if values.dtype.hasobject]
        objects.append(repr(of_objects).encode())
        size += sum(values.nbytes for values in feed.values())
        if held is not None:
            # a loader may reuse its arrays for the next sample
            held.append({key: values.copy() for key, values in feed.items()})
        if size > _HELD_BYTES and not once:
            held = None
    progress(_reading(name, len(digests)), 1, 1)
    notes = []
    if limit is not None:
        notes.append(DataCode.LOADER_CUT(data=name, read=len(digests), used=limit))
        digests, shapes = digests[:limit], shapes[:limit]
    if held is not None and not once and _differ(loader, name, digests):
        notes.append(DataCode.UNSTEADY(data=name))
    digest = hashlib.sha256()
    for one, other in zip(digests, objects):
        digest.update(one)
        digest.update(other)
    if held is None:
        return SamplesRead(digest.hexdigest(), LoadedSamples(name, loader, digests, shapes, limit), tuple(notes))
    return SamplesRead(digest.hexdigest(), HeldSamples(name, held[:limit]), tuple(notes))


def _reading(name: str, number: int) -> Activity:
    unending = ", no end so far" if number > _LOOKED else ""
    return Activity(f"reading the samples of {name}", part=f"{number:,}{unending}")


def _differ(loader: Any, name: str, digests: Sequence[bytes]) -> bool:
    """Whether the first samples differ in values or order when a loader is read again.

    False if the loader cannot be read again; a list or tuple is not read again.
    """
    if isinstance(loader, (list, tuple)):
        return False
    compared = min(_COMPARED, len(digests))
    try:
        again = [sample_digest(feed) for feed in islice(arrays_of(feeds_once(loader, name), name), compared)]
    except DataError:
        return False
    return bool(again) and again != list(digests[: len(again)])
