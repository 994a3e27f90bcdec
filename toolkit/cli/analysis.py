"""Commands that find the layers that cost accuracy; registered in main.py and as thin as the commands there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.options import AllowCode, Json, OnPlace, Out, RecipePath, Set, with_place

MostSamples = Annotated[int | None, typer.Option(min=1, help="Use at most this many samples.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Samples to run at once.")]
Data = Annotated[str, typer.Option(help="The samples to decide on: calibration or evaluation.")]


def sensitivity(
    recipe: RecipePath,
    out: Out = None,
    settings: Set = None,
    fast: Annotated[bool, typer.Option("--fast", help="Estimate at the cost of at most ten float inferences.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Processes to share the work; the numbers stay the same.")] = 1,
    on: OnPlace = None,
    samples: MostSamples = None,
    batch: BatchOption = 64,
    data: Data = "calibration",
    allow_code: AllowCode = False,
    json: Json = False,
) -> None:
    """Measure which layers cost accuracy.

    For each layer: the loss from quantizing it alone, and the gain from keeping it alone in float. For the worst: the
    cause, and what helps.
    """
    from toolkit.cli.commands_analysis import sensitivity as measure

    given = with_place(settings, on)
    raise typer.Exit(measure(recipe, out, given, fast, processes, samples, batch, data, allow_code, json))


def bisect(
    recipe: RecipePath,
    out: Out = None,
    settings: Set = None,
    max_drop: Annotated[float | None, typer.Option(help="Passes if the metric drops by at most this.")] = None,
    min_sqnr_db: Annotated[float | None, typer.Option(help="Passes if every output has this SQNR.")] = None,
    min_agreement: Annotated[float | None, typer.Option(help="Passes if top-1 agreement is at least this.")] = None,
    command: Annotated[
        str | None,
        typer.Option(help="Passes if this command exits 0; {model} is the model.onnx that a run writes, {{x}} is {x}."),
    ] = None,
    reads: Annotated[
        list[Path] | None,
        typer.Option(help="A file or folder that --command reads; if all are given, its verdicts are cached."),
    ] = None,
    samples: MostSamples = None,
    batch: BatchOption = 64,
    data: Data = "calibration",
    repeats: Annotated[
        int, typer.Option(min=1, help="How often to run the check on both extremes, to detect flaky checks.")
    ] = 2,
    precision: Annotated[
        str | None, typer.Option(help="What kept layers run in: fp16, bf16, fp32; default: [engine] rest.")
    ] = None,
    on: Annotated[
        str, typer.Option(help="What is checked: simulation (of the ONNX model), or engine (each built and run here).")
    ] = "simulation",
    allow_code: AllowCode = False,
    json: Json = False,
) -> None:
    """Find a minimal set of layers that must stay in float.

    With these layers in float a check passes: an SQNR, a metric's drop, or your own command.
    """
    from toolkit.cli.commands_analysis import bisect as find

    status = find(
        recipe, out, settings or (), max_drop, min_sqnr_db, min_agreement, command, tuple(reads or ()), samples, batch,
        data, repeats, precision, allow_code, on, json,
    )  # fmt: skip
    raise typer.Exit(status)
