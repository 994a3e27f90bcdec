"""The engine's part of the terminal report: accuracy on the GPU, time, and groups that quantizing made slower."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.base.text import count
from toolkit.report.conclusions.speed import main_comparison
from toolkit.report.findings.engine.prediction import prediction_words, uncounted_words
from toolkit.report.findings.outputs.accuracy import change, level
from toolkit.report.findings.words import percent
from toolkit.report.schema.accuracy import Accuracy
from toolkit.report.schema.engine import DeviceInfo, PayoffInfo
from toolkit.report.schema.prediction import PredictionInfo
from toolkit.report.schema.report import Report
from toolkit.report.sections.payoff import unpaid
from toolkit.report.terminal.console import plain_text, section, table

if TYPE_CHECKING:
    from rich.console import Console

_MOST_GROUPS = 6
_MOST_PREDICTED = 8


def device_rows(device: DeviceInfo | None) -> list[tuple[str, Accuracy]]:
    """Each profile's accuracy on the GPU, then that over all profiles if there are several."""
    if device is None or device.status != "ran" or device.accuracy is None:
        return []
    rows = list(device.profiles.items())
    return rows if len(rows) == 1 else [*rows, ("all", device.accuracy)]


def print_engine(report: Report, console: Console) -> None:
    """Print the run on the GPU and the engine's time, as far as known."""
    if report.device is not None:
        print_device(report.device, console)
    if report.prediction is not None:
        print_prediction(report.prediction, console)
    if report.payoff is not None:
        _print_time(report.payoff, console)
        _print_unpaid(report.payoff, console)


def print_device(device: DeviceInfo, console: Console) -> None:
    """Print the engine's results on the GPU, or why it did not run."""
    if device.status == "skipped" and not device.gpu:
        console.print(plain_text(f"The engine was not run: {device.why}"))
    if device.status == "failed":
        section(console, f"Engine on the GPU{f' ({device.gpu})' if device.gpu else ''}: FAILED")
        console.print(plain_text(f"  {device.why}", "red"))
    rows = device_rows(device)
    if not rows:
        return
    samples = count(device.samples, "sample")
    section(console, f"Engine on the GPU ({device.gpu or 'unknown'}): {samples}")
    metric = rows[0][1].metric
    names = [("profile", "left"), ("samples", "right"), *([(metric, "right"), ("change", "left")] if metric else [])]
    grid = table(*names, ("output", "left"), ("SQNR, dB", "right"), ("cosine", "right"), ("agreement", "right"),
                 ("max abs diff", "right"))  # fmt: skip
    for profile, one in rows:
        for number, (name, output) in enumerate(one.outputs.items()):
            head = ["", ""] if number else [profile, str(one.samples)]
            if metric:
                score = "" if number or one.quantized is None else f"{one.quantized:.4g}"
                head += [score, "" if number or one.drop is None else change(one.drop, one)]
            agreement = "" if output.agreement is None else percent(output.agreement)
            cosine = "" if output.cosine is None else f"{output.cosine:.5f}"
            largest = "" if output.max_abs is None else f"{output.max_abs:.3g}"
            cells = [*head, name, level(output), cosine, agreement, largest]
            grid.add_row(*(plain_text(cell) for cell in cells))
    console.print(grid)


def _print_time(payoff: PayoffInfo, console: Console) -> None:
    found = main_comparison(payoff)
    name, latencies = (found[0].upper(), found[1].profiles) if found is not None else ("", {})
    section(console, f"Latency at the opt shapes, ms{f', against the unquantized model in {name}' if name else ''}")
    compared = [("quantized", "right"), (name, "right"), ("ratio", "right")] if latencies else []
    grid = table(("profile", "left"), *compared, ("layers", "right"), ("reformats", "right"), ("Q/DQ kernels", "right"))
    for profile in dict.fromkeys((*latencies, *payoff.overhead)):
        times, spent = latencies.get(profile), payoff.overhead.get(profile)
        cells = [profile]
        if latencies:
            cells += [f"{times.ours_ms:.3f}", f"{times.other_ms:.3f}", f"{times.ratio:.3f}"] if times else [""] * 3
        cells += (
            [f"{spent.layers_ms:.3f}", f"{spent.reformat_ms:.3f} in {spent.reformats}",
             f"{spent.qdq_ms:.3f} in {spent.qdq_kernels}"]
            if spent else [""] * 3
        )  # fmt: skip
        grid.add_row(*(plain_text(cell) for cell in cells))
    console.print(grid)


def _print_unpaid(payoff: PayoffInfo, console: Console) -> None:
    found = main_comparison(payoff)
    dear = unpaid(found[1]) if found is not None else []
    if found is None or not dear:
        return
    section(console, f"Slower quantized than in {found[0].upper()}: {len(dear)} of {len(found[1].groups)} layer groups")
    grid = table(("group", "left"), ("profile", "left"), ("ms", "right"), (found[0].upper(), "right"), ("why", "left"))
    for group in dear[:_MOST_GROUPS]:
        profile, times = group.worst, group.times[group.worst]
        more = f" and {len(group.nodes) - 1} more" if len(group.nodes) > 1 else ""
        cells = [group.name + more, profile, f"{times.ours_ms:.4f}", f"{times.other_ms:.4f}", group.why]
        grid.add_row(*(plain_text(cell) for cell in cells))
    console.print(grid)


def print_prediction(found: PredictionInfo, console: Console, most: int | None = _MOST_PREDICTED) -> None:
    """Print a predicted time and the ``most`` slowest layers (None: all), each with its bounds."""
    section(console, f"PREDICTED time on {found.gpu}, from its datasheet: nothing was measured")
    if found.ms is None:
        console.print(plain_text(f"  {uncounted_words(found)}"))
        return
    console.print(plain_text(f"  {prediction_words(found)}"))
    names = ("arithmetic, µs", "memory, µs", "launches, µs", "all, µs")
    grid = table(("layer", "left"), ("type", "left"), *((name, "right") for name in names), ("limited by", "left"))
    for one in found.layers[:most]:
        values = (one.arithmetic_ms, one.memory_ms, one.launch_ms, one.ms)
        grid.add_row(plain_text(one.node), str(one.precision), *(f"{1e3 * value:.2f}" for value in values), one.bound)
    console.print(grid)
    if most is not None and len(found.layers) > most:
        console.print(plain_text(f"and {len(found.layers) - most} more"))
