"""The child process that jobs run in: reads one request, and answers with log messages, progress and a result."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import signal
import sys
import threading
import traceback

from toolkit.backends.processes.channel import Channel
from toolkit.backends.processes.children import CAN_STOP
from toolkit.base.errors import QtoolError
from toolkit.base.text import on_one_line

JOBS = {
    "build_rtx": "toolkit.backends.jobs.build_rtx:build",
    "parse_rtx": "toolkit.backends.jobs.build_rtx:parse",
    "parse_tensorrt": "toolkit.backends.jobs.build_tensorrt:parse",
    "build_tensorrt": "toolkit.backends.jobs.build_tensorrt:build",
    "examine_tensorrt": "toolkit.backends.jobs.examine_engine:examine",
    "run_engine": "toolkit.backends.jobs.run_engine:run_batches",
    "measure_in_turn": "toolkit.backends.jobs.measure_in_turn:measure_in_turn",
    "probe": "toolkit.backends.jobs.probe:probe",
}


def main() -> None:
    """Run the job given on the first line of standard input."""
    # On a crash in native code this writes the Python stack to the noise file, for the parent's error message.
    faulthandler.enable(all_threads=False)
    talk = Channel(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    # Native code prints to descriptor 1, which from here on is the noise file instead of the pipe to the parent.
    os.dup2(2, 1)
    _end_with_starter()
    order = json.loads(sys.stdin.readline())
    if "warm" in order:
        with contextlib.suppress(Exception):
            # a module that does not load is reported by the job that needs it
            modules = [target.partition(":")[0] for target in JOBS.values()]
            importlib.import_module("toolkit.backends.jobs.warm").load(order["warm"], modules)
        talk.say({"ready": order["warm"]})
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        order = json.loads(line)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        module, _, function = JOBS[order["job"]].partition(":")
        result = getattr(importlib.import_module(module), function)(order["request"], talk)
        talk.say({"result": result})
    except QtoolError as error:
        talk.say({"error": {"what": error.what, "where": error.where, "remedy": error.remedy}})
    except Exception as error:
        what = f"{type(error).__name__}: {on_one_line(str(error), 500)}"
        traceback.print_exc()
        talk.say({"error": {"what": what, "where": order["job"], "remedy": "see TensorRT's messages in the run's log"}})
    finally:
        # Unloading CUDA and TensorRT at exit can hang or crash after the answer is sent, so it is skipped.
        sys.stderr.flush()
        os._exit(0)


def _end_with_starter() -> None:
    """Make the kernel kill this process when the thread that started it ends, even while it is stopped."""
    if CAN_STOP:
        import ctypes

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)


def _end_with_parent() -> None:
    """End this process when standard input ends, which means that the parent is gone."""
    sys.stdin.read()
    os._exit(1)
