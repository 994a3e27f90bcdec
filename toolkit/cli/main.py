"""The qtool command: thin commands over the library. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.cli import analysis as cli_analysis
from toolkit.cli import runs as cli_runs
from toolkit.cli.options import AllowCode, Json, OnPlace, Out, RecipePath, Set, refuse_idle, with_place

if TYPE_CHECKING:
    from toolkit.base.errors import QtoolError

app = typer.Typer(
    name="qtool",
    help="From a float ONNX model to a mixed-precision TensorRT engine, with the precision of every layer explained.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(value: bool) -> None:
    if value:
        from toolkit.base.version import __version__

        typer.echo(f"qtool {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    _State.debug = _State.debug or debug


_KEEPING = frozenset({"run", "calibrate", "sensitivity", "bisect"})
"""Commands that resume when they are run again after an interruption."""


class _State:
    debug = False


@app.command()
def run(
    recipe: RecipePath,
    out: Out = None,
    settings: Set = None,
    backend: Annotated[
        str | None,
        typer.Option(help="As --set engine.backend: auto, tensorrt, tensorrt_rtx or none.", show_default=False),
    ] = None,
    allow_code: AllowCode = False,
    device_check: Annotated[
        bool | None,
        typer.Option(
            "--device-check/--no-device-check",
            help="Require a run of the engine on this machine's GPU, or skip it. Default: run if there is one.",
            show_default=False,
        ),
    ] = None,
    open_blocks: Annotated[
        bool,
        typer.Option("--open", help="Rebuild opaque blocks with inner tensors marked, to see their precision."),
    ] = False,
    gpu: Annotated[
        str | None,
        typer.Option(help="As --set report.gpu: predict the time on this GPU, such as L4.", show_default=False),
    ] = None,
    on: OnPlace = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done and what would be reused, and why.")
    ] = False,
    json: Json = False,
) -> None:
    """Run a recipe: calibrate, quantize, build, measure, report."""
    from toolkit.cli.commands import preview_run, run_recipe

    given = [*with_place(settings, on), *([f"engine.backend={backend}"] if backend is not None else ())]
    given += ["engine.open=true"] if open_blocks else []
    given += [f"report.gpu={gpu}"] if gpu is not None else []
    if dry_run:
        raise typer.Exit(preview_run(recipe, out, given, allow_code, json, device_check))
    raise typer.Exit(run_recipe(recipe, out, given, allow_code, json, device_check))


@app.command()
def check(recipe: RecipePath, settings: Set = None, allow_code: AllowCode = False, json: Json = False) -> None:
    """Read a recipe and show what a run would do.

    Reads the model and all samples; calibrates and builds nothing.
    """
    from toolkit.cli.commands import check_recipe

    raise typer.Exit(check_recipe(recipe, settings or (), allow_code, json))


@app.command()
def new(
    model: Annotated[Path, typer.Argument(help="An ONNX model.", show_default=False)],
    data: Annotated[Path | None, typer.Option(help="Calibration data; profiles are derived from its shapes.")] = None,
    test: Annotated[Path | None, typer.Option(help="Test data with labels.")] = None,
    metric: Annotated[str | None, typer.Option(help="The metric for the test data; see `qtool metrics`.")] = None,
    ranges: Annotated[
        Path | None, typer.Option(help="Ranges to use: a calibration cache or a table; then no data is needed.")
    ] = None,
    keep_pairs: Annotated[
        bool, typer.Option("--keep-pairs", help="Build a model that has Q/DQ pairs as it is.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="The recipe to write. Default: <model>.toml here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing recipe.")] = False,
    json: Json = False,
) -> None:
    """Write a recipe that fits a model."""
    from toolkit.cli.commands import new_recipe

    raise typer.Exit(new_recipe(model, data, test, metric, ranges, out, force, json, keep_pairs))


@app.command(context_settings={"ignore_unknown_options": True})
def migrate(
    context: typer.Context,
    source: Annotated[
        list[str],
        typer.Argument(
            help="A trtexec or polygraphy command line, as it is or in a script; a Python script with its "
            "arguments; a calibration cache; or a model with Q/DQ pairs.",
            show_default=False,
        ),
    ],
    model: Annotated[Path | None, typer.Option(help="The ONNX model, where the source names none.")] = None,
    cache: Annotated[Path | None, typer.Option(help="The calibration cache, where the source names none.")] = None,
    data: Annotated[Path | None, typer.Option(help="Calibration samples, where there are no ranges.")] = None,
    test: Annotated[Path | None, typer.Option(help="Samples to measure both forms on.")] = None,
    rest: Annotated[
        str | None, typer.Option(help="The float type, where a cache or a model sets none. Default: fp16.")
    ] = None,
    to: Annotated[
        str, typer.Option(help="explicit; or implicit, to convert a model with pairs or a run folder back.")
    ] = "explicit",
    release: Annotated[
        str, typer.Option("--tensorrt", help="--to implicit: the release of TensorRT that reads the cache.")
    ] = "8.6.0",
    capability: Annotated[
        list[str] | None, typer.Option(help="Compute capability of a GPU that the engine is for, such as 8.6.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The folder. Default: migrated/<model>.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an earlier migration.")] = False,
    json: Json = False,
) -> None:
    """Turn trtexec lines, scripts and caches into a recipe.

    The settings of TensorRT's builder become an equivalent recipe and Q/DQ model; nothing is run.
    """
    from toolkit.cli.commands import migrate_source

    if to == "implicit":
        back = "with --to implicit, everything written comes from the model's pairs"
        refuse_idle(context, ("model", "cache", "data", "test", "rest", "capability"), back)
    else:
        refuse_idle(context, ("release",), "it is the release that --to implicit writes a cache for")
    raise typer.Exit(
        migrate_source(source, model, cache, data, test, rest, to, release, capability or [], out, force, json)
    )


@app.command()
def passes(
    name: Annotated[str | None, typer.Argument(help="One pass, or your own as module:Name; default: all.")] = None,
    json: Json = False,
) -> None:
    """List the passes installed here, with their settings."""
    from toolkit.cli.commands import list_passes

    raise typer.Exit(list_passes(name, json))


@app.command()
def metrics(json: Json = False) -> None:
    """List the metrics by task, and the labels that they expect."""
    from toolkit.cli.commands import list_metrics

    raise typer.Exit(list_metrics(json))


@app.command()
def inspect(
    file: Annotated[
        Path, typer.Argument(help="A model, recipe, samples, run folder, or any file of one.", show_default=False)
    ],
    json: Json = False,
) -> None:
    """Show what is in a file or a run folder.

    Reads models, recipes, lock files, samples, engines, logs, journals, ranges, calibration and timing caches.
    """
    from toolkit.cli.commands import inspect_file

    raise typer.Exit(inspect_file(file, json))


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    node: Annotated[
        str, typer.Argument(help="A node, or a tensor that it produces. Default: the whole run.", show_default=False)
    ] = "",
    json: Json = False,
) -> None:
    """Explain why a layer runs in the precision it does.

    What was requested, what runs and why, its neighbours, ranges, error and time, and what keeps it in float. Without a
    layer: why layers run in float, whether the engine is faster, and which layers cost accuracy.
    """
    from toolkit.cli.commands import explain_node

    raise typer.Exit(explain_node(run, node, json))


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders or reports, or two files of ranges.", show_default=False)
    ],
    html: Annotated[Path | None, typer.Option(help="Also write the comparison as a page.")] = None,
    json: Json = False,
) -> None:
    """Compare runs, or two files of ranges.

    All other runs are compared with the first.
    """
    from toolkit.cli.commands import compare_runs

    raise typer.Exit(compare_runs(runs, html, json))


@app.command()
def schema(
    what: Annotated[str, typer.Argument(help="report or recipe")] = "report",
) -> None:
    """Print the JSON Schema of report.json or of a recipe."""
    from toolkit.cli.commands import print_schema

    raise typer.Exit(print_schema(what))


@app.command()
def calibrate(
    recipe: RecipePath,
    shard: Annotated[str | None, typer.Option(help="Take only a share of the samples: i/n, such as 2/8.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write. Default: runs/<recipe>/collection[-i-of-n].npz.")
    ] = None,
    settings: Set = None,
    on: OnPlace = None,
    allow_code: AllowCode = False,
    json: Json = False,
) -> None:
    """Collect calibration statistics on all samples or a share.

    [calibration] collection then uses them instead of running the model.
    """
    from toolkit.cli.commands_calibration import calibrate as collect

    raise typer.Exit(collect(recipe, shard, out, with_place(settings, on), allow_code, json))


@app.command()
def merge(
    parts: Annotated[list[Path], typer.Argument(help="What calibrate --shard wrote.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The file to write.", show_default=False)],
    json: Json = False,
) -> None:
    """Join the statistics of all shards of a calibration."""
    from toolkit.cli.commands_calibration import merge as join

    raise typer.Exit(join(parts, out, json))


app.command()(cli_analysis.sensitivity)
app.command()(cli_analysis.bisect)
app.command()(cli_runs.view)
app.command()(cli_runs.time)
app.command()(cli_runs.accuracy)
app.command()(cli_runs.export)
app.command()(cli_runs.doctor)


def main(arguments: list[str] | None = None) -> None:
    """Run the command. Errors are printed as one paragraph, without a traceback unless --debug is given."""
    from toolkit.base.streams import open_closed_streams

    open_closed_streams()
    sys.exit(invoke(sys.argv[1:] if arguments is None else arguments))


def invoke(arguments: list[str]) -> int:
    """Run the command with these arguments and return its exit status."""
    from toolkit.base.errors import QtoolError, StoppedError, system_fault
    from toolkit.cli.words import empty_word

    # --debug is accepted anywhere on the line, since that is where people add it
    _State.debug = "--debug" in arguments
    words = [word for word in arguments if word != "--debug"]
    json = "--json" in words
    if (empty := empty_word(words)) is not None:
        return _refuse(empty, json)
    try:
        with _ended_as_by_interrupt():
            status: Any = _command()(args=words, standalone_mode=False, prog_name="qtool")
    except QtoolError as error:
        if _State.debug:
            raise
        return _refuse(error, json)
    except KeyboardInterrupt:
        return _refuse(StoppedError(_stopped(words)), json)
    except SystemExit as end:
        # showing and installing shell completion ends this way
        return int(end.code or 0)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "format_message"):
            if json:
                return _refuse(QtoolError(error.format_message()), json)
            error.show()
            return 2
        if _State.debug:
            raise
        bug = QtoolError(
            f"{type(error).__name__}: {error}. This is a bug in qtool: run again with --debug and report it"
        )
        return _refuse(system_fault(error) or bug, json)
    if status == 130:
        return _refuse(StoppedError(_stopped(words)), json)
    return int(status or 0)


def _stopped(words: list[str]) -> str:
    """What remains of a stopped command: only commands that work in a run folder keep anything."""
    if _KEEPING.isdisjoint(words[:1]):
        return "stopped"
    return "stopped; finished steps are kept, and the same command resumes from there"


@cache
def _command() -> Callable[..., Any]:
    """The parser built from all functions, once per process: building it takes longer than many commands."""
    return typer.main.get_command(app)


@contextmanager
def _ended_as_by_interrupt() -> Iterator[None]:
    """SIGTERM ends the block like Ctrl-C: temporary files are removed, finished steps are kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if before is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, before)


def _refuse(error: QtoolError, json: bool) -> int:
    """Print an error, as JSON if requested, and return its exit status."""
    from toolkit.base.text import plain

    if json:
        from toolkit.cli.commands import emit

        said = {"kind": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
        emit({"error": said, "exit_status": error.exit_status})
    sys.stderr.write(f"qtool: {plain(' '.join(str(error).split()))}\n")
    return error.exit_status


if __name__ == "__main__":
    main()
