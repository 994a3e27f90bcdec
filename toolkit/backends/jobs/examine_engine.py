"""Inspecting and measuring an engine built with TensorRT, inside its own child process."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Any

from toolkit.backends.building.messages import Messages
from toolkit.backends.execution.inspection import inspect_engine
from toolkit.backends.execution.measure import MeasuredEngine, measure_engine, run_once
from toolkit.backends.execution.open_engine import open_engine
from toolkit.backends.processes.channel import Channel


def examine(request: dict[str, Any], talk: Channel) -> dict[str, Any]:
    """Query the inspector for every profile, and measure every profile.

    Args:
        request: ``folder`` (has model.engine, and receives the results), ``profiles``, ``inspect`` and ``measure``
            (whether to), ``version_compatible`` (as the engine was built).
        talk: receives messages and progress.

    Returns:
        ``inspected`` (one file per profile; empty if not requested), ``log``, and ``time_ms``, ``latency`` and
        ``lacks`` (see ``MeasuredEngine``).

    Raises:
        BackendError: TensorRT cannot open the engine, or cannot create a context for it.
    """
    trt = importlib.import_module("tensorrt")
    messages, folder, profiles = Messages(talk), Path(request["folder"]), request["profiles"]
    content = (folder / "model.engine").read_bytes()
    engine = open_engine(trt, content, messages, str(folder), request["version_compatible"])
    warm = partial(run_once, trt, engine)
    inspected = inspect_engine(trt, engine, profiles, folder, talk, warm) if request["inspect"] else []
    nothing = MeasuredEngine({}, {}, {})
    measured = measure_engine(trt, engine, profiles, talk) if request["measure"] else nothing
    return {
        "inspected": inspected,
        "log": messages.lines(),
        "time_ms": measured.layers,
        "latency": measured.latency,
        "lacks": measured.lacks,
    }
