"""One GPU for several threads of a process: whoever measures an engine has it alone."""

from __future__ import annotations

import threading

GPU_TURN = threading.Lock()
"""Held while an engine is measured, and while this process itself computes on the GPU: each waits for the other."""
