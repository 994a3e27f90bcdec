"""Progress on standard error: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from toolkit.base.text import plain

Progress = Callable[[str, int, int], None]
"""Called as work advances, with the name of the activity, the amount done, and the total."""


_EVERY = 9.0
"""Seconds between plain lines; with the time to write one, there is a line at least every 10 s."""


def silent(*_: object) -> None:
    """A ``Progress``, or a log, without output."""


class Activity(str):
    """The name of an activity, with the part of it that is running and the best result so far.

    Args:
        what: name of the activity.
        best: best result so far, a finding or text; None if there is none yet.
        part: name of the running part; empty if parts are only counted.
    """

    best: object
    part: str

    def __new__(cls, what: str, best: object = None, part: str = "") -> Activity:
        """The name as text, with ``best`` and ``part`` as attributes."""
        made = super().__new__(cls, what)
        made.best, made.part = best, part
        return made


class FinishedStep(Protocol):
    """The data shown about a finished step."""

    @property
    def name(self) -> str:
        """Name of the step."""
        ...

    @property
    def status(self) -> str:
        """``done`` or ``reused``."""
        ...

    @property
    def seconds(self) -> float:
        """Duration of the step in seconds."""
        ...

    @property
    def why(self) -> str:
        """Why an earlier result was not reused."""
        ...

    @property
    def first(self) -> bool:
        """Whether the step was never run before, so there was nothing to reuse."""
        ...

    @property
    def said(self) -> Sequence[str]:
        """Messages that the user must see before the next step."""
        ...


@dataclass(frozen=True)
class _Moment:
    since: float
    done: int
    total: int
    best: str
    part: str = ""


class Lines:
    """Prints plain lines with the running activity, its progress and duration, and the best result so far.

    Args:
        say: prints a line.
        words: formats the best result of an activity as text.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        words: Callable[[Any], str] = str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._words, self._clock = say, words, clock
        self._lock = threading.Lock()
        self._begun = self._last = clock()
        self._open: dict[str, _Moment] = {}

    def progress(self, what: str, done: int, total: int) -> None:
        """Record the progress of an activity; a line is printed only when due."""
        with self._lock:
            before = self._open.pop(what, None)
            if done < total:
                best = getattr(what, "best", None)
                words = self._words(best) if best is not None else ""
                since, part = before.since if before else self._clock(), getattr(what, "part", "")
                self._open[str(what)] = _Moment(since, done, total, words, part)
        self.tick()

    def step(self) -> None:
        """Record that a step and its activities have ended; the line that reports it counts as a progress line."""
        with self._lock:
            self._open.clear()
            self._begun = self._last = self._clock()

    def due(self) -> float:
        """Seconds until the next line is due."""
        with self._lock:
            return self._wait()

    def _wait(self) -> float:
        return max(self._last + _EVERY - self._clock(), 0.0)

    def tick(self) -> None:
        """Print the running activity if a line is due."""
        with self._lock:
            if self._wait() > 0:
                return
            self._last = now = self._clock()
            what, state = next(reversed(self._open.items()), ("at work", _Moment(self._begun, 0, 1, "")))
            count = f" {state.done}/{state.total}" if state.total > 1 else ""
            part = f" ({state.part})" if state.part else ""
            best = f"; best so far: {state.best}" if state.best else ""
            self._say(f"  {what}{count}{part}, {now - state.since:.0f} s{best}")


class Terminal:
    """Shows progress on standard error; use as a context manager and pass its two methods to ``run``.

    Args:
        words: formats the best result of an activity as text.
    """

    def __init__(self, words: Callable[[Any], str] = str) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)
        self._words, self._lines = words, Lines(self._print, words)
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._over, self._teller = threading.Event(), threading.Thread(target=self._tell, name="progress", daemon=True)

    def __enter__(self) -> Terminal:
        if self.console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._bars = Progress(
                TextColumn("{task.description}", style="bold"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TimeElapsedColumn(),
                console=self.console,
                transient=True,
            )
            self._bars.start()
        else:
            self._teller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._bars is not None:
            self._bars.stop()
        else:
            # no line may follow the end
            self._teller.join()

    def progress(self, what: str, done: int, total: int) -> None:
        """Update the bar of ``what``, or record the progress for the next line."""
        if self._bars is None:
            self._lines.progress(what, done, total)
            return
        best, part = getattr(what, "best", None), getattr(what, "part", "")
        inner = self._words(best) if best is not None else part
        shown = f"{what} ({inner})" if inner else what
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task("", total=total)
        text = plain(shown).replace("[", r"\[")
        self._bars.update(self._tasks[what], completed=done, total=total, description=text)

    def step(self, info: FinishedStep) -> None:
        """Print that a step is finished."""
        if self._bars is not None:
            for task in self._tasks.values():
                self._bars.remove_task(task)
            self._tasks.clear()
        self._lines.step()
        word = "reused" if info.status == "reused" else f"{info.seconds:.1f} s"
        why = "" if info.first else f"  ({info.why})"
        self._print(f"{info.name:<12} {word}{why}")
        for line in info.said:
            self._print(f"  {line}")

    def _print(self, line: str) -> None:
        self.console.print(plain(line), markup=False, soft_wrap=True)

    def _tell(self) -> None:
        """Keep printing the running activity when nothing advances, for example during an engine build."""
        while not self._over.wait(self._lines.due()):
            self._lines.tick()
