"""What the commands about this machine and about finished runs do, without typer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from toolkit.base.errors import QtoolError, did_you_mean
from toolkit.cli.commands import emit, say


def view_run(path: Path, json: bool) -> int:
    """``qtool view``: open a run's report. Returns the exit status."""
    from toolkit.report.findings import sentence
    from toolkit.run.folder.state import unfinished_note
    from toolkit.run.results.view import open_page, page_of

    page = page_of(path)
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


def examine_machine(json: bool) -> int:
    """``qtool doctor``: print what this machine can do. Returns the exit status."""
    from toolkit.run.checks.doctor import examine

    found = examine()
    if json:
        emit(found.to_json())
    else:
        say(found.to_text())
    return 1 if found.missing else 0


def time_runs(folders: Sequence[Path], rounds: int, layers: bool, allow_code: bool, json: bool) -> int:
    """``qtool time``: time the engines of runs in turn on this GPU. Returns the exit status."""
    from toolkit.base.progress import Terminal
    from toolkit.report.terminal.console import make_console
    from toolkit.report.terminal.measured import print_times
    from toolkit.run.results.finished_run import FinishedRun
    from toolkit.run.results.remeasured_latency import remeasure_latency

    with Terminal() as terminal:
        runs = [FinishedRun.of(folder, allow_code, terminal.progress) for folder in folders]
        found = remeasure_latency(runs, rounds, layers, allow_code, terminal.progress)
    if json:
        emit(found.to_json())
    else:
        print_times(found.gpu, [vars(one) for one in found.times], found.layers, found.lacks, make_console())
    return 0


def predict_runs(folders: Sequence[Path], gpu: str, layers: bool, json: bool) -> int:
    """``qtool time --gpu``."""
    from toolkit.report.terminal.console import make_console, plain_text
    from toolkit.report.terminal.engine import print_prediction
    from toolkit.run.results.finished_run import FinishedRun
    from toolkit.run.results.remeasured_latency import predict_again

    found = {str(folder): predict_again(FinishedRun.of(folder), gpu) for folder in folders}
    if json:
        emit({"predicted": {folder: one.model_dump(mode="json") for folder, one in found.items()}})
        return 0
    console = make_console()
    for number, (folder, one) in enumerate(found.items()):
        console.print(plain_text(f"{chr(10) if number else ''}{folder}", "bold"))
        print_prediction(one, console, **({"most": None} if layers else {}))
    return 0


def measure_accuracy(
    folder: Path, data: str | None, metric: str | None, samples: int | None, on: str, allow_code: bool, json: bool
) -> int:
    """``qtool accuracy``: judge a finished run's engine or model on samples. Returns the exit status."""
    from toolkit.base.progress import Terminal
    from toolkit.report.terminal.console import make_console
    from toolkit.report.terminal.measured import print_accuracy_again
    from toolkit.run.results.finished_run import FinishedRun
    from toolkit.run.results.remeasured_accuracy import On, remeasure_accuracy

    if on not in get_args(On):
        raise QtoolError(f"--on is '{on}'", remedy=did_you_mean(on, get_args(On)))
    with Terminal() as terminal:
        run = FinishedRun.of(folder, allow_code, terminal.progress)
        found = remeasure_accuracy(run, data, metric, samples, on)  # type: ignore[arg-type]
    if json:
        emit(found.to_json())
    else:
        print_accuracy_again(run.report, found.accuracy, found.device, found.why, make_console(), found.changed)
    return found.exit_status


def export_run(folder: Path, to: str, out: Path | None, allow_code: bool, json: bool) -> int:
    """``qtool export``: write a run for another tool. Returns the exit status."""
    from toolkit.run.results.export import To, export
    from toolkit.run.results.finished_run import FinishedRun

    if to not in get_args(To):
        raise QtoolError(f"--to is '{to}'", remedy=did_you_mean(to, get_args(To)))
    found = export(FinishedRun.of(folder, allow_code), to, out)  # type: ignore[arg-type]
    if json:
        emit(found.to_json())
    else:
        say(found.to_text())
    return 0
