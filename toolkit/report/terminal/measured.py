"""Prints repeated measurements of a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from toolkit.contract.findings import Finding
from toolkit.report.conclusions.headline import headline
from toolkit.report.conclusions.verdict import verdict
from toolkit.report.findings import sentence
from toolkit.report.schema.accuracy import Accuracy
from toolkit.report.schema.report import DeviceInfo, Report
from toolkit.report.terminal.console import plain_text, section, table
from toolkit.report.terminal.engine import print_device
from toolkit.report.terminal.report import STYLES, print_accuracy

if TYPE_CHECKING:
    from rich.console import Console

_SLOWEST = 20


def print_accuracy_again(
    report: Report,
    accuracy: Accuracy | None,
    device: DeviceInfo | None,
    why: Finding | None,
    console: Console,
    changed: Finding | None = None,
) -> None:
    """Print the verdict and the accuracy figures.

    Args:
        accuracy: the accuracy in onnxruntime; None if the engine was run.
        device: the engine's results; None if it was not run.
        why: why the engine was not run.
        changed: the finding that the samples have changed since the run.
    """
    found = verdict(accuracy, device)
    said = headline(report.layers, accuracy, device)
    console.print(plain_text(said, STYLES[found]))
    if why is not None:
        console.print(plain_text(f"The engine was not run: {sentence(why)}"))
    if changed is not None:
        console.print(plain_text(f"Warning: {sentence(changed)}"))
    if accuracy is not None:
        print_accuracy(console, accuracy, found == "doubtful")
    if device is not None:
        print_device(device, console)


def print_times(
    gpu: str,
    times: Sequence[Mapping[str, Any]],
    layers: Mapping[str, Mapping[str, Mapping[str, float]]],
    lacks: Mapping[str, str],
    console: Console,
) -> None:
    """Print latencies of engines, and their slowest layers.

    Args:
        gpu: the GPU that they ran on.
        times: by engine and profile ``engine``, ``profile``, ``median``, ``least``, ``most`` and ``before``, in ms.
        layers: milliseconds by run, layer and profile.
        lacks: by name, why something was not measured.
    """
    section(console, f"Latency at opt shapes on {gpu or 'the GPU'}, all engines in turn")
    names = ("median, ms", "fastest round", "slowest round", "when built")
    grid = table(("engine", "left"), ("profile", "left"), *((name, "right") for name in names))
    for one in times:
        figures = [one["median"], one["least"], one["most"], one["before"]]
        cells = ["" if value is None else f"{value:.4f}" for value in figures]
        grid.add_row(plain_text(one["engine"]), plain_text(one["profile"]), *cells)
    console.print(grid)
    for what, why in lacks.items():
        console.print(plain_text(f"Not measured: {what}: {why}"))
    for run, found in layers.items():
        profiles = list(dict.fromkeys(profile for of_layer in found.values() for profile in of_layer))
        section(console, f"Layers of {run}, ms, the slowest first ({len(found)})")
        grid = table(("layer", "left"), *((profile, "right") for profile in profiles))
        for name in sorted(found, key=lambda name: -max(found[name].values()))[:_SLOWEST]:
            cells = [f"{found[name][p]:.4f}" if p in found[name] else "" for p in profiles]
            grid.add_row(plain_text(name), *cells)
        console.print(grid)
        if len(found) > _SLOWEST:
            console.print(plain_text(f"and {len(found) - _SLOWEST} more (--json has all)"))
