"""Checkpoints of an evaluation, to resume it after an interruption: outputs, and sums of layer errors.

Outputs are kept rather than the state of a metric, which may be an object of the user's; all outputs are compared
again, in the same order, so that the result equals that of an uninterrupted run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper
from pydantic import Field

from toolkit.base.array_files import write_arrays
from toolkit.base.errors import QtoolError, WriteError
from toolkit.base.reading import OWN, parse_json, reading
from toolkit.base.schema import FileSchema, Natural, validated
from toolkit.base.types import Array
from toolkit.data.arrays import Stored, open_archive
from toolkit.evaluation.comparison.clipping import Clipping
from toolkit.evaluation.numerics.difference import Difference
from toolkit.graph.surgery.tensors import arrays_digest

Outputs = Mapping[str, Array]
_SAVE_EVERY = 20.0
_ROOM, _HELD = 512 << 20, 64 << 20
_SUMS = ("signal", "noise", "cross", "power", "max_abs", "broken")
_SEEN = tuple(one.name for one in fields(Clipping) if one.name != "amax")


class KeptBatch(FileSchema):
    """The outputs of one batch by model, the float model first: name, ONNX type and shape of each."""

    inputs: str
    outputs: list[list[tuple[str, Natural, list[Natural]]]]


class KeptOutputs(FileSchema):
    """Consecutive batches, and the byte order of their values as in ``sys.byteorder``."""

    batches: list[KeptBatch]
    byte_order: str


class KeptSums(FileSchema):
    """The progress of the layer errors.

    Attributes:
        groups: number of groups of tensors that are done.
        batches: number of batches of the next group that are done.
        samples: number of samples in these batches.
        counted: number of samples in a whole group; 0 before the first is done.
        compared: the nodes compared so far.
        way: a digest of the groups and samples, which depend on the memory limit.
    """

    groups: Natural = 0
    batches: Natural = 0
    samples: Natural = 0
    counted: Natural = 0
    compared: list[str] = Field(default_factory=list)
    way: str = ""

    def took(self, samples: int, compared: Iterable[str]) -> None:
        """Record that a batch of ``samples`` is done, on which the nodes ``compared`` were compared."""
        self.batches, self.samples = self.batches + 1, self.samples + samples
        self.compared = list(dict.fromkeys([*self.compared, *compared]))

    def next_group(self) -> None:
        """Record that all samples are done for a group."""
        self.counted, self.groups, self.batches, self.samples = self.samples, self.groups + 1, 0, 0


@dataclass(frozen=True)
class _JudgedBatch:
    inputs: str
    outputs: Sequence[Outputs]

    @property
    def bytes(self) -> int:
        return sum(value.nbytes for outputs in self.outputs for value in outputs.values())


class EvaluationCheckpoint:
    """Saves intermediate results of an evaluation to files in a folder.

    Args:
        folder: the folder; None saves nothing.
        key: a digest of everything the result depends on.
        clears: whether to remove files of evaluations with another key.

    Attributes:
        refused: the error since which nothing is saved, such as a full disk; the evaluation goes on, since its result
            needs far less space. None without an error.
    """

    refused: WriteError | None = None

    def __init__(self, folder: Path | None = None, key: str = "", clears: bool = True) -> None:
        self._folder, self._key, self._stem = folder, key, f"evaluation-{key}."
        self._saved = time.monotonic()
        self._number, self._room = 0, _ROOM
        self._new, self._held = list[_JudgedBatch](), 0
        for path in self._files() if clears else ():
            if not path.name.startswith(self._stem):
                path.unlink(missing_ok=True)
        self._known = self._read()

    def outputs(
        self, inputs: Outputs, compute: Callable[[Outputs], Sequence[Outputs]], models: int = 2
    ) -> Sequence[Outputs]:
        """All models' outputs for the next batch: those saved for exactly the same inputs, else from ``compute``."""
        if self._folder is None:
            return compute(inputs)
        digest = arrays_digest(inputs)
        known = next(self._known, None)
        if known is not None and known.inputs == digest and len(known.outputs) == models:
            return known.outputs
        self._known = iter(())
        made = _JudgedBatch(digest, compute(inputs))
        self._keep(made)
        return made.outputs

    def precomputed(self) -> EvaluationCheckpoint:
        """A checkpoint for the outputs of a model that is run on all samples before the others; see ``outputs``."""
        return EvaluationCheckpoint(self._folder, f"{self._key}.ahead", clears=False)

    def close(self) -> None:
        """Write the batches still in memory; to be called at the end."""
        if self._new:
            self._write()

    def go_on(self, found: Mapping[str, Difference], watched: Mapping[str, Clipping], way: str) -> KeptSums:
        """The progress of the layer errors in an earlier run with the same ``way``; restores the sums."""
        state = KeptSums(way=way)
        if self._folder is not None and (path := self._sums_path).is_file():
            with suppress(QtoolError):
                head, arrays = _load(path, KeptSums)
                with reading(path, OWN):
                    sums, seen = (arrays[name].whole().reshape(-1, len(of)).astype(np.float64).tolist()
                                  for name, of in (("sums", _SUMS), ("seen", _SEEN)))  # fmt: skip
                    if (len(sums), len(seen), head.way) != (len(found), len(watched), way):
                        raise ValueError("it is of other tensors, or of other groups of them")
                _fill(found.values(), _SUMS, sums)
                _fill(watched.values(), _SEEN, seen)
                state = head
        return state

    def summed(self, state: KeptSums, found: Mapping[str, Difference], watched: Mapping[str, Clipping]) -> None:
        """Save the sums if due; they include the batches up to ``state``."""
        if self._folder is not None and self._due() and self.refused is None:
            arrays = {"sums": _rows(found.values(), _SUMS), "seen": _rows(watched.values(), _SEEN)}
            self._save(self._sums_path, state, arrays)

    def remove(self) -> None:
        """Remove the files, when the evaluation is complete."""
        for path in self._files():
            path.unlink(missing_ok=True)

    # ---------------------------------------------------------------- files

    @property
    def _sums_path(self) -> Path:
        assert self._folder is not None
        return self._folder / f"{self._stem}layers.part"

    def _part(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{self._stem}{number:04d}.part"

    def _files(self) -> Iterable[Path]:
        return list(self._folder.glob("evaluation-*.part")) if self._folder is not None else []

    def _due(self) -> bool:
        return time.monotonic() - self._saved > _SAVE_EVERY

    def _keep(self, batch: _JudgedBatch) -> None:
        """Hold a batch until its file is written; after one that does not fit or holds no numbers, none is saved."""
        numbers = all(value.dtype.kind != "O" for outputs in batch.outputs for value in outputs.values())
        self._room = self._room - batch.bytes if numbers and self.refused is None else -1
        if self._room < 0:
            return
        self._new.append(batch)
        self._held += batch.bytes
        if self._due() or self._held > _HELD:
            self._write()

    def _write(self) -> None:
        packed = {f"{number}": value for number, value in enumerate(_raw(self._new))}
        head = KeptOutputs(batches=[_described(one) for one in self._new], byte_order=sys.byteorder)
        self._save(self._part(self._number), head, packed)
        self._number += 1
        self._new, self._held = [], 0

    def _save(self, path: Path, head: FileSchema, arrays: Mapping[str, Array]) -> None:
        """Write a file; sets ``refused`` if it cannot be written."""
        try:
            _save(path, head, arrays)
        except WriteError as error:
            self.refused = error.apart()
        self._saved = time.monotonic()

    def _read(self) -> Iterator[_JudgedBatch]:
        """The saved batches in order, up to the first file that is missing or damaged."""
        while self._folder is not None and (path := self._part(self._number)).is_file():
            try:
                head, arrays = _load(path, KeptOutputs)
                with reading(path, OWN):
                    if head.byte_order != sys.byteorder:
                        raise ValueError("it is of a machine with the other byte order")
                    values = (arrays[f"{number}"].whole() for number in range(len(arrays)))
                    batches = [_unpacked(one, values) for one in head.batches]
            except QtoolError:
                return
            self._number += 1
            self._room -= sum(batch.bytes for batch in batches)
            yield from batches


def _described(batch: _JudgedBatch) -> KeptBatch:
    described = [[(name, helper.np_dtype_to_tensor_dtype(value.dtype), list(value.shape))
                  for name, value in outputs.items()] for outputs in batch.outputs]  # fmt: skip
    return KeptBatch(inputs=batch.inputs, outputs=described)


def _raw(batches: Sequence[_JudgedBatch]) -> Iterator[Array]:
    """The outputs as uint8, since numpy files do not preserve types that numpy itself does not have."""
    for batch in batches:
        for outputs in batch.outputs:
            for value in outputs.values():
                yield np.ascontiguousarray(value).reshape(-1).view(np.uint8)


def _unpacked(batch: KeptBatch, values: Iterator[Array]) -> _JudgedBatch:
    made = [{name: np.frombuffer(next(values).tobytes(), helper.tensor_dtype_to_np_dtype(kind)).reshape(shape)
             for name, kind, shape in outputs} for outputs in batch.outputs]  # fmt: skip
    return _JudgedBatch(batch.inputs, made)


def _rows(held: Iterable[Any], names: Sequence[str]) -> Array:
    return np.array([[float(getattr(one, name)) for name in names] for one in held], np.float64)


def _fill(held: Iterable[Any], names: Sequence[str], rows: Iterable[Sequence[float]]) -> None:
    for one, row in zip(held, rows):
        for name, value in zip(names, row):
            setattr(one, name, type(getattr(one, name))(value))


def _save(path: Path, head: FileSchema, arrays: Mapping[str, Array]) -> None:
    write_arrays(path, {"head": np.array(head.model_dump_json()), **arrays})


def _load(path: Path, kind: type[Any]) -> tuple[Any, dict[str, Stored]]:
    arrays = open_archive(path, OWN)
    with reading(path, OWN):
        head = parse_json(str(arrays.pop("head").whole()[0]), path, OWN)
    return validated(kind, head, path, OWN), arrays
