"""Dependencies of a result that are known only after it is made: what user code read and loaded meanwhile.

Such a result is stored with its needs, and may be reused only if all of them are unchanged.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from toolkit.base.files import file_state, sha256_file
from toolkit.base.schema import FileSchema

ABSENT = ""
_LEAST_KEPT = 1 << 22
_LARGE: dict[tuple[object, ...], str] = {}
"""Digests of large files by all their metadata; a small file could change twice within one tick of the clock."""


class Needs(FileSchema):
    """What user code read.

    Attributes:
        files: per absolute path, SHA-256 of the file's content when it was read, or of the names in a folder;
            ``ABSENT`` if nothing was there.
        asked: per path that the code only checked for existence or kind, what was there, see ``kind_of``.
        libraries: versions of the installed distributions that the code imports.
        environment: SHA-256 of the values of environment variables; ``ABSENT`` if not set.
        unknown: reasons why the code's reads cannot be followed; empty if they can.
    """

    files: dict[str, str] = Field(default_factory=dict)
    asked: dict[str, str] = Field(default_factory=dict)
    libraries: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    unknown: list[str] = Field(default_factory=list)

    @classmethod
    def read(cls, content: Any) -> Needs:
        """Needs stored as JSON; damaged content gives needs that are unknown."""
        try:
            return cls.model_validate(content)
        except (ValidationError, RecursionError):
            return cls(unknown=["what was noted of its code is damaged"])

    def merged(self, others: Iterable[Needs]) -> Needs:
        """The union of these and other needs; if several have an entry, the first takes precedence."""
        made = self.model_copy(deep=True)
        for other in others:
            made.files = {**other.files, **made.files}
            made.asked = {**other.asked, **made.asked}
            made.libraries = {**other.libraries, **made.libraries}
            made.environment = {**other.environment, **made.environment}
            made.unknown += [why for why in other.unknown if why not in made.unknown]
        return made

    def broken(self) -> str:
        """A sentence about the first need that has changed or cannot be known; empty if all are unchanged."""
        if self.unknown:
            return f"what its code reads is not known: {self.unknown[0]}"
        for path, before in self.files.items():
            if digest_of(path) != before:
                return f"{Path(path).name}, which its code read, was changed"
        for path, before in self.asked.items():
            if kind_of(path) != before:
                return f"{Path(path).name}, which its code asked for, was changed"
        for name, before in self.libraries.items():
            if version_of(name) != before:
                return f"{name}, which its code imports, has another version"
        for name, before in self.environment.items():
            if variable_digest(name) != before:
                return f"the environment variable {name}, which its code reads, was changed"
        return ""


def digest_of(path: str) -> str:
    """SHA-256 of a file's content or a folder's names, in hex; ``ABSENT`` if it cannot be read."""
    try:
        found = Path(path).stat()
        if stat.S_ISDIR(found.st_mode):
            names = sorted(entry.name for entry in Path(path).iterdir())
            listed = "\0".join(names)
            return f"folder {_digest(listed)}"
        if not stat.S_ISREG(found.st_mode):
            return ABSENT
        seen = (path, *file_state(found))
        if seen in _LARGE:
            return _LARGE[seen]
        digest = sha256_file(Path(path))
    except (OSError, ValueError):
        return ABSENT
    if found.st_size > _LEAST_KEPT:
        _LARGE[seen] = digest
    return digest


def kind_of(path: str) -> str:
    """What is at a path: ``file`` with its size in bytes, ``folder``, ``other``, or ``ABSENT``."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return ABSENT
    if stat.S_ISREG(found.st_mode):
        return f"file {found.st_size}"
    return "folder" if stat.S_ISDIR(found.st_mode) else "other"


def variable_digest(name: str) -> str:
    """SHA-256 of an environment variable's value, which itself may be secret; ``ABSENT`` if not set."""
    value = os.environ.get(name)
    return _digest(value) if value is not None else ABSENT


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def version_of(distribution: str) -> str:
    """The version of an installed distribution; ``ABSENT`` if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ABSENT
