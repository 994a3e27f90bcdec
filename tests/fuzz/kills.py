"""Commands killed before each of their writes, and started again: the result must be that of an undisturbed one.

``python -m tests.fuzz.kills FOLDER`` tries every moment of every command; the tests try some. Everything that a command
leaves is written by opening, renaming or removing a file: these are the moments that differ. One process has loaded
everything, and each command is a fork of it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.conftest import build, load_all, node, normal
from toolkit.cli.main import invoke

RECIPE = """\
[model]
path = "model.onnx"

[[profile]]
name = "all"
shapes.x = { min = [1, 3, 4, 4], opt = [2, 3, 4, 4], max = [8, 3, 4, 4] }

[calibration]
data = "data.npz"
method = "minmax"

[[pass]]
use = "insert_qdq"

[engine]
backend = "none"

[evaluation]
data = "test.npz"
budget = { min_sqnr_db = 20.0 }
"""
SEARCH = RECIPE.replace('"insert_qdq"', '"search_precision"\nmeasure = false\nmin_sqnr_db = 60.0')
FILES = ("model.onnx", "ranges.json", "journal.jsonl", ".qtool/prepared.onnx")


def make(place: Path) -> None:
    """The model, its data and two recipes."""
    weights = {f"w{i}": normal(3, 3, 1, 1, seed=i) for i in range(3)}
    nodes = [node("Conv", [f"t{i}" if i else "x", f"w{i}"], [f"t{i + 1}" if i < 2 else "y"]) for i in range(3)]
    onnx.save(build(nodes, {"x": ["n", 3, 4, 4]}, {"y": ["n", 3, 4, 4]}, weights), str(place / "model.onnx"))
    np.savez(place / "data.npz", x=normal(12, 3, 4, 4, seed=7))
    np.savez(place / "test.npz", x=normal(8, 3, 4, 4, seed=8))
    (place / "recipe.toml").write_text(RECIPE)
    (place / "other.toml").write_text(RECIPE.replace('"minmax"', '"mse"'))
    (place / "search.toml").write_text(SEARCH)


def of_run(out: Path, said: str) -> dict[str, Any]:
    """What a run left, but for times."""
    report = json.loads((out / "report.json").read_text())
    left = sorted(path.name for path in out.rglob("*") if path.name.endswith((".part", ".qtool-part")))
    return {
        **{name: (out / name).read_bytes().hex() for name in FILES},
        **{name: report[name] for name in ("summary", "accuracy", "layers", "ranges", "search", "weak_spots")},
        "page": (out / "report.html").is_file(), "half": left,
    }  # fmt: skip


def of_sensitivity(out: Path, said: str) -> dict[str, Any]:
    """What ``sensitivity`` found, but for what it cost."""
    found: dict[str, Any] = json.loads((out / "sensitivity.json").read_text())
    return {**found, "inferences": None}


def of_bisect(out: Path, said: str) -> dict[str, Any]:
    """What ``bisect`` found, but for how often it asked."""
    found: dict[str, Any] = json.loads(said)
    return {**found, "checks": None}


Reader = Callable[[Path, str], dict[str, Any]]
COMMANDS: Mapping[str, tuple[list[str], Reader]] = {
    "run": (["run", "recipe.toml"], of_run),
    "search": (["run", "search.toml"], of_run),
    "sensitivity": (["sensitivity", "recipe.toml"], of_sensitivity),
    "bisect": (["bisect", "recipe.toml", "--min-sqnr-db", "60", "--json"], of_bisect),
}


def started(words: list[str], place: Path, stop_at: int | None) -> tuple[int, int, str]:
    """Run a command in a fork, killed before its ``stop_at``-th write: its exit status, its writes and its output."""
    told, output, errors = place / "writes", place / "output", place / "errors"
    child = os.fork()
    if child == 0:
        try:
            # how far it is, which a slow machine makes it say, is no part of its answer
            with open(output, "w") as stream, open(errors, "w") as other:
                os.dup2(stream.fileno(), 1)
                os.dup2(other.fileno(), 2)
            writes = _count(place, stop_at)
            os.chdir(place)
            status = invoke(words)
            sys.stdout.flush()
            told.write_text(str(len(writes)))
            os._exit(status)
        except BaseException:
            traceback.print_exc()
            os._exit(99)
    _, ended = os.waitpid(child, 0)
    status = os.waitstatus_to_exitcode(ended)
    said = output.read_text() + (errors.read_text() if status not in (0, 1) else "")
    return status, int(told.read_text()) if status >= 0 and told.exists() else 0, said


def _count(place: Path, stop_at: int | None) -> list[str]:
    writes: list[str] = []

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            writing = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if not writing or not isinstance(arguments[0], str):
                return
        elif event not in ("os.rename", "os.remove"):
            return
        if str(place) in str(Path(str(arguments[0])).absolute()):
            writes.append(event)
            if stop_at is not None and len(writes) == stop_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)
    return writes


def tried(place: Path, name: str, moments: int | None, over: bool = False) -> list[str]:
    """Kill a command at several moments, or at all; what differed from an undisturbed one.

    Args:
        place: an empty folder.
        name: the command, of ``COMMANDS``.
        moments: how many, evenly spread; all where None.
        over: whether a run of another recipe is in the folder already.
    """
    make(place)
    words, read = COMMANDS[name]
    before = ["run", "other.toml", "--out", "before"]
    if over and started(before, place, None)[0] not in (0, 1):
        return [f"{name}: the run before fails"]

    def fresh(out: str) -> list[str]:
        shutil.rmtree(place / out, ignore_errors=True)
        if over:
            shutil.copytree(place / "before", place / out)
        return [*words, "--out", out]

    status, writes, said = started(fresh("whole"), place, None)
    if status not in (0, 1):
        return [f"{name}: it fails undisturbed: {said[-300:]}"]
    wanted = read(place / "whole", said)
    stops = (
        range(1, writes + 1)
        if moments is None
        else sorted({1 + i * (writes - 1) // (moments - 1) for i in range(moments)})
    )
    found = []
    for stop in stops:
        line = fresh("out")
        if started(line, place, stop)[0] != -signal.SIGKILL:
            continue
        found += [
            f"{name}, killed before write {stop} of {writes}: {fault}"
            for fault in _lies(place / "out", place / "before")
        ]
        status, _, said = started(line, place, None)
        again = read(place / "out", said) if status in (0, 1) else {"status": said[-500:]}
        found += [
            f"{name}, killed before write {stop} of {writes}: {key} differs"
            for key in sorted({*wanted, *again})
            if wanted.get(key) != again.get(key)
        ]
    return found


def _lies(out: Path, before: Path) -> list[str]:
    """What a folder of a killed command says that is not so: a report that is whole beside files of another run."""
    report = out / "report.json"
    if not report.is_file() or not before.is_dir():
        return []
    if json.loads(report.read_text())["summary"]["verdict"] == "outdated":
        return []
    said = json.loads(report.read_text())["recipe"]["calibration"].get("method")
    # minmax is written by the command, mse by the run before it
    same = [(out / name).read_bytes() == (before / name).read_bytes() for name in FILES]
    if said == "mse" and not all(same):
        return ["the report of the run before stands beside other files"]
    return []


def main(folder: Path) -> int:
    """Every moment of every command."""
    patched()
    faults = []
    for over in (False, True):
        for name in COMMANDS:
            place = folder / f"{name}{'-over' if over else ''}"
            place.mkdir(parents=True)
            faults += tried(place, name, None, over)
            print(f"{name}{' over another run' if over else ''}: {len(faults)} faults so far", flush=True)
    print("\n".join(faults) or "no fault")
    return 1 if faults else 0


def patched() -> None:
    """Nothing waits for the disk, and what a process does once is done before the first fork."""
    import rich.console
    import rich.table  # noqa: F401

    from tests.toolkit.report.samples import sample
    from toolkit.base.versions import code_fingerprint, versions
    from toolkit.calibration.histogram import Histogram
    from toolkit.report.page import html

    os.fsync = lambda file: None  # type: ignore[assignment]
    load_all()
    html.environment = functools.cache(html.environment)  # type: ignore[assignment]
    html.render_html(sample(5))
    Histogram().add(normal(100))
    versions(), code_fingerprint()
    with contextlib.redirect_stdout(io.StringIO()):
        invoke(["metrics"])
    gc.freeze()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--some"]:
        patched()
        target = Path(sys.argv[2])
        told = []
        for name in COMMANDS:
            (target / name).mkdir(parents=True)
            told += tried(target / name, name, int(sys.argv[3]), over=name == "run")
        print(json.dumps(told))
        sys.exit(0)
    sys.exit(main(Path(sys.argv[1])))
