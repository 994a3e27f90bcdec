"""The kind of CPU, on which kernels and so the last digits of results depend, and the number of usable cores."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

_TELLING = frozenset((
    "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_int8",
    "asimddp", "asimdhp", "i8mm", "bf16", "sve",
))  # fmt: skip
"""The instruction set extensions by which onnxruntime chooses kernels."""


@cache
def cpu_kind() -> str:
    """The architecture and the extensions that kernels are chosen by, as far as the system reports them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    listed = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return " ".join([platform.machine(), *sorted(_TELLING & set(listed[1].split() if listed else ()))])


SESSION_THREADS = 16
"""Most threads of an onnxruntime session: batches are small, and waking a thread takes as long as many operators."""


@cache
def cores() -> int:
    """Number of CPUs that this process may use, limited by its affinity and the CPU quota of its control groups.

    A container on a large host often has a CPU time quota but sees all CPUs. With one thread per CPU the quota would be
    used up early in every period, and all threads would then wait for the next.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")))))


def session_threads() -> int:
    """Number of threads of an onnxruntime session within one operator."""
    return min(cores(), SESSION_THREADS)


@contextmanager
def blas_threads(workers: int = 1) -> Iterator[None]:
    """Within the block, limit numpy's linear algebra to the threads of a session, divided among ``workers``.

    OpenBLAS starts one thread per visible CPU, which wait for each other actively: with 64 of them, inverting a 512 x
    512 matrix takes a hundred times as long as with one.
    """
    # threadpoolctl finds only loaded libraries, and numpy loads its own
    import numpy  # noqa: F401
    from threadpoolctl import ThreadpoolController

    most, pools = max(1, session_threads() // workers), ThreadpoolController().select(user_api="blas")
    # a lower limit set by the user is kept
    wide = any(pool["num_threads"] > most for pool in pools.info())
    with pools.limit(limits=most if wide else None):
        yield


def quota(groups: Path, root: Path) -> float:
    """The CPUs allowed by the quota of control groups, version 1 or 2; infinite without a limit or if unreadable.

    Args:
        groups: the file that lists the control groups of a process, see proc(5).
        root: the mount point of control groups.
    """
    try:
        # group names are bytes, like file names
        lines = [line.split(":", 2) for line in os.fsdecode(groups.read_bytes()).splitlines()]
    except OSError:
        return math.inf
    least = math.inf
    for _, controllers, place in (line for line in lines if len(line) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root
        inner = top / place.lstrip("/")
        # inside a container the names are those of the host, while the container's group is mounted as the root
        for folder in (one for one in (inner, *inner.parents) if one.is_relative_to(top)):
            least = min(least, _paid(folder))
    return least


def _paid(folder: Path) -> float:
    """The CPUs allowed by the quota of one control group; infinite without a limit or if unreadable."""
    try:
        if (limit := folder / "cpu.max").exists():
            time, period = limit.read_text(encoding="utf-8").split()
        else:
            time, period = ((folder / f"cpu.cfs_{one}_us").read_text(encoding="utf-8") for one in ("quota", "period"))
        return int(time) / int(period) if int(time) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
