"""How long onnxruntime has computed in this process: what an analysis costs is counted by it, whoever runs a model."""

from __future__ import annotations

import threading


class _Meter:
    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        with self._lock:
            self.seconds += seconds


_meter = _Meter()


def computed() -> float:
    """Processor seconds that sessions have computed so far, in all threads."""
    return _meter.seconds


def count(seconds: float) -> None:
    """Add what a session has computed."""
    _meter.add(seconds)
