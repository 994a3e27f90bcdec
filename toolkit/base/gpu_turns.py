"""Exclusive use of one GPU among the threads of a process, for measuring engines undisturbed."""

from __future__ import annotations

import threading

GPU_TURN = threading.Lock()
"""Held while an engine is measured, and while this process computes on the GPU itself: they exclude each other."""
