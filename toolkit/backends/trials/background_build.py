"""An engine that is built alongside everything else this process does, before its latency is asked for.

The engine without pairs needs no ranges, so that it can be begun before anything is calibrated; and it is likely to be
the run's own. Its build and its measurement are jobs like any other: while an engine is measured, its own child stands
still, and while it is measured, all others do (see ``processes.children``). What it was built alongside can have
disturbed the times by which TensorRT chose its kernels; so it is judged by its latency, measured alone like that of the
others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING

from toolkit.backends.processes.children import Jobs, jobs_here
from toolkit.base.errors import QtoolError
from toolkit.base.progress import Progress

if TYPE_CHECKING:
    from toolkit.backends.layers.layer import Build

WHAT = "building an engine without pairs"


class BackgroundBuild:
    """One engine, begun when this is made.

    Args:
        name: the name that it is to be kept by.
        build: builds it, in a separate thread.

    Attributes:
        others: how many engines were built meanwhile.
    """

    def __init__(self, name: str, build: Callable[[], Build]) -> None:
        self.name, self.others = name, 0
        self._build, self._jobs = build, Jobs()
        self._begun = time.monotonic()
        self._found: Build | str = "it was not built"
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="engine beside", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        jobs_here.set(self._jobs)
        try:
            self._found = self._build()
        except QtoolError as error:
            self._found = str(error)
        except Exception as error:
            self._found = f"{type(error).__name__}: {error}"

    @property
    def done(self) -> bool:
        """Whether it is built and measured, or has failed."""
        return not self._thread.is_alive()

    @property
    def aside(self) -> str:
        """Since when it has been at work, for a progress line that is begun now and stays; empty once it is done."""
        seconds = time.monotonic() - self._begun
        return "" if self.done else f"; beside it one without pairs, begun {seconds:.0f} s earlier"

    def wait(self, progress: Progress, until: float | None = None) -> None:
        """Wait for it, at most until so many seconds after it was begun."""
        if self.done:
            return
        progress(WHAT, 0, 1)
        self._thread.join(max(self._begun + until - time.monotonic(), 0.0) if until is not None else None)
        progress(WHAT, 1, 1)

    def result(self, progress: Progress) -> Build | str:
        """Wait for it; what was built, or why it was not: others may have taken the GPU's memory."""
        self.wait(progress)
        return self._found

    def seconds(self) -> float | None:
        """How long building took; None where it is not done or has failed."""
        return self._found.seconds if self.done and not isinstance(self._found, str) else None

    def give_up(self) -> None:
        """End it, where it is still at work."""
        self._jobs.end()
        self._thread.join()
