"""What commands print to standard output: text for people, or JSON for programs."""

from __future__ import annotations

import sys
from json import dumps
from typing import Any

from toolkit.base.text import plain_lines


def emit(content: Any) -> None:
    """Print JSON; everything that is not ASCII is escaped, including control characters in names."""
    sys.stdout.write(dumps(content, indent=1, default=str) + "\n")


def say(text: str) -> None:
    """Print a line of text, with control characters in names made visible."""
    sys.stdout.write(plain_lines(text.removesuffix("\n")) + "\n")


def tell(found: Any, json: bool) -> None:
    """Print a result: its ``to_json()`` with ``json``, else its ``to_text()``."""
    if json:
        emit(found.to_json())
    else:
        say(found.to_text())
