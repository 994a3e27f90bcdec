"""Building blocks of terminal output: the console, literal text, headings and tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from toolkit.base.text import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

PLAIN_WIDTH = 100_000
"""The width without a terminal: more columns than any line has, so that names stay whole and searchable."""


def make_console() -> Console:
    """A console for standard output; if that is not a terminal, with unbroken lines and no escape sequences."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console()
    return Console(width=PLAIN_WIDTH, force_terminal=False, color_system=None)


def plain_text(content: str, style: str = "") -> Text:
    """Literal text on one line, without markup, with line breaks and other control characters made visible."""
    from rich.text import Text

    return Text(plain(content), style=style)


def section(console: Console, title: str) -> None:
    """Print a blank line and a bold heading."""
    console.print()
    console.print(plain_text(title, "bold"))


def table(*columns: tuple[str, str]) -> Table:
    """An empty table with these columns: (name, "left" or "right")."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=True)
    for name, justify in columns:
        made.add_column(plain_text(name), justify="right" if justify == "right" else "left", overflow="fold")
    return made
