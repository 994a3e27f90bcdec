"""Outcomes kept in a JSON-lines file, so that an interrupted analysis goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.base.files import write_text, writing

SCHEMA = "qtool-outcomes-1"


class Log:
    """Results by key. The first line names what they belong to; a file that belongs to something else is begun anew.

    Args:
        path: the file; None keeps the results in memory only.
        fingerprint: what the results depend on.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self.path = path
        self.found: dict[str, dict[str, Any]] = {}
        self.reused = 0
        if path is None:
            return
        lines = _lines(path)
        if lines and lines[0] == {"schema": SCHEMA, "fingerprint": fingerprint}:
            for line in lines[1:]:
                self.found[line["key"]] = line
            # a line that a kill cut short is written over, so that the next one begins at a line's start
            self._write([lines[0], *self.found.values()])
        else:
            self._write([{"schema": SCHEMA, "fingerprint": fingerprint}])

    def get(self, key: str) -> dict[str, Any] | None:
        """What was kept under a key, or None."""
        found = self.found.get(key)
        self.reused += found is not None
        return found

    def add(self, key: str, content: Mapping[str, Any]) -> None:
        """Keep a result; it is on disk when this returns."""
        line = {"key": key, **content}
        self.found[key] = line
        if self.path is not None:
            with writing(self.path), open(self.path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
                stream.flush()
                os.fsync(stream.fileno())

    def _write(self, lines: list[dict[str, Any]]) -> None:
        assert self.path is not None
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines that are whole; what comes after one that is not is left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    found: list[dict[str, Any]] = []
    for line in text.splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            break
        if not isinstance(content, dict) or (found and "key" not in content):
            break
        found.append(content)
    return found
