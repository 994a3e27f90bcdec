"""Commands about this machine and about finished runs; registered in main.py and as thin as the commands there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.options import AllowCode, Json, refuse_idle

RunPath = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]


def view(
    run: Annotated[Path, typer.Argument(help="A run folder, or a page that compare wrote.", show_default=False)],
    json: Json = False,
) -> None:
    """Open a run's report in the browser.

    Without a browser, print where it is.
    """
    from toolkit.cli.commands_runs import view_run

    raise typer.Exit(view_run(run, json))


def doctor(json: Json = False) -> None:
    """Show what this machine can build, run and measure.

    Lists what is installed, what qtool can do with it, and how to fix the rest.
    """
    from toolkit.cli.commands_runs import examine_machine

    raise typer.Exit(examine_machine(json))


def time(
    context: typer.Context,
    runs: Annotated[
        list[Path], typer.Argument(help="A run folder, or several to measure in turn.", show_default=False)
    ],
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="How often each engine is measured.")] = 5,
    layers: Annotated[
        bool, typer.Option("--layers", help="Time each layer too, with TensorRT's profiler, and list them all.")
    ] = False,
    gpu: Annotated[
        str | None,
        typer.Option(help="Measure nothing: predict the time on this GPU from its datasheet.", show_default=False),
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let a version-compatible engine run the code that it contains.")
    ] = False,
    json: Json = False,
) -> None:
    """Measure the engines of runs again, or predict their time.

    Engines are measured in turn on this machine's GPU; with --gpu nothing is measured, and the time on that GPU is
    predicted from its datasheet.
    """
    from toolkit.cli.commands_runs import predict_runs, time_runs

    if gpu is not None:
        refuse_idle(context, ("rounds", "allow_code"), "with --gpu nothing is measured")
        raise typer.Exit(predict_runs(runs, gpu, layers, json))
    raise typer.Exit(time_runs(runs, rounds, layers, allow_code, json))


def accuracy(
    run: RunPath,
    data: Annotated[
        str | None, typer.Option(help="Other samples than the recipe's: a file, folder or module:Name.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Another metric than the recipe's, with its usual limit.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Use at most this many samples.")] = None,
    on: Annotated[
        str, typer.Option(help="What is run: engine, onnxruntime (model.onnx on the CPU), or auto, the first that can.")
    ] = "auto",
    allow_code: AllowCode = False,
    json: Json = False,
) -> None:
    """Evaluate a run's engine, or its model, on samples again."""
    from toolkit.cli.commands_runs import measure_accuracy

    raise typer.Exit(measure_accuracy(run, data, metric, samples, on, allow_code, json))


def export(
    run: RunPath,
    to: Annotated[
        str, typer.Option(help="trtexec, polygraphy, or onnxruntime: a float32 Q/DQ model.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option("--out", help="The folder. Default: export/<to> in the run.")] = None,
    allow_code: AllowCode = False,
    json: Json = False,
) -> None:
    """Write files that build or open a run's result elsewhere.

    Either the command line and files to build its engine with trtexec or Polygraphy, or a model for any runtime.
    """
    from toolkit.cli.commands_runs import export_run

    raise typer.Exit(export_run(run, to, out, allow_code, json))
