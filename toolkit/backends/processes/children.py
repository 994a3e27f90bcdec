"""Child processes for jobs: started when a job comes, or ahead of it; and stopped while engines are measured.

A child takes one job and ends with it, so that nothing of a job is left to the next. What makes it slow to start is
loading TensorRT and making a CUDA context, which take 7 to 16 seconds on some GPU hosts: a spare has done both when its
job comes, and waits for it without touching the GPU.
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
"""Whether children can be stopped for a while, and end with this process even then."""


class Child:
    """A process for one job, and the file that its noise goes to.

    Args:
        library: the module that it loads before it gets its job; none where empty.

    Attributes:
        stops: from when to when it was stopped, by the clock of ``time.monotonic``.
    """

    def __init__(self, library: str = "") -> None:
        self.library, self.stops = library, list[tuple[float, float]]()
        self.noise = tempfile.TemporaryFile()  # noqa: SIM115
        self._waiting, self._since = bool(library), 0.0
        try:
            # -I: neither the working folder nor PYTHON* variables decide what the child imports; our sys.path does.
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.noise,
                text=True,
                encoding="utf-8",
                start_new_session=True,
                # CUDA 11's default loads every kernel of every library into each context: TensorRT itself warns of it
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
        """What it says, until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield json.loads(line)

    def ready(self) -> bool:
        """Wait until it has loaded its library; False where it died of that."""
        if self._waiting:
            said = next(self.events(), None)
            # only now: where an interrupt ends the wait, its message is still unread, and is no job's answer
            self._waiting = False
            return said is not None and self.process.poll() is None
        return self.process.poll() is None

    def stop(self) -> None:
        """Let it do nothing until ``go_on``."""
        self._since = time.monotonic()
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it work again."""
        self.stops.append((self._since, time.monotonic()))
        self.process.send_signal(signal.SIGCONT)

    def stopped_within(self, began: float, seconds: float) -> float:
        """For how many of the ``seconds`` from ``began`` on it was stopped; Linux processes share a clock."""
        ended = began + seconds
        return sum(max(min(end, ended) - max(start, began), 0.0) for start, end in self.stops)

    def end(self) -> None:
        """Kill it if it is still there, and close its pipes."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class SpareChildren:
    """Children that have loaded their library and wait for a job. Only the thread that made this starts any: a child
    ends with the thread that started it.
    """

    def __init__(self) -> None:
        self._found: list[Child] = []
        self._lock, self._thread = threading.Lock(), threading.get_ident()

    def take(self, library: str) -> Child | None:
        """A child that has loaded the library; None where there is none."""
        # settling also waits for a child that is taken while it loads
        with self._lock:
            while (child := next((one for one in self._found if one.library == library), None)) is not None:
                self._found.remove(child)
                ready = False
                try:
                    if ready := child.ready():
                        return child
                finally:
                    # also where an interrupt ends the wait: nothing else knows of it any more
                    if not ready:
                        child.end()
                        child.noise.close()
        return None

    def fill(self, library: str, number: int) -> None:
        """Start as many as are missing for ``number`` spares of a library; none while engines are measured."""
        if threading.get_ident() != self._thread:
            return
        with self._lock:
            lacking = number - sum(one.library == library for one in self._found)
            # measuring has settled the existing ones, and a job without a spare starts its own
            if lacking > 0 and GPU_TURN.acquire(blocking=False):
                try:
                    # where the system allows no more processes or files, a job does without a spare
                    with contextlib.suppress(OSError):
                        for _ in range(lacking):
                            self._found.append(Child(library))
                finally:
                    GPU_TURN.release()

    def settle(self) -> None:
        """Wait until all have loaded their library: none may use the GPU while engines are measured."""
        with self._lock:
            for child in self._found:
                child.ready()

    def end(self) -> None:
        """End them all."""
        with self._lock:
            for child in self._found:
                child.end()
                child.noise.close()
            self._found.clear()


_SPARES: list[SpareChildren] = []


@contextmanager
def spare_children() -> Iterator[None]:
    """Within the block, children are started ahead of the jobs that are likely next; all end with it."""
    if _SPARES:
        yield
        return
    _SPARES.append(SpareChildren())
    try:
        yield
    finally:
        _SPARES.pop().end()


def spares() -> SpareChildren | None:
    """The spares of the block under way; None outside of one."""
    return _SPARES[-1] if _SPARES else None


# -------------------------------------------------------------------- one GPU for several

_AT_WORK: list[Child] = []


@contextmanager
def exclusive_measurement() -> Iterator[None]:
    """In the block no other job measures, and jobs that do anything else stand still: parsing uses the GPU too."""
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
    """In the block the child does its job, such as building an engine, which it begins once nothing is measured."""
    with GPU_TURN:
        _AT_WORK.append(child)
    try:
        yield
    finally:
        _AT_WORK.remove(child)


class Jobs:
    """The jobs of one thread, which another can end."""

    def __init__(self) -> None:
        self._lock, self._over = threading.Lock(), False
        self._child: Child | None = None

    def begin(self, child: Child) -> None:
        """Take in which child works.

        Raises:
            BackendError: the jobs were given up.
        """
        with self._lock:
            if self._over:
                raise BackendError("its engine was abandoned")
            self._child = child

    def end(self) -> None:
        """Kill the child at work; no job follows."""
        with self._lock:
            self._over = True
            if self._child is not None:
                self._child.process.kill()


jobs_here: ContextVar[Jobs | None] = ContextVar("jobs of this thread", default=None)
