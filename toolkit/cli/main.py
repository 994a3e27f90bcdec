"""The qtool command. Each subcommand is a function that imports the library when it is called."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.cli import analysis, installed, recipes, runs

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
_UNREAD = 128 + 13
"""The exit status if the reader of the output ends first, as in ``qtool passes | head``: that of SIGPIPE in a shell."""


class _State:
    debug = False


_COMMANDS = (
    recipes.run, recipes.check, recipes.new, recipes.migrate, installed.passes, installed.metrics, runs.inspect,
    runs.explain, runs.compare, installed.schema, recipes.calibrate, recipes.merge, analysis.sensitivity,
    analysis.bisect, runs.view, runs.time, runs.accuracy, runs.export, installed.doctor,
)  # fmt: skip
for _command in _COMMANDS:
    # only migrate takes unknown options: those of another tool's command line
    app.command(context_settings={"ignore_unknown_options": _command is recipes.migrate})(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command. Errors are printed as one paragraph, without a traceback unless --debug is given."""
    from toolkit.base.streams import open_closed_streams

    open_closed_streams()
    sys.exit(invoke(sys.argv[1:] if arguments is None else arguments))


def invoke(arguments: list[str]) -> int:
    """Run the command with these arguments and return its exit status."""
    from toolkit.base.errors import QtoolError, StoppedError, system_fault
    from toolkit.cli.output import only_json
    from toolkit.cli.words import empty_word, usage_error

    # --debug is accepted anywhere on the line, since that is where people add it
    _State.debug = "--debug" in arguments
    words = [word for word in arguments if word != "--debug"]
    json = "--json" in words
    if (empty := empty_word(words)) is not None:
        return _refuse(empty, json)
    try:
        with only_json(json and "--help" not in words), _ended_as_by_interrupt():
            status: Any = _parser()(args=words, standalone_mode=False, prog_name="qtool")
    except QtoolError as error:
        if _State.debug:
            raise
        return _refuse(error, json)
    except KeyboardInterrupt:
        return _refuse(StoppedError(_stopped(words)), json)
    except SystemExit as end:
        # showing and installing shell completion ends this way, and so does a reader that takes no more output
        return _UNREAD if isinstance(end.__context__, BrokenPipeError) else int(end.code or 0)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "format_message"):
            if not words:
                error.show()
                return 2
            named = next((one for one in _COMMANDS if one.__name__ == words[0]), None)
            return _refuse(usage_error(error, words, named), json)
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
def _parser() -> Callable[..., Any]:
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
        from toolkit.cli.output import emit

        said = {"kind": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
        emit({"error": said, "exit_status": error.exit_status})
    sys.stderr.write(f"qtool: {plain(' '.join(str(error).split()))}\n")
    return error.exit_status


if __name__ == "__main__":
    main()
