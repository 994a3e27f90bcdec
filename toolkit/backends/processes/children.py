"""Child processes for jobs, started on demand or ahead of time, and stopped while engines are measured.

A child runs one job and then ends, so that nothing of a job affects the next. Starting one is slow because of loading
TensorRT and creating a CUDA context, which take 7 to 16 seconds on some GPU hosts: a spare child has done both when its
job comes, and waits for it without using the GPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from toolkit.base.errors import BackendError
from toolkit.base.gpu_turns import GPU_TURN

_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from toolkit.backends.jobs.worker import main; main()"
CAN_STOP = sys.platform == "linux"
"""Whether children can be stopped temporarily, and are killed with this process even while stopped."""


class Child:
    """A process for one job, and the file that receives its stray output.

    Args:
        library: the module to load before the job arrives; empty for none.

    Attributes:
        stops: start and end of the periods in which it was stopped, by ``time.monotonic``.
    """

    def __init__(self, library: str = "") -> None:
        self.library, self.stops = library, list[tuple[float, float]]()
        self.noise = tempfile.TemporaryFile()  # noqa: SIM115
        self._waiting, self._since = bool(library), 0.0
        try:
            # -I: the child's imports depend on this process's sys.path, not on the working directory or PYTHON*
            # variables.
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.noise,
                text=True,
                encoding="utf-8",
                start_new_session=True,
                # CUDA 11's default loads every kernel of every library into each context, which TensorRT itself warns
                # about
                env={"CUDA_MODULE_LOADING": "LAZY", **os.environ},
            )
        except OSError:
            self.noise.close()
            raise
        if library:
            self.send({"warm": library})

    def send(self, message: Mapping[str, Any]) -> bool:
        """Write a message as one line of JSON; False if the child has closed its end."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return False
        return True

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the child's events until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield json.loads(line)

    def ready(self) -> bool:
        """Wait until the child has loaded its library; False if it died meanwhile."""
        if self._waiting:
            said = next(self.events(), None)
            # set only now: if the wait is interrupted, the message is still unread and must not be taken for a job's
            # answer
            self._waiting = False
            return said is not None and self.process.poll() is None
        return self.process.poll() is None

    def stop(self) -> None:
        """Suspend the process until ``go_on``."""
        self._since = time.monotonic()
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Resume the process."""
        self.stops.append((self._since, time.monotonic()))
        self.process.send_signal(signal.SIGCONT)

    def stopped_within(self, began: float, seconds: float) -> float:
        """Seconds, of the ``seconds`` from ``began`` on, in which it was stopped; processes share a clock on Linux."""
        ended = began + seconds
        return sum(max(min(end, ended) - max(start, began), 0.0) for start, end in self.stops)

    def end(self) -> None:
        """Kill the process if it is alive, and close its pipes."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class SpareChildren:
    """Children that have loaded their library and wait for a job.

    Only the thread that created this object starts children, since a child ends with the thread that started it.
    """

    def __init__(self) -> None:
        self._found: list[Child] = []
        self._lock, self._thread = threading.Lock(), threading.get_ident()

    def take(self, library: str) -> Child | None:
        """A child that has loaded the library; None if there is none."""
        # with the lock, settling also waits for a child that is taken while it loads
        with self._lock:
            while (child := next((one for one in self._found if one.library == library), None)) is not None:
                self._found.remove(child)
                ready = False
                try:
                    if ready := child.ready():
                        return child
                finally:
                    # also if the wait is interrupted, since nothing else refers to the child any more
                    if not ready:
                        child.end()
                        child.noise.close()
        return None

    def fill(self, library: str, number: int) -> None:
        """Start children until there are ``number`` spares of a library; none while engines are measured."""
        if threading.get_ident() != self._thread:
            return
        with self._lock:
            lacking = number - sum(one.library == library for one in self._found)
            # the existing ones have settled before measuring; a job without a spare starts its own child
            if lacking > 0 and GPU_TURN.acquire(blocking=False):
                try:
                    # if the system allows no more processes or files, jobs run without a spare
                    with contextlib.suppress(OSError):
                        for _ in range(lacking):
                            self._found.append(Child(library))
                finally:
                    GPU_TURN.release()

    def settle(self) -> None:
        """Wait until all have loaded their library, so that none uses the GPU while engines are measured."""
        with self._lock:
            for child in self._found:
                child.ready()

    def end(self) -> None:
        """End all spare children."""
        with self._lock:
            for child in self._found:
                child.end()
                child.noise.close()
            self._found.clear()


_SPARES: list[SpareChildren] = []


@contextmanager
def spare_children() -> Iterator[None]:
    """Within the block, start children ahead of likely jobs; all of them end with the block."""
    if _SPARES:
        yield
        return
    _SPARES.append(SpareChildren())
    try:
        yield
    finally:
        _SPARES.pop().end()


def spares() -> SpareChildren | None:
    """The spare children of the current ``spare_children`` block; None outside of one."""
    return _SPARES[-1] if _SPARES else None


# -------------------------------------------------------------------- sharing one GPU

_AT_WORK: list[Child] = []


@contextmanager
def exclusive_measurement() -> Iterator[None]:
    """Within the block no other job measures, and all other jobs are stopped, since even parsing uses the GPU."""
    with GPU_TURN:
        found = spares()
        if found is not None:
            found.settle()
        stopped = list(_AT_WORK) if CAN_STOP else []
        try:
            for child in stopped:
                child.stop()
            yield
        finally:
            for child in stopped:
                child.go_on()


@contextmanager
def at_work(child: Child) -> Iterator[None]:
    """Within the block the child runs its job, such as building an engine; waits until no measurement is running."""
    with GPU_TURN:
        _AT_WORK.append(child)
    try:
        yield
    finally:
        _AT_WORK.remove(child)


class Jobs:
    """The jobs of one thread, which another thread can end."""

    def __init__(self) -> None:
        self._lock, self._over = threading.Lock(), False
        self._child: Child | None = None

    def begin(self, child: Child) -> None:
        """Record the child that runs the current job.

        Raises:
            BackendError: the jobs were ended.
        """
        with self._lock:
            if self._over:
                raise BackendError("its engine was abandoned")
            self._child = child

    def end(self) -> None:
        """Kill the running child and refuse further jobs."""
        with self._lock:
            self._over = True
            if self._child is not None:
                self._child.process.kill()


jobs_here: ContextVar[Jobs | None] = ContextVar("jobs of this thread", default=None)
