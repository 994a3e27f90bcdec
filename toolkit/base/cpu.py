"""The kind of CPU that computes: kernels, and with them the last digits of results, differ between kinds."""

from __future__ import annotations

import platform
import re
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
