"""The report in the terminal: the verdict first, then counts, accuracy, the worst layers and declined nodes.

Names from the model are shown literally, never interpreted as markup, with control characters made visible.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base.text import count
from toolkit.report.conclusions.headline import evidence, opened_words
from toolkit.report.conclusions.verdict import worst
from toolkit.report.findings.commands.explanation import decibels
from toolkit.report.findings.outputs.accuracy import (
    agreement_name,
    amount,
    change,
    drop_interval,
    source_words,
    with_points,
)
from toolkit.report.findings.outputs.tasks import limit_words, part_words
from toolkit.report.findings.quantization.search import bound_words, search_line
from toolkit.report.findings.words import percent
from toolkit.report.schema.accuracy import OutputError
from toolkit.report.schema.report import NONE, Accuracy, LayerInfo, Report, word
from toolkit.report.sections.shares import share_words
from toolkit.report.terminal.console import PLAIN_WIDTH, make_console, plain_text, section, table
from toolkit.report.terminal.engine import print_engine

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

STYLES = {
    "usable": "bold green",
    "doubtful": "bold yellow",
    "missed": "bold yellow",
    "broken": "bold red",
    "unmeasured": "bold",
    "outdated": "bold red",
}
_WORST = 8
_SET, _MATCHED = "they are compared as a set", "those that both models have are compared"


def print_report(report: Report, console: Console | None = None, *, files: Sequence[Path | str] = ()) -> None:
    """Print the report; without a terminal as plain text with unbroken lines.

    Args:
        report: the report to print.
        console: where to print; None for standard output.
        files: the files that the run wrote, named at the end.
    """
    console = console or make_console()
    _print_verdict(console, report)
    _print_precisions(console, report)
    if report.accuracy is not None:
        print_accuracy(console, report.accuracy, report.summary.verdict == "doubtful")
    print_engine(report, console)
    _print_layers(console, report)
    if report.summary.next:
        section(console, "What to try next")
    for suggestion in report.summary.next:
        console.print(plain_text(f"- {suggestion.text}"))
    _print_end(console, report, files)


def _print_verdict(console: Console, report: Report) -> None:
    """The first line, and the facts behind it, one per line."""
    summary = report.summary
    console.print(plain_text(summary.headline, STYLES[summary.verdict]))
    console.print(plain_text(_backend_line(report)))
    if given := report.recipe.given:
        console.print(
            plain_text(f"Given by --set: {', '.join(f'{key} = {json.dumps(v)}' for key, v in given.items())}")
        )
    if known := evidence(report.layers):
        console.print(plain_text(f"Actual precisions: {known}"))
    for words in (opened_words(report.layers), share_words(summary)):
        if words:
            console.print(plain_text(words))
    if report.search is not None:
        console.print(plain_text(search_line(report.search)))
        if summary.bound:
            console.print(plain_text(f"{bound_words(report.search)}:"))
    for line in (*(f"- {one}" for one in summary.bound), *summary.helpers):
        console.print(plain_text(line))
    for warning in summary.warnings:
        console.print(plain_text(f"Warning: {warning}", "yellow"))


def _backend_line(report: Report) -> str:
    backend = report.backend
    said = " ".join(part for part in (backend.name, backend.version) if part)
    # a reason that is also a warning is printed with the warnings
    reason = "" if backend.reason in report.summary.warnings else backend.reason
    details = [backend.typing and f"{backend.typing} typing", reason]
    if backend.engine_bytes is not None:
        details.insert(0, f"engine {size(backend.engine_bytes)}")
    return f"Backend {said}" + (f": {', '.join(one for one in details if one)}" if any(details) else "")


def _print_precisions(console: Console, report: Report) -> None:
    summary = report.summary
    layers, others = count(summary.computing, "computing layer"), summary.nodes - summary.computing
    section(console, f"Requested and actual precision of {layers} ({count(others, 'other node')})")
    console.print(_matrix(report))
    for line in summary.floats:
        console.print(plain_text(line))


def _print_layers(console: Console, report: Report) -> None:
    """The layers with the largest error, and the nodes that passes declined."""
    if bad := worst(report.layers, _WORST):
        seen = report.accuracy
        few = f" on {seen.layer_samples} of {count(seen.samples, 'sample')}" if seen and seen.on_fewer else ""
        section(console, f"Layers with the largest error{few}")
        console.print(_worst_table(bad))
    if report.declined:
        section(console, "Declined")
        console.print(_declined_table(report))


def _print_end(console: Console, report: Report, files: Sequence[Path | str]) -> None:
    """The steps with their total time, and the files."""
    if report.steps:
        reused = [step.name for step in report.steps if step.status == "reused"]
        seconds = sum(step.seconds for step in report.steps)
        words = f"reused {', '.join(reused)}" if reused else "nothing reused"
        console.print()
        console.print(plain_text(f"{count(len(report.steps), 'step')} in {seconds:.1f} s, {words}"))
    if files and not report.steps:
        console.print()
    if files:
        console.print(plain_text("Wrote " + ", ".join(str(file) for file in files)))


def to_text(report: Report, *, files: Sequence[Path | str] = (), width: int = PLAIN_WIDTH) -> str:
    """The report as plain text, without escape sequences."""
    from rich.console import Console

    buffer = io.StringIO()
    console = Console(file=buffer, width=width, force_terminal=False, color_system=None, legacy_windows=False)
    print_report(report, console, files=files)
    return buffer.getvalue()


def size(count: int) -> str:
    """A number of bytes in words."""
    value = float(count)
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def _matrix(report: Report) -> Table:
    computing = report.computing
    tally: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for layer in computing:
        tally[word(layer.asked_precision)][word(layer.actual.precision)] += 1
    rows = [w for w in (*report.summary.by_asked, NONE) if w in tally]
    columns = [w for w in dict.fromkeys((*report.summary.by_actual, NONE)) if any(w in row for row in tally.values())]
    grid = table(
        ("requested", "left"), *((f"runs {w}" if w != NONE else "unknown", "right") for w in columns), ("all", "right"),
    )  # fmt: skip
    for asked in dict.fromkeys(rows):
        cells = [str(tally[asked][w] or "") for w in columns]
        grid.add_row(asked, *cells, str(sum(tally[asked].values())))
    return grid


def print_accuracy(console: Console, accuracy: Accuracy, doubted: bool) -> None:
    """Print the accuracy figures with notes; if ``doubted``, without the first doubt, which the first line states."""
    held = "held out" if accuracy.held_out else "seen by calibration"
    by = f", {words}" if (words := source_words(accuracy)) else ""
    section(console, f"Accuracy on {count(accuracy.samples, 'sample')} ({held}){by}")
    if accuracy.quantized is not None and accuracy.before is not None:
        console.print(plain_text(f"  {_metric_words(accuracy, accuracy.before, accuracy.quantized)}"))
    if accuracy.task is not None:
        console.print(plain_text(f"  {accuracy.task.why}"))
    for part in accuracy.parts:
        interval = f"95 % interval {percent(part.low)} to {percent(part.high)}"
        console.print(plain_text(f"  {part_words(part, named=True)}; {limit_words(part)}; {interval}"))
    for rule in dict.fromkeys(part.rule for part in accuracy.parts if part.rule):
        console.print(plain_text(f"  {rule}"))
    for name, output in accuracy.outputs.items():
        after = f" (after {output.squashed_by})" if output.squashed_by else ""
        console.print(plain_text(f"  output {name}{after}: {', '.join(_output_figures(output))}"))
    doubts = accuracy.doubts[1:] if doubted else accuracy.doubts
    for note in dict.fromkeys((*accuracy.misses, *doubts, *accuracy.notes)):
        console.print(plain_text(f"  {note}"))


def _metric_words(accuracy: Accuracy, before: float, quantized: float) -> str:
    """The metric of the float and the quantized model, its drop, and the drop's budget, in words."""
    words = f"{accuracy.metric or 'metric'}: float {before:.4g}, quantized {quantized:.4g}"
    if accuracy.drop is not None:
        words += f", {with_points(change(accuracy.drop, accuracy), accuracy.drop, accuracy)}{drop_interval(accuracy)}"
    if (most := accuracy.most_drop) is not None:
        # other missed limits have separate lines
        within = ", not decided" if accuracy.drop_over else ", kept"
        kept = {None: "", False: ", missed"}.get(accuracy.drop_kept, within)
        budget = amount(most, accuracy.in_points)
        words += f", budget {with_points(budget, most, accuracy)}{kept}"
    return words


