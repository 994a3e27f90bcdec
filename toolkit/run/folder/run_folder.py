"""The steps of a run and their results: kept in the run folder and reused if their key is the same."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from toolkit.base.errors import QtoolError
from toolkit.base.files import PART, file_state, sha256_file, sha256_json, write_json, writing
from toolkit.base.needs import Needs
from toolkit.base.reading import own_json
from toolkit.run.folder.state import RunState

BUILD_LOG = "build.log"
"""TensorRT's log of building an engine, or of the failed build with a backend that ``auto`` chose."""
PREPARED = ".qtool/prepared.onnx"
"""The file of the graph after all passes: float32 with Q/DQ pairs, before lowering."""


@dataclass
class RunFolder:
    """A run's folder. ``.qtool/steps.json`` lists the steps' results with their key and the hash of each file.

    A step is reused only if its key is equal and every file it wrote is unchanged. Results of an earlier run stay until
    new ones replace them.

    Attributes:
        path: the folder.
        by_name: whether the folder was derived from the recipe's name instead of given by the user.
        read_only: whether results are only looked up and nothing is written.
    """

    path: Path
    by_name: bool = False
    read_only: bool = False
    _lock: int | None = None
    _digested: tuple[Mapping[str, Any], dict[str, str]] | None = None
    _read: tuple[tuple[int, ...], dict[str, Any]] | None = None

    @classmethod
    def of(cls, name: str, out: str | Path | None) -> RunFolder:
        """The folder ``out``, or if None the default folder for a recipe of that name."""
        return cls(Path(out)) if out is not None else cls(Path("runs") / name, by_name=True)

    @property
    def hidden(self) -> Path:
        """The folder of results that are not meant for people."""
        return self.path / ".qtool"

    def __enter__(self) -> RunFolder:
        if self.path.exists() and not self.path.is_dir():
            raise QtoolError("the run folder is a file", where=str(self.path), remedy="give another folder with --out")
        with writing(self.hidden):
            self.hidden.mkdir(parents=True, exist_ok=True)
            for own in (self.hidden, self.hidden / "lock"):
                # a link would create and lock a file at any place the folder's author chose
                if own.is_symlink():
                    raise QtoolError("this is a link, not qtool's own", where=str(own), remedy="remove it")
            flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            self._lock = os.open(self.hidden / "lock", flags, 0o666)
        _take(self._lock, self.path)
        with writing(self.path):
            for folder in (self.path, self.hidden):
                for part in folder.glob(f".*{PART}"):
                    part.unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _manifest(self) -> dict[str, Any]:
        """The entries of steps.json, in a dictionary of the caller's; the file is parsed only when it has changed."""
        path = self.hidden / "steps.json"
        try:
            # a file that replaces another exists beside it, so its number is another
            state = file_state(path.stat())
        except OSError:
            return {}
        if self._read is None or self._read[0] != state:
            content = own_json(path)
            self._read = state, content if isinstance(content, dict) else {}
        return dict(self._read[1])

    def update(self, **changes: Any) -> None:
        """Change entries of ``.qtool/state.json``, see ``RunState``."""
        state = RunState.load(self.path)
        changed = state.model_copy(update=changes)
        if changed != state:
            changed.save(self.path)

    def find(self, name: str, key: Mapping[str, Any]) -> tuple[bool, str]:
        """Whether the step has a result for this key, and the reason."""
        entry = self._manifest().get(name)
        if not isinstance(entry, dict):
            return False, "not done before"
        parts = self._parts(key)
        if entry.get("key") != sha256_json(parts):
            return False, _difference(entry.get("parts"), parts)
        damage = self.damage(name)
        if damage:
            return False, damage
        broken = Needs.read(entry["needs"]).broken() if entry.get("needs") is not None else ""
        return (False, broken) if broken else (True, "nothing it depends on changed")

    def damage(self, name: str) -> str:
        """Describe damage to a step's files, whatever its key; empty if all are as they were written."""
        entry = self._manifest().get(name)
        if not isinstance(entry, dict):
            return "not done before"
        files = entry.get("files")
        for file, digest in files.items() if isinstance(files, dict) else ():
            path = self._inside(file)
            if path is None:
                return f"steps.json names {file!r}, which is not in the run folder"
            if not path.is_file() or sha256_file(path) != digest:
                return f"{file} was changed or removed"
        return ""

    def knows(self, name: str) -> bool:
        """Whether the step was done before, with any key."""
        return isinstance(self._manifest().get(name), dict)

    def store(
        self,
        name: str,
        key: Mapping[str, Any],
        files: Sequence[Path],
        why: str = "",
        needs: Needs | None = None,
    ) -> None:
        """Record that a step is done; files of an earlier result that are not in ``files`` are removed.

        Args:
            name: the step.
            key: what the result depends on, as far as known beforehand.
            files: the files that the step wrote.
            why: why an earlier result was not reused.
            needs: files that the user's code read for it; None if no user code was involved.

        Raises:
            QtoolError: a file is outside the run folder or does not exist.
        """
        for path in files:
            if not path.is_relative_to(self.path):
                raise QtoolError(
                    f"step '{name}' wrote a file outside the run folder",
                    where=str(path),
                    remedy="a pass may name only files in the run folder as its own",
                )
            if not path.is_file():
                raise QtoolError(
                    f"step '{name}' named this file as its own, and it is not there",
                    where=str(path),
                    remedy="a pass writes a file into context.folder and then calls context.wrote with its path",
                )
        if self.read_only:
            return
        manifest = self._manifest()
        own = {path.relative_to(self.path).as_posix(): sha256_file(path) for path in files}
        self._remove(manifest.get(name), set(own))
        parts, self._digested = self._parts(key), None
        manifest[name] = {"key": sha256_json(parts), "why": why, "parts": parts, "files": own}
        if needs is not None:
            manifest[name]["needs"] = needs.model_dump(mode="json")
        write_json(self.hidden / "steps.json", manifest)

    def forget(self, *names: str) -> None:
        """Remove the entries of steps that are no longer needed, and their files."""
        manifest = self._manifest()
        if not set(names) & set(manifest):
            return
        for name in names:
            self._remove(manifest.pop(name, {}), set())
        write_json(self.hidden / "steps.json", manifest)

    def _remove(self, entry: Any, kept: Collection[str]) -> None:
        """Remove the files that an entry of steps.json names, except those in ``kept``."""
        files = entry.get("files") if isinstance(entry, dict) else None
        for file in set(files if isinstance(files, dict) else ()) - set(kept):
            path = self._inside(file)
            if path is not None and not path.is_dir():
                path.unlink(missing_ok=True)

    def _parts(self, key: Mapping[str, Any]) -> dict[str, str]:
        """The digest of each part of a key, cached because a step is looked up and then stored with the same key."""
        if self._digested is None or self._digested[0] is not key:
            self._digested = key, {name: sha256_json(value) for name, value in key.items()}
        return self._digested[1]

    def _inside(self, file: str) -> Path | None:
        """The path of a file named in steps.json, which is untrusted; None if it is outside the folder."""
        parts = PurePosixPath(file).parts
        if not parts or ".." in parts or "\0" in file or PurePosixPath(file).is_absolute() or Path(file).is_absolute():
            return None
        root, path = self.path.resolve(), self.path / file
        try:
            # resolve the parent folder only: a link is removed as a link
            folder = path.parent.resolve()
        except (OSError, ValueError):
            return None
        return path if folder == root or root in folder.parents else None


def _difference(old: Any, new: Mapping[str, str]) -> str:
    old = old if isinstance(old, dict) else {}
    changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return "changed: " + ", ".join(changed) if changed else "its key changed"


def _take(handle: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise QtoolError(
            "another qtool is running in this folder", where=str(path), remedy="wait for it, or give another --out"
        ) from error
