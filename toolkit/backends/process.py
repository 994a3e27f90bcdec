"""Builds run in a process of their own.

TensorRT writes to the standard streams from native code, can crash, cannot be interrupted, and Polygraphy settles at
its import whether it drives TensorRT or TensorRT-RTX. A child process takes care of all four: its output is kept for
the error message, its death is an error like any other, killing it is safe, and each build imports what it needs.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from toolkit.backends.base import LogLine
from toolkit.base.errors import BackendError
from toolkit.base.progress import Progress, silent
from toolkit.base.reads import aside

_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from toolkit.backends.worker import main; main()"
_TAIL = 8000
_ROOM = 16 << 20
"""Bytes: with less, what is written beside an engine does not fit."""


class ProcessDiedError(BackendError):
    """The child process ended without an answer: native code crashed, or something killed it."""


def run_job(job: str, request: Mapping[str, Any], log: LogLine = silent, progress: Progress = silent) -> dict[str, Any]:
    """Run one of ``worker.JOBS`` in a child process and return what it gave.

    Args:
        job: the job's name.
        request: JSON-able arguments.
        log: called with each message, ``"WARNING: ..."``.
        progress: called with what is being done, how much is done, and of how much.

    Raises:
        BackendError: the job failed.
        ProcessDiedError: its process died.
    """
    with aside(), tempfile.TemporaryFile() as noise:
        # -I: neither the working folder nor PYTHON* variables decide what the child imports; our sys.path does.
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", _BOOT, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        try:
            outcome = _converse(child, job, request, log, progress)
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    _close(stream)
        if "error" in outcome:
            raise BackendError(**outcome["error"])
        if "result" not in outcome:
            raise _death(job, child.returncode, noise)
        result: dict[str, Any] = outcome["result"]
        return result


def _converse(
    child: subprocess.Popen[str], job: str, request: Mapping[str, Any], log: LogLine, progress: Progress
) -> dict[str, Any]:
    """Send the request, pass on log and progress, and return the child's last word (empty where it died)."""
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(json.dumps({"job": job, "request": request}) + "\n")
        child.stdin.flush()
    except BrokenPipeError:
        return {}
    # The pipe to the child stays open: its end tells the child that this process is gone.
    for line in child.stdout:
        event = json.loads(line)
        if "log" in event:
            log(event["log"])
        elif "progress" in event:
            progress(*event["progress"])
        else:
            child.wait()
            return dict(event)
    child.wait()
    return {}


def _close(stream: IO[str]) -> None:
    with contextlib.suppress(BrokenPipeError):
        stream.close()


def _death(job: str, status: int, noise: IO[bytes]) -> ProcessDiedError:
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
