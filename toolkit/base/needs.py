"""What a result depends on that is known only once it is made: what code of the user's read and loaded meanwhile.

Such a result is kept with its needs, and is good only where all of them are as they were.
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

from toolkit.base.files import sha256_file
from toolkit.base.schema import FileSchema

ABSENT = ""
_LEAST_KEPT = 1 << 22
_LARGE: dict[tuple[str, int, int, int, int, int], str] = {}
"""Files that take longer to read than a clock's tick, by all that the system says of them."""


class Needs(FileSchema):
    """What was read.

    Attributes:
        files: SHA-256 of each file's content as it was read, of a folder's names, by absolute path; ``ABSENT`` where
            nothing was there.
        asked: what lay at each path of which the code asked no more than that, see ``kind_of``.
        libraries: version of each installed distribution that the code imports.
        environment: SHA-256 of each variable's value; ``ABSENT`` where it was not set.
        unknown: why what the code reads cannot be followed; empty where it can.
    """

    files: dict[str, str] = Field(default_factory=dict)
    asked: dict[str, str] = Field(default_factory=dict)
    libraries: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    unknown: list[str] = Field(default_factory=list)

    @classmethod
    def read(cls, content: Any) -> Needs:
        """What was kept as JSON; damaged content yields needs that are unknown."""
        try:
            return cls.model_validate(content)
        except (ValidationError, RecursionError):
            return cls(unknown=["what was noted of its code is damaged"])

    def merged(self, others: Iterable[Needs]) -> Needs:
        """These and others together; where several have an entry, the first counts."""
        made = self.model_copy(deep=True)
        for other in others:
            made.files = {**other.files, **made.files}
            made.asked = {**other.asked, **made.asked}
            made.libraries = {**other.libraries, **made.libraries}
            made.environment = {**other.environment, **made.environment}
            made.unknown += [why for why in other.unknown if why not in made.unknown]
        return made

    def broken(self) -> str:
        """The first need that has changed or cannot be known, in words; empty where all hold."""
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
    """SHA-256 of a file's content or a folder's names, in hex; ``ABSENT`` where it cannot be read."""
    try:
        found = Path(path).stat()
        if stat.S_ISDIR(found.st_mode):
            names = sorted(entry.name for entry in Path(path).iterdir())
            listed = "\0".join(names)
            return f"folder {_digest(listed)}"
        if not stat.S_ISREG(found.st_mode):
            return ABSENT
        seen = (path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if seen in _LARGE:
            return _LARGE[seen]
        digest = sha256_file(Path(path))
    except (OSError, ValueError):
        return ABSENT
    if found.st_size > _LEAST_KEPT:
        _LARGE[seen] = digest
    return digest


def kind_of(path: str) -> str:
    """What lies at a path: ``file`` with its size in bytes, ``folder``, ``other``, or ``ABSENT``."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return ABSENT
    if stat.S_ISREG(found.st_mode):
        return f"file {found.st_size}"
    return "folder" if stat.S_ISDIR(found.st_mode) else "other"


def variable_digest(name: str) -> str:
    """SHA-256 of an environment variable's value: the value itself may be a secret."""
    value = os.environ.get(name)
    return _digest(value) if value is not None else ABSENT


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def version_of(distribution: str) -> str:
    """The version of an installed distribution; ``ABSENT`` where it is not."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ABSENT
