"""Engines cached on disk while they may be measured again or become the run's own engine."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from toolkit.backends.layers.layer import Build, build_from_json, build_to_json
from toolkit.base.files import write_bytes, write_text


class EngineCache:
    """Engines by name; each is a file, with a second file about its build.

    Args:
        folder: the engines are stored in its subfolder ``engines``; None for a temporary folder.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder / "engines" if folder is not None else None

    @cached_property
    def folder(self) -> Path:
        """The folder of the engines."""
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="qtool-engines-")
            return Path(self._temporary.name)
        return self._folder

    def any(self) -> bool:
        """Whether the cache has a folder on disk, and so may hold engines."""
        return self._folder is not None and self._folder.is_dir()

    def file(self, name: str) -> Path | None:
        """The file of an engine; None if it is not cached."""
        path = self.folder / f"{name}.engine"
        return path if path.is_file() else None

    def keep(self, name: str, build: Build) -> bool:
        """Store a build; returns whether it has an engine."""
        if build.engine is None:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        known = {"build": build_to_json(build), "raw": build.raw, "sha256": sha256(bytes(build.engine)).hexdigest()}
        write_text(self.folder / f"{name}.json", json.dumps(known))
        write_bytes(self.folder / f"{name}.engine", bytes(build.engine))
        return True

    def build(self, name: str) -> Build | None:
        """The stored build, with the engine's bytes; None if there is none or it is damaged."""
        path = self.file(name)
        if path is None:
            return None
        engine = path.read_bytes()
        try:
            known = json.loads((self.folder / f"{name}.json").read_bytes())
            whole = known["sha256"] == sha256(engine).hexdigest()
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return build_from_json({**known["build"], "engine": engine, "raw": known["raw"]}) if whole else None

    def drop(self) -> None:
        """Remove all engines."""
        shutil.rmtree(self.folder, ignore_errors=True)
