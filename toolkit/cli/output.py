"""What commands print to standard output: text for people, or JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from json import dumps
from typing import Any, TextIO

from toolkit.base.text import plain_lines

_JSON_GOES_TO: ContextVar[TextIO | None] = ContextVar("json_goes_to", default=None)


@contextmanager
def only_json(wanted: bool) -> Iterator[None]:
    """If wanted, only ``emit`` writes to standard output in the block; a user's code prints to standard error."""
    if not wanted:
        yield
        return
    token = _JSON_GOES_TO.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _JSON_GOES_TO.reset(token)


def emit(content: Any) -> None:
    """Print JSON; everything that is not ASCII is escaped, including control characters in names."""
    (_JSON_GOES_TO.get() or sys.stdout).write(dumps(content, indent=1, default=str) + "\n")


def say(text: str) -> None:
    """Print a line of text, with control characters in names made visible."""
    sys.stdout.write(plain_lines(text.removesuffix("\n")) + "\n")


def tell(found: Any, json: bool) -> None:
    """Print a result: its ``to_json()`` with ``json``, else its ``to_text()``."""
    if json:
        emit(found.to_json())
    else:
        say(found.to_text())
