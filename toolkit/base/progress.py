"""Progress on the terminal: bars where it is one, a line a step where it is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol

from toolkit.base.text import plain

Progress = Callable[[str, int, int], None]
"""Called as work goes on: what is done, how much of it, and how much there is."""


def silent(*_: object) -> None:
    """A ``Progress``, or a log, that says nothing."""


class FinishedStep(Protocol):
    """What is shown of a step that is done."""

    @property
    def name(self) -> str:
        """The step's name."""
        ...

    @property
    def status(self) -> str:
        """``done`` or ``reused``."""
        ...

    @property
    def seconds(self) -> float:
        """How long it took."""
        ...

    @property
    def why(self) -> str:
        """Why it was not found again."""
        ...

    @property
    def first(self) -> bool:
        """Whether it was never done before, so that there was nothing to find."""
        ...

    @property
    def said(self) -> Sequence[str]:
        """What the user must hear before the next step."""
        ...


class Terminal:
    """Shows progress on standard error; use as a context manager and pass its two methods to ``run``."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

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
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def progress(self, what: str, done: int, total: int) -> None:
        """Move the bar of ``what``."""
        if self._bars is None:
            return
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(plain(what).replace("[", r"\["), total=total)
        self._bars.update(self._tasks[what], completed=done, total=total)

    def step(self, info: FinishedStep) -> None:
        """Say that a step is done."""
        if self._bars is not None:
            for task in self._tasks.values():
                self._bars.remove_task(task)
            self._tasks.clear()
        word = "reused" if info.status == "reused" else f"{info.seconds:.1f} s"
        why = "" if info.first else f"  ({info.why})"
        self.console.print(plain(f"{info.name:<12} {word}{why}"), markup=False, soft_wrap=True)
        for line in info.said:
            self.console.print(plain(f"  {line}"), markup=False, soft_wrap=True)
