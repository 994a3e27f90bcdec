"""Processor time that onnxruntime has used in this process, a measure of the cost of analyses."""

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
    """Processor seconds that all sessions have used so far, summed over threads."""
    return _meter.seconds


def count(seconds: float) -> None:
    """Add the processor seconds of a session."""
    _meter.add(seconds)
