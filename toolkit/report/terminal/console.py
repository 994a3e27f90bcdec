"""What all terminal output is made of: the console, text shown as it is, headings and tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from toolkit.base.text import plain, plain_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

PLAIN_WIDTH = 100_000
"""Columns where no terminal is: more than any line has, so that names stay whole for searching."""


def make_console() -> Console:
    """A console for standard output: lines as long as they are and no escape sequences where that is no terminal."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console()
    return Console(width=PLAIN_WIDTH, force_terminal=False, color_system=None)


def plain_text(content: str, style: str = "") -> Text:
    """Text that is shown as it is, each line with its control characters made visible."""
    from rich.text import Text

    return Text(plain_lines(content), style=style)


def one_line(content: str) -> Text:
    """What a table's cell shows, on one line: a line break within a name is visible as one."""
    from rich.text import Text

    return Text(plain(content))


def section(console: Console, title: str) -> None:
    """Begin a part of the output."""
    console.print()
    console.print(plain_text(title, "bold"))


def table(*columns: tuple[str, str]) -> Table:
    """An empty table of columns (name, left or right)."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=True)
    for name, justify in columns:
        made.add_column(plain_text(name), justify="right" if justify == "right" else "left", overflow="fold")
    return made
