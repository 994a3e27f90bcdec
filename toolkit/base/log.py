"""Results kept in a JSON-lines file, so that an interrupted analysis can resume."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from toolkit.base.errors import QtoolError
from toolkit.base.files import sha256_json, write_text, writing
from toolkit.base.needs import Needs
from toolkit.base.reading import OWN, read_file

SCHEMA = "qtool-outcomes-2"
_NEEDS = "needs"
_SUM = "sum"
_SYNC_SECONDS = 5.0
"""Interval of fsync: waiting for the disk takes as long as evaluating a plan of a small model."""


class Log:
    """Results by key. The first line identifies what they belong to; a file for something else is started over.

    Before a result, the log records what user code read for it. A file is also started over if any of that has changed
    or cannot be known; ``refused`` then gives the reason. Damaged lines are ignored.

    Args:
        path: the file; None keeps the results in memory only.
        fingerprint: of what the results depend on, as far as known in advance.
        needs: returns what user code has read so far; None if no user code contributes to the results.

    Attributes:
        refused: why existing results are not used; empty if there were none, or they belonged to something else.
    """

    def __init__(self, path: Path | None, fingerprint: str, needs: Callable[[], Needs | None] | None = None) -> None:
        self.path, self.needs = path, needs
        self.found: dict[str, dict[str, Any]] = {}
        self.reused = 0
        self.refused = ""
        self._known: Needs | None = None
        self._synced = -math.inf
        if path is None:
            return
        head, *lines = _lines(path) or [{}]
        first = {"schema": SCHEMA, "fingerprint": fingerprint}
        if head == first:
            read = [Needs.read(line.get(_NEEDS)) for line in lines if line["key"] == _NEEDS]
            self.refused = next((why for one in read if (why := one.broken())), "")
            lines = [] if self.refused else lines
        else:
            lines = []
        self.found = {line["key"]: line for line in lines if line["key"] != _NEEDS}
        # rewriting drops a line that was cut short by a kill, so that the next line starts at the beginning of a line
        self._write([first, *lines])

    def get(self, key: str) -> dict[str, Any] | None:
        """The result for a key, or None."""
        found = self.found.get(key)
        self.reused += found is not None
        return found

    def add(self, key: str, content: Mapping[str, Any]) -> None:
        """Add a result. It survives the end of this process; a machine crash loses at most five seconds' worth."""
        line = {"key": key, **content}
        self.found[key] = line
        if self.path is None:
            return
        lines = [line]
        needs = self.needs() if self.needs is not None else None
        if needs is not None and needs != self._known:
            # before the result, so that after a kill no result lacks what it depends on
            self._known = needs
            lines.insert(0, {"key": _NEEDS, _NEEDS: needs.model_dump(mode="json")})
        with writing(self.path), open(self.path, "a", encoding="utf-8") as stream:
            stream.write("".join(map(_text, lines)))
            stream.flush()
            if time.monotonic() - self._synced >= _SYNC_SECONDS:
                os.fsync(stream.fileno())
                self._synced = time.monotonic()

    def _write(self, lines: list[dict[str, Any]]) -> None:
        assert self.path is not None
        write_text(self.path, "".join(map(_text, lines)))


def _text(line: Mapping[str, Any]) -> str:
    """A line with the checksum that reveals damage."""
    return json.dumps({**line, _SUM: _sum(line)}) + "\n"


def _sum(line: Mapping[str, Any]) -> str:
    return sha256_json(line)[:16]


def _lines(path: Path) -> list[dict[str, Any]]:
    """The undamaged lines, without their checksums; none if the first line is damaged."""
    try:
        text = read_file(path, OWN).decode("utf-8", "replace")
    except QtoolError:
        return []
    found: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n")):
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        whole = isinstance(content, dict) and content.pop(_SUM, None) == _sum(content)
        if number == 0 and not whole:
            return []
        if whole and (number == 0 or isinstance(content.get("key"), str)):
            found.append(content)
    return found
