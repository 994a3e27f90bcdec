"""Checking an installed TensorRT module, inside the child process: whether it loads, and its features."""

from __future__ import annotations

import importlib
from typing import Any

from toolkit.backends.execution.measure import call, cuda_runtime
from toolkit.backends.processes.channel import Channel
from toolkit.base.errors import BackendError
from toolkit.base.text import on_one_line


def probe(request: dict[str, Any], talk: Channel) -> dict[str, Any]:
    """Import ``request["module"]`` and list the features that determine how it is used.

    Returns:
        ``version`` (text), ``strong`` and ``weak`` (whether it supports these typings), ``implicit`` (whether it can
        quantize with ranges), ``free_bytes`` (free GPU memory; 0 if unknown).

    Raises:
        BackendError: the module or one of its libraries does not load.
    """
    name = request["module"]
    try:
        trt = importlib.import_module(name)
        version = str(trt.__version__)
        weak = hasattr(trt.BuilderFlag, "FP16")
        strong = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or not weak
        implicit = weak and hasattr(trt.BuilderFlag, "INT8") and hasattr(trt.ITensor, "dynamic_range")
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        raise BackendError(
            f"module '{name}' does not load: {on_one_line(str(error), 300)}",
            remedy=f"install {name.replace('_', '-')} again, with its libraries",
        ) from error
    return {"version": version, "strong": strong, "weak": weak, "implicit": implicit, "free_bytes": _free_bytes()}


def _free_bytes() -> int:
    runtime = cuda_runtime()
    if runtime is None:
        return 0
    try:
        return int(call(runtime.cudaMemGetInfo())[0])
    except BackendError:
        return 0
