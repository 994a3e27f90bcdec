"""Broken inputs by the hundred through the commands that read them: none is called a bug, hangs, or takes a gigabyte.

``python -m tests.fuzz.campaign --inputs 10000`` is the long form; what fails is kept in a folder with its command.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType
from unittest import mock

from tests.fuzz.corpus import Sound, recipe_folder, sound_inputs
from tests.fuzz.mutate import mutated

SECONDS, MEGABYTES = 30, 1024
"""The most processor time and memory of a command. How long it takes by the clock says how busy the machine is."""
WAITED = 300
"""Seconds by the clock after which a command is taken for one that waits for something that never comes."""
OUTCOMES = {0: "accepted", 1: "accepted, target missed", 2: "refused", 3: "the backend refused"}


@dataclass(frozen=True)
class Result:
    """What became of one input.

    Attributes:
        seed: makes the input again.
        name: the sound file that was broken.
        command: the command line.
        fault: what is wrong with the outcome, empty where nothing is.
        outcome: the exit status in words.
        said: standard error.
        seconds: how long it took.
    """

    seed: int
    name: str
    command: tuple[str, ...]
    fault: str
    outcome: str
    said: str
    seconds: float


@lru_cache
def corpus() -> list[Sound]:
    return list(sound_inputs())


def try_input(seed: int, keep: Path | None = None, deep: bool = False) -> Result:
    """Break one file of the corpus and run one command that reads it, in a folder of its own.

    With ``deep`` a recipe that ``check`` accepts is run too, which must not refuse it.
    """
    sound = corpus()[seed % len(corpus())]
    command = sound.commands[(seed // len(corpus())) % len(sound.commands)]
    content = mutated(sound.kind, sound.content, seed)
    with (
        tempfile.TemporaryDirectory(prefix="fuzz") as name,
        contextlib.chdir(name) if hasattr(contextlib, "chdir") else _chdir(name),
    ):
        folder = Path(name)
        recipe_folder(folder)
        old, new = sound.recipe
        (folder / "r.toml").write_text(
            (folder / "r.toml").read_text().replace(old, new.replace("FILE", sound.name))
            if old
            else (folder / "r.toml").read_text()
        )
        (folder / sound.name).parent.mkdir(exist_ok=True)
        (folder / sound.name).write_bytes(content)
        started, before = time.monotonic(), peak_megabytes()
        status, said, raised = _invoke(command)
        accepted = deep and command[0] == "check" and status == 0
        if accepted:
            command = ("run", *command[1:], "--out", "o")
            status, said, raised = _invoke(command)
        seconds, grown = time.monotonic() - started, peak_megabytes() - before
        fault = _fault(status, said, raised, grown)
        if not fault and accepted and status == 2:
            fault = "check accepts what run refuses"
        if fault and keep is not None:
            target = keep / f"{seed}"
            target.mkdir(parents=True, exist_ok=True)
            shutil.copytree(folder, target, dirs_exist_ok=True)
            (target / "command").write_text(" ".join(command) + "\n" + said)
    return Result(seed, sound.name, command, fault, OUTCOMES.get(status, str(status)), said, seconds)


def _invoke(command: tuple[str, ...]) -> tuple[int, str, str]:
    from toolkit.cli.main import invoke

    out, err = io.StringIO(), io.StringIO()
    raised, status = "", -1
    # a Loop that nothing ends is let go for half a minute, which the campaign has no time for
    loops = mock.patch("toolkit.graph.sessions.endless_loops._SECONDS", 2.0)
    with loops, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _deadline():
        try:
            status = invoke(list(command))
        except _TooLongError as error:
            raised = f"no end after {error}"
        except BaseException as error:
            raised = f"raised {type(error).__name__}: {error}"
    return status, err.getvalue(), raised


def _fault(status: int, said: str, raised: str, grown: int) -> str:
    if raised:
        return raised
    if "This is a bug in qtool" in said or "Traceback" in said:
        return "called a bug"
    if status not in OUTCOMES:
        return f"exit status {status}"
    if status == 2 and not said.strip():
        return "refused without a word"
    if "\x1b" in said or len(said) > 4000:
        return "not one clear paragraph"
    return f"took {grown} MB" if grown > MEGABYTES else ""


class _TooLongError(BaseException):
    """The time is over; no `except Exception` takes it for something else."""


@contextlib.contextmanager
def _deadline() -> Iterator[None]:
    def over(number: int, frame: FrameType | None) -> None:
        worked = number == signal.SIGPROF
        raise _TooLongError(f"{SECONDS} s of processor time" if worked else f"waiting for {WAITED} s")

    limits = {signal.SIGPROF: (signal.ITIMER_PROF, SECONDS), signal.SIGALRM: (signal.ITIMER_REAL, WAITED)}
    before = {number: signal.signal(number, over) for number in limits}
    # native code is not interrupted by a signal: say where it is and end
    faulthandler.dump_traceback_later(2 * WAITED, exit=True, file=sys.__stderr__)
    for timer, seconds in limits.values():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        for number, (timer, _) in limits.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


@contextlib.contextmanager
def _chdir(name: str) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(name)
    try:
        yield
    finally:
        os.chdir(before)


def peak_megabytes() -> int:
    """The most memory that the process held, in MB; set back to what it holds now where the system allows it."""
    try:
        text = Path("/proc/self/status").read_text()
        peak = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM"))
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, StopIteration):
        return 0
    return peak >> 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--deep", action="store_true", help="also run the recipes that check accepts")
    parser.add_argument("--keep", type=Path, default=Path("fuzz_found"))
    settings = parser.parse_args()
    tally: Counter[str] = Counter()
    slowest = 0.0
    for seed in range(settings.first, settings.first + settings.inputs):
        result = try_input(seed, settings.keep, settings.deep)
        tally[(result.fault and "FAULT") or result.outcome] += 1
        slowest = max(slowest, result.seconds)
        if result.fault:
            print(
                f"seed {seed}, {result.name}, qtool {' '.join(result.command)}: {result.fault}\n    {result.said.strip()[-400:]}",
                flush=True,
            )
    print(
        f"{settings.inputs} inputs, slowest {slowest:.1f} s: "
        + ", ".join(f"{name} {count}" for name, count in tally.most_common())
    )
    return 1 if tally["FAULT"] else 0


if __name__ == "__main__":
    sys.exit(main())
