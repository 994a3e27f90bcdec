"""Outcomes kept in a JSON-lines file, so that an interrupted analysis goes on where it stopped."""

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
"""Waiting for the disk takes as long as a small model's plan does: that is done once in so many seconds."""


class Log:
    """Results by key. The first line names what they belong to; a file that belongs to something else is started over.

    What user code read for a result is written before the result. A file in which any of that has changed, or cannot be
    known, is started over too, and ``refused`` says why. A damaged line is left out.

    Args:
        path: the file; None keeps the results in memory only.
        fingerprint: what the results depend on, as far as it is known beforehand.
        needs: returns what user code has read so far; None where no user code contributes to the results.

    Attributes:
        refused: why existing results are not used; empty where there were none, or they belonged to something else.
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
        # a line that a kill cut short is written over, so that the next one begins at a line's start
        self._write([first, *lines])

    def get(self, key: str) -> dict[str, Any] | None:
        """What was kept under a key, or None."""
        found = self.found.get(key)
        self.reused += found is not None
        return found

    def add(self, key: str, content: Mapping[str, Any]) -> None:
        """Keep a result: it survives the end of this process; a crash of the machine loses at most five seconds'."""
        line = {"key": key, **content}
        self.found[key] = line
        if self.path is None:
            return
        lines = [line]
        needs = self.needs() if self.needs is not None else None
        if needs is not None and needs != self._known:
            # before the result: a kill in between leaves nothing that does not say what it depends on
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
    """A line with the sum by which damage is noticed."""
    return json.dumps({**line, _SUM: _sum(line)}) + "\n"


def _sum(line: Mapping[str, Any]) -> str:
    return sha256_json(line)[:16]


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines that are whole, without their sums; nothing where the first is not."""
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
