"""Commands about finished runs and their files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from toolkit.base.text import plain_lines
from toolkit.cli.options import AllowCode, Json, refuse_idle
from toolkit.cli.output import emit, say, tell

if TYPE_CHECKING:
    from toolkit.run.results.rendered import Rendered

RunPath = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]


def inspect(
    file: Annotated[
        Path, typer.Argument(help="A model, recipe, samples, run folder, or any file of one.", show_default=False)
    ],
    json: Json = False,
) -> int:
    """Show what is in a file or a run folder.

    Reads models, recipes, lock files, samples, engines, logs, journals, ranges, calibration and timing caches.
    """
    from toolkit.run.results.inspect import inspect as inspect_file

    return _show(inspect_file(file), json)


def explain(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    node: Annotated[
        str, typer.Argument(help="A node, or a tensor that it produces. Default: the whole run.", show_default=False)
    ] = "",
    json: Json = False,
) -> int:
    """Explain why a layer runs in the precision it does.

    What was requested, what runs and why, its neighbours, ranges, error and time, and what keeps it in float. Without a
    layer: why layers run in float, whether the engine is faster, and which layers cost accuracy.
    """
    from toolkit.run.results.inspect import explain_node

    return _show(explain_node(run, node), json)


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders or reports, or two files of ranges.", show_default=False)
    ],
    html: Annotated[Path | None, typer.Option(help="Also write the comparison as a page.")] = None,
    json: Json = False,
) -> int:
    """Compare runs, or two files of ranges.

    All other runs are compared with the first.
    """
    from toolkit.run.results.inspect import compare_files

    return _show(compare_files(runs, html), json)


def _show(found: Rendered, json: bool) -> int:
    """Print what is in a file, warnings first; with ``json`` they go to standard error."""
    for warning in found.warnings:
        (sys.stderr if json else sys.stdout).write(plain_lines(f"Warning: {warning}") + "\n")
    if json:
        emit(found.content)
    else:
        say(found.text)
    return 0


def view(
    run: Annotated[Path, typer.Argument(help="A run folder, or a page that compare wrote.", show_default=False)],
    json: Json = False,
) -> int:
    """Open a run's report in the browser.

    Without a browser, print where it is.
    """
    from toolkit.report.findings import sentence
    from toolkit.run.folder.state import unfinished_note
    from toolkit.run.results.view import open_page, page_of

    page = page_of(run)
    note = unfinished_note(page)
    opened = open_page(page)
    if json:
        emit({"page": str(page), "opened": opened, "warning": sentence(note) if note is not None else ""})
        return 0
    if note is not None:
        say(f"Warning: {sentence(note)}")
    say(
        str(page)
        if opened
        else f"{page}\nThere is no browser here: open this file where there is one; it needs nothing else."
    )
    return 0


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
) -> int:
    """Measure the engines of runs again, or predict their time.

    Engines are measured in turn on this machine's GPU; with --gpu nothing is measured, and the time on that GPU is
    predicted from its datasheet.
    """
    from toolkit.base.progress import Terminal
    from toolkit.report.terminal.console import make_console
    from toolkit.report.terminal.measured import print_times
    from toolkit.run.results.finished_run import FinishedRun
    from toolkit.run.results.remeasured_latency import remeasure_latency

    if gpu is not None:
        refuse_idle(context, ("rounds", "allow_code"), "with --gpu nothing is measured")
        _predict(runs, gpu, layers, json)
        return 0
    with Terminal() as terminal:
        finished = [FinishedRun.of(folder, allow_code, terminal.progress) for folder in runs]
        found = remeasure_latency(finished, rounds, layers, allow_code, terminal.progress)
    if json:
        emit(found.to_json())
    else:
        print_times(found.gpu, [vars(one) for one in found.times], found.layers, found.lacks, make_console())
    return 0


def _predict(folders: list[Path], gpu: str, layers: bool, json: bool) -> None:
    """Print the predicted times of runs on a GPU."""
    from toolkit.report.terminal.console import make_console, plain_text
    from toolkit.report.terminal.engine import print_prediction
    from toolkit.run.results.finished_run import FinishedRun
    from toolkit.run.results.remeasured_latency import predict_again

    found = {str(folder): predict_again(FinishedRun.of(folder), gpu) for folder in folders}
    if json:
        emit({"predicted": {folder: one.model_dump(mode="json") for folder, one in found.items()}})
        return
    console = make_console()
    for number, (folder, one) in enumerate(found.items()):
        if number:
            console.print()
        console.print(plain_text(folder, "bold"))
        print_prediction(one, console, **({"most": None} if layers else {}))


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
) -> int:
    """Evaluate a run's engine, or its model, on samples again."""
    from toolkit.base.errors import QtoolError, did_you_mean
    from toolkit.base.progress import Terminal
    from toolkit.report.terminal.console import make_console
    from toolkit.report.terminal.measured import print_accuracy_again
    from toolkit.run.results.finished_run import FinishedRun
    from toolkit.run.results.remeasured_accuracy import On, remeasure_accuracy

    if on not in get_args(On):
        raise QtoolError(f"--on is '{on}'", remedy=did_you_mean(on, get_args(On)))
    with Terminal() as terminal:
        finished = FinishedRun.of(run, allow_code, terminal.progress)
        found = remeasure_accuracy(finished, data, metric, samples, on)  # type: ignore[arg-type]
    if json:
        emit(found.to_json())
    else:
        print_accuracy_again(finished.report, found.accuracy, found.device, found.why, make_console(), found.changed)
    return found.exit_status


def export(
    run: RunPath,
    to: Annotated[
        str, typer.Option(help="trtexec, polygraphy, or onnxruntime: a float32 Q/DQ model.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option("--out", help="The folder. Default: export/<to> in the run.")] = None,
    allow_code: AllowCode = False,
    json: Json = False,
) -> int:
    """Write files that build or open a run's result elsewhere.

    Either the command line and files to build its engine with trtexec or Polygraphy, or a model for any runtime.
    """
    from toolkit.base.errors import QtoolError, did_you_mean
    from toolkit.run.results.export import To
    from toolkit.run.results.export import export as export_run
    from toolkit.run.results.finished_run import FinishedRun

    if to not in get_args(To):
        raise QtoolError(f"--to is '{to}'", remedy=did_you_mean(to, get_args(To)))
    found = export_run(FinishedRun.of(run, allow_code), to, out)  # type: ignore[arg-type]
    tell(found, json)
    return 0
