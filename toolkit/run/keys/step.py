"""A step of a run: a key, a result, and the file of the result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr

from toolkit.base.files import file_state, write_text
from toolkit.base.reads import needs_now
from toolkit.contract.findings import Finding
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.keys.keys import hashes, model_hash

if TYPE_CHECKING:
    from toolkit.graph.model import Model

R = TypeVar("R", bound="Record")
G = TypeVar("G", bound="GraphRecord")


class Record(BaseModel):
    """The result of a step. Large parts (models, engines, ranges) are separate files in the run folder.

    Attributes:
        files: those files, relative to the run folder.
        unfollowed: why the inputs of the user's code are not known, in which case the step runs again next time.
    """

    # NaN and infinity are read back as such, not as None
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, ser_json_inf_nan="constants")
    files: list[str] = []
    unfollowed: list[str] = []
    _folder: Path = PrivateAttr(default_factory=Path)
    _file: Path | None = PrivateAttr(None)

    @property
    def final(self) -> bool:
        """Whether the next run may reuse this result; not if it is a failure whose cause may be temporary."""
        return True

    @property
    def said(self) -> list[Finding]:
        """Findings that the user must see as soon as the step is done."""
        return []

    def path(self, name: str) -> Path | None:
        """The path of one of the files; None if the step did not write it."""
        return self._folder / name if name in self.files else None

    def content(self) -> dict[str, Any]:
        """The whole record as JSON, with the names of its files."""
        return self.model_dump(mode="json")

    def key(self) -> Any:
        """A short digest of the record for the keys of later steps, or its content if it was not stored."""
        return hashes(self._file) if self._file is not None else self.content()

    def kept_in(self: R, folder: Path, file: Path | None = None) -> R:
        """This record with ``file`` as its own file and ``folder`` as the folder of the others."""
        self._folder, self._file = folder, file
        return self


class GraphRecord(Record):
    """A record with a graph in a separate file, which is loaded at most once, and not if the step has just made it."""

    model_file: ClassVar[str]
    _model: Model | None = PrivateAttr(None)
    _hashed: tuple[list[tuple[int, ...]], list[str]] | None = PrivateAttr(None)

    @property
    def model_path(self) -> Path:
        """The graph's file."""
        return self._folder / self.model_file

    def model(self) -> Model:
        """The graph; copy it before changing it."""
        from toolkit.graph.model import Model

        if self._model is None:
            self._model = Model.load(self.model_path).settle()
        return self._model

    def holding(self: G, model: Model) -> G:
        """This record with the graph that was just written, which is settled.

        A graph with a separate weight file is loaded again instead: its weights are then memory-mapped.
        """
        from toolkit.graph.proto.light import fits_message

        if fits_message(model.weight_bytes()):
            self._model = model
        return self

    def model_key(self) -> list[str]:
        """Digests of the graph's files, computed again only if a file has been written since."""
        stats = [path.stat() for name in self.files if (path := self._folder / name).is_file()]
        looks = [file_state(one) for one in stats]
        if self._hashed is None or self._hashed[0] != looks:
            self._hashed = looks, model_hash(self.model_path)
        return self._hashed[1]


class Step(ABC, Generic[R]):
    """A part of a run whose result is kept in the run folder and reused if its key is the same.

    It depends only on the job's inputs and the records of earlier steps.

    Attributes:
        name: the name that users see, also of the record's file.
        kind: the record's class.
        leaves: optional files that it writes into the run folder. A file that the record does not name is a remnant of
            a killed run and is removed.
    """

    name: ClassVar[str]
    kind: type[R]
    leaves: ClassVar[tuple[str, ...]] = ()

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.job = inputs, inputs.job
        self.recipe, self.folder = inputs.job.recipe, inputs.job.folder

    @abstractmethod
    def key(self) -> Mapping[str, Any]:
        """Everything that the result depends on, as content, part by part."""

    def calls_users_code(self) -> bool:
        """Whether user code contributes to the result; if so, the files it reads are stored with the result."""
        return False

    @abstractmethod
    def run(self) -> R:
        """Execute the step; writes the files named in the record, but not the record."""

    def load(self) -> R:
        """Read the stored record."""
        text = self._file.read_text(encoding="utf-8")
        return self.kind.model_validate_json(text).kept_in(self.folder.path, self._file)

    def keep(self, record: R, key: Mapping[str, Any], why: str) -> R:
        """Store the record and register the step in the run folder; ``why`` tells why a result was not reused.

        Raises:
            DataError: an input changed meanwhile, so it is unknown which content the result belongs to.
        """
        self.inputs.prints.require_unchanged()
        for left in set(self.leaves) - set(record.files):
            (self.folder.path / left).unlink(missing_ok=True)
        own = [self._file, *(self.folder.path / name for name in record.files)]
        needs = needs_now() if self.calls_users_code() else None
        record.unfollowed = list(needs.unknown) if needs is not None else []
        # takes a third of the time of serializing through content()
        write_text(self._file, record.model_dump_json())
        self.folder.store(self.name, key, own, why, needs)
        return record.kept_in(self.folder.path, self._file)

    @property
    def _file(self) -> Path:
        return self.folder.hidden / f"{self.name}.json"


def relative(folder: RunFolder, *paths: Path) -> list[str]:
    """Paths in the run folder in the form that records use."""
    # a path outside the folder stays as it is, and the run folder refuses it
    return [(path.relative_to(folder.path) if path.is_relative_to(folder.path) else path).as_posix() for path in paths]
