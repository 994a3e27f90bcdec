"""Shows the comparison of runs in the terminal and as one HTML file."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base.collection import collector_paused
from toolkit.base.files import write_text
from toolkit.report.comparison.comparison import Comparison, Figure, NodeDifference, NodeSide, compare
from toolkit.report.comparison.matching import match
from toolkit.report.findings.commands.comparison import figure_value
from toolkit.report.page.html import asset, environment, script_hash, script_text
from toolkit.report.page.network_part import network_part
from toolkit.report.schema.report import Report, word
from toolkit.report.terminal.console import PLAIN_WIDTH, make_console, plain_text, section, table
from toolkit.report.terminal.report import size

if TYPE_CHECKING:
    from rich.console import Console

_MOST_ROWS = 20

__all__ = ["Comparison", "compare", "comparison_text", "print_comparison", "render_comparison_html",
           "write_comparison_html"]  # fmt: skip


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print a comparison; without a terminal as plain text with unbroken lines.

    Args:
        comparison: the comparison to print.
        console: where to print; None for standard output.
    """
    console = console or make_console()
    runs = comparison.runs
    labels = [run.label for run in runs]
    limit = _MOST_ROWS if console.is_terminal else None
    console.print(plain_text(comparison.headline, "bold"))
    for line in comparison.said if len(runs) > 2 else ():
        console.print(plain_text(line))
    for run in runs:
        console.print(plain_text(f"{run.label}: {run.headline}"))
    section(console, "Figures")
    changes = ["change"] if len(runs) == 2 else [f"change to {label}" for label in labels[1:]]
    grid = table(("", "left"), *((name, "right") for name in (*labels, *changes)))
    for figure in comparison.figures:
        grid.add_row(plain_text(figure.name), *(plain_text(cell) for cell in figure_words(figure)))
    console.print(grid)

    def listed(title: str, nodes: Sequence[NodeDifference], cell: Callable[[NodeSide], str], unit: str = "") -> None:
        if not nodes:
            return
        section(console, f"{title} ({len(nodes)})")
        grid = table(
            ("node", "left"), ("op", "left"), *((f"{label}{unit}", "right" if unit else "left") for label in labels)
        )
        for node in nodes[:limit]:
            cells = (cell(side) if side is not None else "absent" for side in node.sides)
            grid.add_row(plain_text(node.node), plain_text(node.op), *(plain_text(one) for one in cells))
        console.print(grid)
        if limit is not None and len(nodes) > limit:
            console.print(plain_text(f"and {len(nodes) - limit} more"))

    listed("Precision or status differs", by_precision(comparison), side_words)
    listed("Error differs", by_error(comparison), level_words, " dB")
    listed("Time differs", by_time(comparison), time_words, " ms")
    for label, names in zip(labels, comparison.only):
        if names:
            more = f" and {len(names) - limit} more" if limit is not None and len(names) > limit else ""
            section(console, f"Only in {label} ({len(names)})")
            console.print(plain_text(", ".join(names[:limit]) + more))


def comparison_text(comparison: Comparison) -> str:
    """The comparison as plain text, without escape sequences."""
    from rich.console import Console

    buffer = io.StringIO()
    print_comparison(comparison, Console(file=buffer, width=PLAIN_WIDTH, force_terminal=False, color_system=None))
    return buffer.getvalue()


@collector_paused()
def render_comparison_html(comparison: Comparison, reports: Sequence[Report] = ()) -> str:
    """The comparison as one self-contained HTML page that loads nothing.

    Args:
        comparison: the comparison to show.
        reports: the runs; if given, the page draws the network of the last and compares it with the first.
    """
    script = script_text()
    network = None
    if reports:
        first, last = reports[0], reports[-1]
        called = match(first, last)
        there = {called[layer.node]: layer for layer in first.layers if layer.node in called}
        network = network_part(last, there, comparison.runs[0].label)
    # all pages share the environment, whose own filter "level" is of outputs
    template = environment().get_template("compare.html.jinja")
    return template.render(
        comparison=comparison,
        node_level=level,
        figure_words=figure_words,
        precision=by_precision(comparison),
        error=by_error(comparison),
        time=by_time(comparison),
        script=script,
        script_hash=script_hash(script),
        style=asset("style.css"),
        network=network,
        data=network.data if network is not None else "",
    )


def write_comparison_html(comparison: Comparison, path: Path, reports: Sequence[Report] = ()) -> None:
    """Write the page atomically."""
    write_text(path, render_comparison_html(comparison, reports))


def by_precision(comparison: Comparison) -> list[NodeDifference]:
    """The nodes that differ in precision or status, or that some run lacks."""
    return comparison.differing("there", "asked", "actual", "status")


def by_error(comparison: Comparison) -> list[NodeDifference]:
    """The nodes whose error differs, those with the largest loss from the first run first."""
    return sorted(comparison.differing("error"), key=lambda node: min(_deltas(node, "error_delta_db"), default=0.0))


def by_time(comparison: Comparison) -> list[NodeDifference]:
    """The nodes whose time differs, those with the largest difference first."""
    return sorted(
        comparison.differing("time"), key=lambda node: -max(map(abs, _deltas(node, "time_delta_ms")), default=0.0)
    )


def _deltas(node: NodeDifference, name: str) -> list[float]:
    return [delta for side in node.sides if side is not None and (delta := getattr(side, name)) is not None]


def figure_words(figure: Figure) -> list[str]:
    """A figure's value in every run, then its change in every run but the first, in words."""

    def said(value: float | None, sign: str = "") -> str:
        if value is None:
            return ""
        if figure.unit == "bytes":
            mark = ("-" if value < 0 else sign) if value else ""
            return mark + size(int(abs(value)))
        return figure_value(value, figure.unit, sign)

    changes = [figure.change(run) for run in range(1, len(figure.values))]
    return [
        *(said(value) for value in figure.values),
        *(said(change, "+") if change else ("same" if change == 0 else "") for change in changes),
    ]


def side_words(side: NodeSide) -> str:
    """A node in one run, in words: requested precision, actual precision, status."""
    if side.status == "unknown":
        return f"{word(side.asked)} requested"
    return f"{word(side.asked)} → {word(side.actual)}, {side.status}"


def level(side: NodeSide) -> str:
    """A node's SQNR in one run, in words."""
    if side.sqnr_db is not None:
        return f"{side.sqnr_db:.1f}"
    return "identical" if side.identical else "none"


def level_words(side: NodeSide) -> str:
    """A node's SQNR in one run with its change from the first run, in words."""
    return level(side) + (f" ({side.error_delta_db:+.1f})" if side.error_delta_db is not None else "")


def time_words(side: NodeSide) -> str:
    """A node's time in one run with its change from the first run, in milliseconds."""
    if side.time_ms is None:
        return ""
    return f"{side.time_ms:.3f}" + (f" ({side.time_delta_ms:+.3f})" if side.time_delta_ms is not None else "")
