"""The report in the terminal: the verdict first, then the counts, the accuracy, the worst layers and what was declined.

Names that come from a model are shown as they are, never read as markup, with control characters made visible.
"""

from __future__ import annotations

import io
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.report.schema import NONE, Accuracy, LayerInfo, Report, word
from toolkit.report.verdict import amount, worst

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

PLAIN_WIDTH = 100
_STYLES = {"usable": "bold green", "missed": "bold yellow", "broken": "bold red", "unmeasured": "bold"}
_WORST = 8


def print_report(
    report: Report, console: Console | None = None, *, files: Sequence[Path | str] = (), worst_layers: int = _WORST
) -> None:
    """Print the report; without a terminal plain text of 100 columns.

    Args:
        report: what to print.
        console: where to; None makes one for standard output.
        files: the files that the run wrote, named at the end.
        worst_layers: how many of the layers with the largest error to list.
    """
    console = console or make_console()
    summary = report.summary
    console.print(_text(summary.headline, _STYLES[summary.verdict]))
    backend = report.backend
    said = " ".join(part for part in (backend.name, backend.version) if part)
    details = [backend.typing and f"{backend.typing} typing", backend.reason]
    if backend.engine_bytes is not None:
        details.insert(0, f"engine {size(backend.engine_bytes)}")
    console.print(_text(f"Backend {said}" + (f": {', '.join(d for d in details if d)}" if any(details) else "")))
    for warning in summary.warnings:
        console.print(_text(f"Warning: {warning}", "yellow"))
    others = summary.nodes - summary.computing
    _section(console, f"{summary.computing} layers that compute, asked by actual precision ({others} other nodes)")
    console.print(_matrix(report))
    if report.accuracy is not None:
        _print_accuracy(console, report.accuracy)
    bad = worst(report.layers, worst_layers)
    if bad:
        _section(console, "Layers with the largest error")
        console.print(_worst_table(bad))
    if report.declined:
        _section(console, "Declined")
        console.print(_declined_table(report))
    if summary.next:
        _section(console, "What to try next")
    for suggestion in summary.next:
        console.print(_text(f"- {suggestion.text}"))
    reused = [step.name for step in report.steps if step.status == "reused"]
    if report.steps:
        seconds = sum(step.seconds for step in report.steps)
        words = f"reused {', '.join(reused)}" if reused else "nothing reused"
        console.print(_text(f"\n{len(report.steps)} steps in {seconds:.1f} s, {words}"))
    if files:
        console.print(_text("\nWrote " if not report.steps else "Wrote ") + _text(", ".join(str(f) for f in files)))


def to_text(report: Report, *, files: Sequence[Path | str] = (), width: int = PLAIN_WIDTH) -> str:
    """The report as plain text, no escape sequences."""
    from rich.console import Console

    buffer = io.StringIO()
    console = Console(file=buffer, width=width, force_terminal=False, color_system=None, legacy_windows=False)
    print_report(report, console, files=files)
    return buffer.getvalue()


def make_console() -> Console:
    """A console for standard output: 100 columns and no escape sequences where that is no terminal."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console()
    return Console(width=PLAIN_WIDTH, force_terminal=False, color_system=None)


def plain(name: str) -> str:
    """A name with control characters, line separators and direction overrides made visible.

    An escape sequence in a node's name could otherwise rewrite the reader's terminal.
    """
    if name.isprintable():
        return name
    return "".join(
        letter if unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else f"\\u{ord(letter):04x}"
        for letter in name
    )


def size(count: int) -> str:
    """A number of bytes in words."""
    value = float(count)
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def decibels(layer: LayerInfo) -> str:
    """A layer's SQNR in words."""
    if layer.error is None:
        return ""
    if layer.error.identical:
        return "identical"
    if layer.error.incomparable:
        return "NaN/inf"
    return f"{layer.error.sqnr_db:.1f}" if layer.error.sqnr_db is not None else "zero signal"


