"""The state of a collection run on disk, so that a killed run resumes from its last saved batch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from toolkit.base.errors import QtoolError, RangesError
from toolkit.base.files import writing
from toolkit.base.reading import FileKind
from toolkit.base.schema import FileSchema, Natural, validated
from toolkit.calibration.collection import Collection, differences
from toolkit.data.dataset import Batch, Keep

GROUPS = "groups"
"""The key's entry for the groups of taps collected one after the other, which depend on the memory allowed."""
_SAVE_EVERY = 20.0
_KIND = FileKind("it cannot be read as the state of a calibration", RangesError, "remove the file to start over")


class CheckpointState(FileSchema):
    """What a checkpoint's collection was made from: the run's key and its progress."""

    key: dict[str, Any]
    group: Natural
    total: Natural
    done: Annotated[str, Field(pattern=r"^[0-9a-f]+$")]


class Checkpoint:
    """Which samples are done for which group of taps, and their statistics.

    Args:
        path: the file; None saves nothing.
        key: fingerprints and settings of the run.

    Raises:
        RangesError: the file is of another run; the message names the difference.
    """

    def __init__(self, path: Path | None, key: Mapping[str, Any]) -> None:
        self._path, self._key = path, dict(key)
        self.collection = Collection()
        self.group = 0
        self.total = 0
        self._indices: set[int] = set()
        self._saved = time.monotonic()
        if path is not None and path.exists():
            self._resume(path)

    def _resume(self, path: Path) -> None:
        try:
            held = Collection.load(path)
            state = validated(CheckpointState, held.made_from, path, _KIND)
        except QtoolError:
            # without a complete state the run starts over
            return
        for key, difference in differences(state.key, self._key, ignore=(GROUPS,)):
            raise RangesError(
                f"the checkpoint is of another run, which differs in {key}: {difference}",
                where=str(path),
                remedy="remove the file to start over",
            )
        if state.key.get(GROUPS) != self._key.get(GROUPS):
            # the same tensors in other groups: those that are done do not apply
            return
        self.collection, self.group, self.total = held, state.group, state.total
        bits = int(state.done, 16)
        self._indices = {index for index in range(bits.bit_length()) if bits >> index & 1}
        held.made_from = {}

    def left(self, keep: Keep | None) -> Keep | None:
        """Which of the samples that ``keep`` accepts are still to be done."""
        done = frozenset(self._indices)
        if not done:
            return keep
        return lambda index: index not in done and (keep is None or keep(index))

    def done(self, group: int, batch: Batch) -> None:
        """Record that a batch's statistics are in the collection."""
        self.total += batch.count
        self._indices.update(batch.indices)
        if self._path is not None and time.monotonic() - self._saved > _SAVE_EVERY:
            self._save(group)

    def finish(self, group: int) -> None:
        """Record that all samples are done for a group of taps."""
        self._indices.clear()
        if self._path is not None:
            self._save(group + 1)

    def _save(self, group: int) -> None:
        assert self._path is not None
        bits = 0
        for index in self._indices:
            bits |= 1 << index
        self.collection.made_from = {"key": self._key, "group": group, "total": self.total, "done": f"{bits:x}"}
        self.collection.save(self._path)
        self.collection.made_from = {}
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Remove the file: the run is over."""
        if self._path is not None:
            with writing(self._path):
                self._path.unlink(missing_ok=True)