def _output_figures(output: OutputError) -> list[str]:
    """An output's figures compared with the float model, each in words."""
    figures = [f"its rows are ranked by score, so {_SET if output.unknown else _MATCHED}"] if output.ranked else []
    figures += ["identical to float"] if output.identical else []
    figures += [f"SQNR {output.sqnr_db:.1f} dB"] if output.sqnr_db is not None else []
    figures += [f"cosine similarity {output.cosine:.5f}"] if output.cosine is not None else []
    if output.agreement is not None:
        figures.append(f"{agreement_name(output.discrete)} {percent(output.agreement)}")
    figures += ["NaN or infinity"] if output.incomparable else []
    figures += [f"max abs difference {output.max_abs:.3g}"] if output.max_abs else []
    return figures


def _worst_table(layers: Sequence[LayerInfo]) -> Table:
    grid = table(("node", "left"), ("op", "left"), ("requested", "left"),
                   ("actual", "left"), ("SQNR, dB", "right"), ("below inputs, dB", "right"))  # fmt: skip
    for layer in layers:
        drop = layer.error.drop_db if layer.error else None
        grid.add_row(
            plain_text(layer.node), plain_text(layer.op), word(layer.asked_precision),
            word(layer.actual.precision), decibels(layer.error), "" if drop is None else f"{drop:+.1f}",
        )  # fmt: skip
    return grid


def _declined_table(report: Report) -> Table:
    by_rule: dict[tuple[str, str], list[str]] = defaultdict(list)
    reasons: dict[tuple[str, str], str] = {}
    for entry in report.declined:
        by_rule[entry.by, entry.rule].append(entry.node)
        reasons.setdefault((entry.by, entry.rule), entry.reason)
    grid = table(("by", "left"), ("rule", "left"), ("nodes", "right"), ("example", "left"))
    for (by, rule), nodes in sorted(by_rule.items(), key=lambda item: -len(item[1])):
        grid.add_row(plain_text(by), plain_text(rule), str(len(nodes)), plain_text(f"{nodes[0]}: {reasons[by, rule]}"))
    return grid