def _text(content: str, style: str = "") -> Text:
    from rich.text import Text

    lines = content.split("\n")
    return Text("\n".join(plain(line) for line in lines), style=style)


def _section(console: Console, title: str) -> None:
    console.print()
    console.print(_text(title, "bold"))


def _table(*columns: tuple[str, str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=True)
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    return table


def _matrix(report: Report) -> Table:
    computing = report.computing
    tally: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for layer in computing:
        tally[word(layer.asked_precision)][word(layer.actual.precision)] += 1
    rows = [w for w in (*report.summary.by_asked, NONE) if w in tally]
    columns = [w for w in dict.fromkeys((*report.summary.by_actual, NONE)) if any(w in row for row in tally.values())]
    table = _table(
        ("asked", "left"), *((f"runs {w}" if w != NONE else "not known", "right") for w in columns), ("all", "right"),
    )  # fmt: skip
    for asked in dict.fromkeys(rows):
        cells = [str(tally[asked][w] or "") for w in columns]
        table.add_row(asked, *cells, str(sum(tally[asked].values())))
    return table


def _print_accuracy(console: Console, accuracy: Accuracy) -> None:
    held = "held out" if accuracy.held_out else "seen by calibration"
    by = f", measured by {accuracy.source}" if accuracy.source else ""
    _section(console, f"Accuracy on {accuracy.samples} samples ({held}){by}")
    if accuracy.quantized is not None and accuracy.before is not None:
        points = abs(accuracy.before) <= 1 and abs(accuracy.quantized) <= 1
        unit = " points" if points else ""
        line = f"  {accuracy.metric or 'metric'}: float {accuracy.before:.4g}, quantized {accuracy.quantized:.4g}"
        if accuracy.drop is not None:
            line += f", drop {amount(accuracy.drop, points)}{unit}"
        if accuracy.budget is not None:
            kept = "" if accuracy.met is None else (", kept" if accuracy.met else ", missed")
            line += f", budget {amount(accuracy.budget, points)}{unit}{kept}"
        console.print(_text(line))
    for name, output in accuracy.outputs.items():
        identical = output.sqnr_db is None and output.max_abs == 0
        figures = ["identical to float"] if identical else []
        figures += [f"SQNR {output.sqnr_db:.1f} dB"] if output.sqnr_db is not None else []
        figures += [f"cosine {output.cosine:.5f}"] if output.cosine is not None else []
        figures += [f"same winner {output.agreement:.1%}"] if output.agreement is not None else []
        figures += ["NaN or infinity"] if output.incomparable else []
        figures += [f"largest difference {output.max_abs:.3g}"] if output.max_abs else []
        console.print(_text(f"  output {name}: {', '.join(figures)}"))
    for note in accuracy.notes:
        console.print(_text(f"  {note}"))


def _worst_table(layers: Sequence[LayerInfo]) -> Table:
    table = _table(("node", "left"), ("op", "left"), ("asked", "left"),
                   ("actual", "left"), ("SQNR dB", "right"), ("below inputs", "right"))  # fmt: skip
    for layer in layers:
        drop = layer.error.drop_db if layer.error else None
        table.add_row(
            _text(layer.node), _text(layer.op), word(layer.asked_precision),
            word(layer.actual.precision), decibels(layer), "" if drop is None else f"{drop:+.1f}",
        )  # fmt: skip
    return table


def _declined_table(report: Report) -> Table:
    by_rule: dict[tuple[str, str], list[str]] = defaultdict(list)
    reasons: dict[tuple[str, str], str] = {}
    for entry in report.declined:
        by_rule[entry.by, entry.rule].append(entry.node)
        reasons.setdefault((entry.by, entry.rule), entry.reason)
    table = _table(("by", "left"), ("rule", "left"), ("nodes", "right"), ("for example", "left"))
    for (by, rule), nodes in sorted(by_rule.items(), key=lambda item: -len(item[1])):
        table.add_row(_text(by), _text(rule), str(len(nodes)), _text(f"{nodes[0]}: {reasons[by, rule]}"))
    return table
