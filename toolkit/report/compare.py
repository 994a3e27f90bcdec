"""Comparing two runs: the comparison itself, and how it is shown in the terminal and as one HTML file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base.files import write_text
from toolkit.report.comparison import Comparison, Figure, NodeDifference, NodeSide, compare
from toolkit.report.console import PLAIN_WIDTH, make_console, plain_text, section, table
from toolkit.report.html import asset, environment, script_hash, script_text
from toolkit.report.schema import word
from toolkit.report.terminal import size

if TYPE_CHECKING:
    from rich.console import Console

_MOST_ROWS = 20

__all__ = ["Comparison", "compare", "comparison_text", "print_comparison", "render_comparison_html",
           "write_comparison_html"]  # fmt: skip


def print_comparison(comparison: Comparison, console: Console | None = None, *, most: int = _MOST_ROWS) -> None:
    """Print a comparison; without a terminal plain text, whose lines are not broken.

    Args:
        comparison: what to print.
        console: where to; None makes one for standard output.
        most: how many nodes to list at most in each table.
    """
    console = console or make_console()
    a, b = comparison.a, comparison.b
    console.print(plain_text(comparison.headline, "bold"))
    for side in (a, b):
        console.print(plain_text(f"{side.label}: {side.headline}"))
    section(console, "Figures")
    grid = table(("", "left"), (a.label, "right"), (b.label, "right"), ("change", "right"))
    for figure in comparison.figures:
        grid.add_row(plain_text(figure.name), *(plain_text(cell) for cell in figure_words(figure)))
    console.print(grid)
    changed = comparison.differing("asked", "actual", "status")
    if changed:
        section(console, f"Precision or status differs ({len(changed)})")
        grid = table(("node", "left"), ("op", "left"), (a.label, "left"), (b.label, "left"))
        for node in changed[:most]:
            grid.add_row(plain_text(node.node), plain_text(node.op), side_words(node.a), side_words(node.b))
        console.print(grid)
        _print_rest(console, len(changed), most)
    louder = by_error(comparison)
    if louder:
        section(console, f"Error differs ({len(louder)})")
        grid = table(("node", "left"), ("op", "left"), (f"{a.label} dB", "right"), (f"{b.label} dB", "right"),
                     ("change", "right"))  # fmt: skip
        for node in louder[:most]:
            delta = "" if node.error_delta_db is None else f"{node.error_delta_db:+.1f}"
            grid.add_row(plain_text(node.node), plain_text(node.op), level(node.a), level(node.b), delta)
        console.print(grid)
        _print_rest(console, len(louder), most)
    slower = by_time(comparison)
    if slower:
        section(console, f"Time differs ({len(slower)})")
        grid = table(("node", "left"), (f"{a.label} ms", "right"), (f"{b.label} ms", "right"), ("change", "right"))
        for node in slower[:most]:
            grid.add_row(plain_text(node.node), _ms(node.a.time_ms), _ms(node.b.time_ms), _ms(node.time_delta_ms, "+"))
        console.print(grid)
        _print_rest(console, len(slower), most)
    for label, names in ((a.label, comparison.only_a), (b.label, comparison.only_b)):
        if names:
            more = f" and {len(names) - most} more" if len(names) > most else ""
            section(console, f"Only in {label} ({len(names)})")
            console.print(plain_text(", ".join(names[:most]) + more))


def comparison_text(comparison: Comparison, *, width: int = PLAIN_WIDTH) -> str:
    """The comparison as plain text, no escape sequences."""
    from rich.console import Console

    buffer = io.StringIO()
    print_comparison(comparison, Console(file=buffer, width=width, force_terminal=False, color_system=None))
    return buffer.getvalue()


def render_comparison_html(comparison: Comparison) -> str:
    """The comparison as one self-contained page that loads nothing."""
    script = script_text()
    made = environment()
    made.filters.update(level=level, figure_words=figure_words)
    return made.get_template("compare.html.jinja").render(
        comparison=comparison,
        precision=comparison.differing("asked", "actual", "status"),
        error=by_error(comparison),
        time=by_time(comparison),
        script=script,
        script_hash=script_hash(script),
        style=asset("style.css"),
        data="",
    )


def write_comparison_html(comparison: Comparison, path: Path) -> None:
    """Write the page whole or not at all."""
    write_text(path, render_comparison_html(comparison))


def by_error(comparison: Comparison) -> list[NodeDifference]:
    """The nodes whose error differs, the largest loss in b first."""
    return sorted(comparison.differing("error"), key=lambda n: n.error_delta_db if n.error_delta_db is not None else 0)


def by_time(comparison: Comparison) -> list[NodeDifference]:
    """The nodes whose time differs, the largest difference first."""
    return sorted(comparison.differing("time"), key=lambda n: -abs(n.time_delta_ms or 0.0))


def figure_words(figure: Figure) -> tuple[str, str, str]:
    """A figure of a, of b, and the change, in words."""

    def said(value: float | None, sign: str = "") -> str:
        if value is None:
            return ""
        if figure.unit == "bytes":
            mark = ("-" if value < 0 else sign) if value else ""
            return mark + size(int(abs(value)))
        return f"{value:{sign}.4g}" + (f" {figure.unit}" if figure.unit else "")

    change = figure.change
    return said(figure.a), said(figure.b), said(change, "+") if change else ("same" if change == 0 else "")


def side_words(side: NodeSide) -> str:
    """What one run did with a node: requested precision, actual precision, status."""
    return f"{word(side.asked)} → {word(side.actual)}, {side.status}"


def level(side: NodeSide) -> str:
    """A node's SQNR in one run, in words."""
    if side.sqnr_db is not None:
        return f"{side.sqnr_db:.1f}"
    return "identical" if side.identical else "none"


def _ms(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.3f}"


def _print_rest(console: Console, count: int, most: int) -> None:
    if count > most:
        console.print(plain_text(f"and {count - most} more"))
