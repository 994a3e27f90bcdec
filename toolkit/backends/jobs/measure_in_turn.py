"""Measuring several engines in turns, inside the child process."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from toolkit.backends.building.messages import Messages
from toolkit.backends.execution.measure import latencies_in_turn
from toolkit.backends.execution.open_engine import open_engine
from toolkit.backends.processes.channel import Channel


def measure_in_turn(request: dict[str, Any], talk: Channel) -> dict[str, Any]:
    """Measure each engine's latency at the opt shapes of every profile, with all engines in every round.

    Args:
        request: ``backend``, ``engines`` (name to path), ``profiles`` (see ``exchange.profiles_to_json``), ``rounds``,
            ``host_code`` (whether engines may contain host code, as version-compatible ones do).
        talk: receives messages and progress.

    Returns:
        ``turns``: {profile: {engine: [median milliseconds per round]}}; ``lacks``: {profile: why it was not measured}.

    Raises:
        BackendError: an engine cannot be opened.
    """
    trt = importlib.import_module(request["backend"])
    messages = Messages(talk)
    engines = {
        name: open_engine(trt, Path(path).read_bytes(), messages, path, request["host_code"])
        for name, path in request["engines"].items()
    }
    turns, lacks = latencies_in_turn(trt, engines, request["profiles"], request["rounds"], talk)
    return {"turns": turns, "lacks": lacks}
