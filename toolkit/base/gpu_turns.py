"""One GPU for several threads of a process: whoever measures an engine has it alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

GPU_TURN = threading.Lock()
"""Held while an engine is measured, and while this process itself computes on the GPU."""


@contextmanager
def gpu_turn() -> Iterator[None]:
    """In the block this process may use the GPU: it waits for a measurement, and a measurement waits for it."""
    with GPU_TURN:
        yield
