"""Running builds in a separate process.

TensorRT writes to the standard streams from native code, can crash and cannot be interrupted, and Polygraphy decides at
import time whether it uses TensorRT or TensorRT-RTX. A child process solves all four: its output is kept for error
messages, a crash is an error like any other, it can be killed safely, and each build imports what it needs.
``children`` starts the processes.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from toolkit.backends.backend import LogLine
from toolkit.backends.processes.children import Child, at_work, exclusive_measurement, jobs_here, spares
from toolkit.base.errors import BackendError
from toolkit.base.progress import Progress, silent
from toolkit.base.reads import aside

_MEASURES = frozenset({"examine_tensorrt", "measure_in_turn"})
"""Jobs during which nothing else may use the GPU."""
_MEANWHILE = {"build_tensorrt": 2}
"""Number of spares to have while a job runs: a built engine is then inspected, and often measured in turns."""
_NEXT = dict.fromkeys(("probe", "parse_tensorrt", "parse_rtx", "examine_tensorrt", "measure_in_turn"), 1)
"""Number of spares to have after a job, since another one is likely."""
_TAIL = 8000
_ROOM = 16 << 20
"""Bytes: with less free space, the files written with an engine do not fit."""


class ProcessDiedError(BackendError):
    """The child process ended without an answer: native code crashed, or it was killed."""


def run_job(job: str, request: Mapping[str, Any], log: LogLine = silent, progress: Progress = silent) -> dict[str, Any]:
    """Run one of ``worker.JOBS`` in a child process and return its result.

    Args:
        job: name of the job.
        request: JSON-able arguments.
        log: called with each message, ``"WARNING: ..."``.
        progress: called with the activity, the amount done, and the total.

    Raises:
        BackendError: the job failed.
        ProcessDiedError: its process died.
    """
    library, spare = _library(job, request), spares()
    with aside():
        child = (spare.take(library) if spare is not None else None) or Child()
        with child.noise:
            outcome = _outcome(child, job, request, log, progress)
            if "error" in outcome:
                raise BackendError(**outcome["error"])
            if "result" not in outcome:
                raise _death(job, child.process.returncode, child.noise)
        if spare is not None:
            spare.fill(library, _NEXT.get(job, 0))
    result: dict[str, Any] = outcome["result"]
    if child.stops and "seconds" in result:
        # loading TensorRT and writing the engine do not count as build time
        result["seconds"] -= child.stopped_within(result["started"], result["seconds"])
    return result


def _outcome(child: Child, job: str, request: Mapping[str, Any], log: LogLine, progress: Progress) -> dict[str, Any]:
    """The child's last event; empty if it died. The child has ended when this returns."""
    try:
        if (own := jobs_here.get()) is not None:
            own.begin(child)
        with exclusive_measurement() if job in _MEASURES else at_work(child):
            if (spare := spares()) is not None:
                spare.fill(_library(job, request), _MEANWHILE.get(job, 0))
            return _converse(child, job, request, log, progress)
    finally:
        child.end()


def _library(job: str, request: Mapping[str, Any]) -> str:
    """The module that a job uses; empty if unknown."""
    named = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}.get(job.rpartition("_")[2], "")
    return str(request.get("module") or request.get("backend") or named)


def _converse(child: Child, job: str, request: Mapping[str, Any], log: LogLine, progress: Progress) -> dict[str, Any]:
    """Send the request, forward log messages and progress, and return the child's last event (empty if it died)."""
    # The pipe to the child stays open: its end tells the child that this process is gone.
    for event in child.events() if child.send({"job": job, "request": request}) else ():
        if "log" in event:
            log(event["log"])
        elif "progress" in event:
            progress(*event["progress"])
        else:
            child.process.wait()
            return event
    child.process.wait()
    return {}


def _death(job: str, status: int, noise: IO[bytes]) -> ProcessDiedError:
    """The error for a child that ended without an answer: its signal or exit status, and its last output."""
    noise.seek(0)
    said, _, trace = noise.read()[-_TAIL:].decode(errors="replace").partition("Fatal Python error: ")
    tail = _last(said)
    frames = re.findall(r'File "([^"]+)", line (\d+) in (\w+)', trace.partition("most recent call first")[2])
    at = next((f"{Path(file).name} line {line} in {name}" for file, line, name in frames if name != "main"), "")
    tail = "; ".join(part for part in (tail, f"it was at {at}" if at else "") if part)
    if status < 0:
        try:
            ended = f"was ended by {signal.Signals(-status).name}"
        except ValueError:
            ended = f"was ended by signal {-status}"
    else:
        ended = f"ended with status {status}"
    return ProcessDiedError(
        f"the process that ran '{job}' {ended} without an answer" + (f"; its last words: {tail}" if tail else ""),
        remedy=_remedy(status),
    )


def _remedy(status: int) -> str:
    if hasattr(signal, "SIGKILL") and status == -signal.SIGKILL:
        return "the machine may be out of memory: close other programs or use smaller profiles"
    folder = tempfile.gettempdir()
    with contextlib.suppress(OSError):
        if shutil.disk_usage(folder).free < _ROOM:
            return f"there is no room left in {folder}, where engines are built: free some, or set another TMPDIR"
    return "this is a crash inside TensorRT: try another version, or find the node with 'qtool bisect'"


def _last(text: str) -> str:
    lines = (line.strip() for line in text.split("\n"))
    return " | ".join(line for line in lines if line)[-600:]
