"""The GPU of this machine, as reported by the CUDA driver."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from toolkit.base.precision import Precision


@dataclass(frozen=True)
class Gpu:
    """A CUDA device: its name and its compute capability, such as "8.9"."""

    name: str
    compute_capability: str


def capability_for(precision: Precision) -> str:
    """The lowest compute capability that supports a type; empty if every GPU supports it."""
    return ".".join(map(str, precision.since)) if any(precision.since) else ""


def computes_in(capability: str, precision: Precision) -> bool:
    """Whether a GPU of a compute capability, such as "8.9", supports a type."""
    major, _, minor = capability.partition(".")
    return (int(major), int(minor)) >= precision.since


@lru_cache(maxsize=1)
def find_gpu() -> Gpu | None:
    """The first CUDA device, or None. Creates no CUDA context, so it takes milliseconds and no memory."""
    driver = _driver()
    if driver is None:
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


def gpu_uuid() -> str:
    """The UUID of the first CUDA device, in hex; empty where there is none."""
    driver, device = _first_device()
    found = ctypes.create_string_buffer(16)
    return found.raw.hex() if driver is not None and driver.cuDeviceGetUuid_v2(found, device) == 0 else ""


def gpu_memory() -> int:
    """The first CUDA device's memory in bytes; 0 where there is none. Makes no CUDA context."""
    driver, device = _first_device()
    found = ctypes.c_size_t()
    return found.value if driver is not None and driver.cuDeviceTotalMem_v2(ctypes.byref(found), device) == 0 else 0


def _first_device() -> tuple[Any, ctypes.c_int]:
    """The driver and the first CUDA device; the driver is None where there is no such device."""
    driver, device = _driver(), ctypes.c_int()
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None, device
    return driver, device


def driver_cuda() -> str:
    """The newest CUDA version that the driver supports, such as "12.4"; empty if there is no driver."""
    driver, found = _driver(), ctypes.c_int()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(found)) != 0:
        return ""
    return f"{found.value // 1000}.{found.value % 1000 // 10}"


def _driver() -> Any:
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            return ctypes.CDLL(library)
        except OSError:
            continue
    return None
