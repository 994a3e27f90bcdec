"""Building an engine in the background, before its latency is requested.

The engine without pairs needs no ranges, so its build can start before calibration; and it is likely to become the
run's own engine. Its build and measurement are jobs like any other: while another engine is measured, its child process
is stopped, and while it is measured, all others are (see ``processes.children``). Work running in parallel may have
disturbed the times by which TensorRT chose its kernels, so the engine is judged by its latency, which is measured alone
like those of the others.
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
    """One engine, whose build starts when this object is created.

    Args:
        name: the name under which the engine is cached.
        build: builds it, in a separate thread.

    Attributes:
        others: number of engines that were built meanwhile.
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
        """Whether the engine is built and measured, or has failed."""
        return not self._thread.is_alive()

    @property
    def aside(self) -> str:
        """How long ago the build started, as text to append to a progress line that is not updated; empty when done."""
        seconds = time.monotonic() - self._begun
        return "" if self.done else f"; one without pairs is built in parallel, since {seconds:.0f} s"

    def wait(self, progress: Progress, until: float | None = None) -> None:
        """Wait for the engine, at most until ``until`` seconds after its start."""
        if self.done:
            return
        progress(WHAT, 0, 1)
        self._thread.join(max(self._begun + until - time.monotonic(), 0.0) if until is not None else None)
        progress(WHAT, 1, 1)

    def result(self, progress: Progress) -> Build | str:
        """Wait for the engine; returns the build, or why it failed: others may have taken the GPU's memory."""
        self.wait(progress)
        return self._found

    def seconds(self) -> float | None:
        """Duration of the build; None if it is not done or has failed."""
        return self._found.seconds if self.done and not isinstance(self._found, str) else None

    def give_up(self) -> None:
        """Cancel the build if it is still running."""
        self._jobs.end()
        self._thread.join()
