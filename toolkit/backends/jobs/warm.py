"""Loading a TensorRT module ahead of a job, inside the child process."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from toolkit.backends.execution.measure import call, cuda_runtime
from toolkit.base.gpu import gpu_memory

_LARGE = 16 << 30
"""Bytes of GPU memory above which the memory of an additional context does not matter."""


def load(library: str, modules: Iterable[str]) -> None:
    """Import a TensorRT module and everything jobs need, and create a CUDA context if the GPU has ample memory.

    A context takes about 0.5 GB on a large GPU.

    Args:
        library: ``tensorrt`` or ``tensorrt_rtx``.
        modules: the modules of the jobs.

    Raises:
        Exception: any error of the imports.
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
