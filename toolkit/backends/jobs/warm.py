"""Loading a TensorRT module ahead of a job, inside the child process."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from toolkit.backends.execution.measure import call, cuda_runtime
from toolkit.base.gpu import gpu_memory

_LARGE = 16 << 30
"""Bytes of GPU memory from which on a context more does not matter."""


def load(library: str, modules: Iterable[str]) -> None:
    """Import a TensorRT module with all that jobs need besides, and make a CUDA context where it does not matter.

    A context takes some 0.5 GB of a large GPU.

    Args:
        library: ``tensorrt`` or ``tensorrt_rtx``.
        modules: the jobs' own modules.

    Raises:
        Exception: whatever the module's own import raises.
    """
    from polygraphy import config as polygraphy_config

    polygraphy_config.USE_TENSORRT_RTX = library == "tensorrt_rtx"
    importlib.import_module(library)
    importlib.import_module("polygraphy.backend.trt")
    for module in modules:
        importlib.import_module(module)
    runtime = cuda_runtime()
    if runtime is not None and gpu_memory() >= _LARGE:
        call(runtime.cudaFree(0))
