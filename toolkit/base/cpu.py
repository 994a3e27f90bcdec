"""The kind of CPU that computes, since kernels, and with them the last digits of results, differ between kinds; and how
much of it there is.
"""

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
"""The extensions that onnxruntime chooses its kernels by."""


@cache
def cpu_kind() -> str:
    """The architecture, and the extensions that kernels are chosen by, as far as the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    listed = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return " ".join([platform.machine(), *sorted(_TELLING & set(listed[1].split() if listed else ()))])


SESSION_THREADS = 16
"""Threads of one onnxruntime session at most: samples come in small batches, and waking a thread takes as long as many
of their operators do."""


@cache
def cores() -> int:
    """How many CPUs this process may use: those it may run on, or as many as its control groups' quota pays for.

    A container on a large host is often given a quota of time and shown all CPUs. With a thread for each of them the
    quota is spent in a fraction of every period, and all threads stand still for the rest of it.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")))))


def session_threads() -> int:
    """How many threads a session of onnxruntime uses within one operator."""
    return min(cores(), SESSION_THREADS)


@contextmanager
def blas_threads(workers: int = 1) -> Iterator[None]:
    """Within it, numpy's linear algebra uses no more threads than a session does, shared by so many that compute.

    OpenBLAS starts a thread for every CPU that it sees, and they wait busily for each other: with 64 of them the
    inverse of 512 x 512 values takes a hundred times as long as with one.
    """
    # a thread-pool library is looked for among those that are loaded, and numpy's is loaded with it
    import numpy  # noqa: F401
    from threadpoolctl import ThreadpoolController

    most, pools = max(1, session_threads() // workers), ThreadpoolController().select(user_api="blas")
    # a limit that the user set lower stays
    wide = any(pool["num_threads"] > most for pool in pools.info())
    with pools.limit(limits=most if wide else None):
        yield


def quota(groups: Path, root: Path) -> float:
    """The CPUs that control groups, of version 1 or 2, pay for; infinite where they set no limit or cannot be read.

    Args:
        groups: the file that names the groups of a process, as proc(5) describes it.
        root: where control groups are mounted.
    """
    try:
        # names of groups are bytes, as those of files are
        lines = [line.split(":", 2) for line in os.fsdecode(groups.read_bytes()).splitlines()]
    except OSError:
        return math.inf
    least = math.inf
    for _, controllers, place in (line for line in lines if len(line) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root
        inner = top / place.lstrip("/")
        # inside a container the names are those of the host, and its own group is mounted as the root
        for folder in (one for one in (inner, *inner.parents) if one.is_relative_to(top)):
            least = min(least, _paid(folder))
    return least


def _paid(folder: Path) -> float:
    """The CPUs that one control group pays for."""
    try:
        if (limit := folder / "cpu.max").exists():
            time, period = limit.read_text(encoding="utf-8").split()
        else:
            time, period = ((folder / f"cpu.cfs_{one}_us").read_text(encoding="utf-8") for one in ("quota", "period"))
        return int(time) / int(period) if int(time) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
