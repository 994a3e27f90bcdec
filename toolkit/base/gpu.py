"""Which GPU is here, asked of the CUDA driver itself."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """A CUDA device: its name and its compute capability, as in "8.9"."""

    name: str
    compute_capability: str


@lru_cache(maxsize=1)
def find_gpu() -> Gpu | None:
    """The first CUDA device, or None. Makes no CUDA context, so it costs milliseconds and holds no memory."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(library)
            break
        except OSError:
            continue
    else:
        return None
    count, device = ctypes.c_int(), ctypes.c_int()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(128)
    compute_capability_major, compute_capability_minor = 75, 76
    calls: tuple[Callable[[], Any], ...] = (
        lambda: driver.cuInit(0),
        lambda: driver.cuDeviceGetCount(ctypes.byref(count)) or (0 if count.value else 1),
        lambda: driver.cuDeviceGet(ctypes.byref(device), 0),
        lambda: driver.cuDeviceGetName(name, 128, device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(major), compute_capability_major, device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(minor), compute_capability_minor, device),
    )
    if any(call() != 0 for call in calls):
        return None
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}")
