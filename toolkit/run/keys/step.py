"""What a step of a run is: a key, a result, and where the result is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr

from toolkit.base.files import write_text
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
    """What a step found out. What is large (models, engines, ranges) lies beside it, in files of the run folder.

    Attributes:
        files: those files, relative to the run folder.
        unfollowed: why it is not known what code of the user's read for it, so that it is made again the next time.
    """

    # what is no number is read back as what it was, not as missing
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, ser_json_inf_nan="constants")
    files: list[str] = []
    unfollowed: list[str] = []
    _folder: Path = PrivateAttr(default_factory=Path)
    _file: Path | None = PrivateAttr(None)

    @property
    def final(self) -> bool:
        """Whether the next run may take this result; not where it is a failure whose cause may be gone by then."""
        return True

    @property
    def said(self) -> list[Finding]:
        """What the user must be told when the step is done, before the next ones."""
        return []

    def path(self, name: str) -> Path | None:
        """Where one of the files lies; None where the step did not write it."""
        return self._folder / name if name in self.files else None

    def content(self) -> dict[str, Any]:
        """The whole record as JSON; files are in it by name only."""
        return self.model_dump(mode="json")

    def key(self) -> Any:
        """The whole record in few bytes, for the keys of later steps: its content where it was not kept."""
        return hashes(self._file) if self._file is not None else self.content()

    def kept_in(self: R, folder: Path, file: Path | None = None) -> R:
        """This record as kept in ``file``, its files in ``folder``."""
        self._folder, self._file = folder, file
        return self


class GraphRecord(Record):
    """A record with a graph in a file beside it, which is loaded once, unless the step has just made it."""

    model_file: ClassVar[str]
    _model: Model | None = PrivateAttr(None)
    _hashed: tuple[list[tuple[int, int]], list[str]] | None = PrivateAttr(None)

    @property
    def model_path(self) -> Path:
        """The graph's file."""
        return self._folder / self.model_file

    def model(self) -> Model:
        """The graph; to change it, take a copy."""
        from toolkit.graph.model import Model

        if self._model is None:
            self._model = Model.load(self.model_path).settle()
        return self._model

    def holding(self: G, model: Model) -> G:
        """This record with the graph that was written, which is settled.

        A graph whose weights went to a separate file is read again: they are mapped then, and take no memory.
        """
        from toolkit.graph.proto.light import fits_message

        if fits_message(model.weight_bytes()):
            self._model = model
        return self

    def model_key(self) -> list[str]:
        """The graph's content; read again only where a file has been written since."""
        stats = [path.stat() for name in self.files if (path := self._folder / name).is_file()]
        looks = [(one.st_size, one.st_mtime_ns) for one in stats]
        if self._hashed is None or self._hashed[0] != looks:
            self._hashed = looks, model_hash(self.model_path)
        return self._hashed[1]


class Step(ABC, Generic[R]):
    """A part of a run whose result is kept in the run folder, and reused where its key is the same.

    It knows the job's inputs and the records of the steps before it, nothing else.

    Attributes:
        name: what users see, and the name of the record's file.
        kind: the record's class.
        leaves: files that it writes into the run folder where there is something to write. A file that the record does
            not name belongs to another run, which was killed: it is removed.
    """

    name: ClassVar[str]
    kind: type[R]
    leaves: ClassVar[tuple[str, ...]] = ()

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.job = inputs, inputs.job
        self.recipe, self.folder = inputs.job.recipe, inputs.job.folder

    @abstractmethod
    def key(self) -> Mapping[str, Any]:
        """All that the result depends on, as content, part by part."""

    def calls_users_code(self) -> bool:
        """Whether code of the user's contributes to the result: then what it reads is kept with it."""
        return False

    @abstractmethod
    def run(self) -> R:
        """Do the step; files that are named in the record are written, the record is not."""

    def load(self) -> R:
        """The record that was kept."""
        text = self._file.read_text(encoding="utf-8")
        return self.kind.model_validate_json(text).kept_in(self.folder.path, self._file)

    def keep(self, record: R, key: Mapping[str, Any], why: str) -> R:
        """Write the record, and note in the run folder that the step is done; ``why`` it was not reused.

        Raises:
            DataError: an input was changed meanwhile: it is not known which content the result is from.
        """
        self.inputs.prints.require_unchanged()
        for left in set(self.leaves) - set(record.files):
            (self.folder.path / left).unlink(missing_ok=True)
        own = [self._file, *(self.folder.path / name for name in record.files)]
        needs = needs_now() if self.calls_users_code() else None
        record.unfollowed = list(needs.unknown) if needs is not None else []
        # in a third of the time that it takes to make its content first
        write_text(self._file, record.model_dump_json())
        self.folder.store(self.name, key, own, why, needs)
        return record.kept_in(self.folder.path, self._file)

    @property
    def _file(self) -> Path:
        return self.folder.hidden / f"{self.name}.json"


def relative(folder: RunFolder, *paths: Path) -> list[str]:
    """Files of the run folder as records name them."""
    # what lies elsewhere keeps its name, and the run folder refuses it
    return [(path.relative_to(folder.path) if path.is_relative_to(folder.path) else path).as_posix() for path in paths]
