"""Deserializing an engine, inside a child process."""

from __future__ import annotations

from typing import Any

from toolkit.backends.building.messages import Messages


def load_plugins(trt: Any, logger: Any) -> None:
    """Register TensorRT's own plugins, which are required to deserialize an engine that uses one of them.

    The ONNX parser does this itself; a process that only opens engines must call it. TensorRT-RTX has no such plugins.
    """
    register = getattr(trt, "init_libnvinfer_plugins", None)
    if register is not None:
        register(logger, "")


def open_engine(trt: Any, content: bytes, messages: Messages, where: str, host_code: bool) -> Any:
    """Deserialize an engine.

    Args:
        trt: the module that built the engine.
        content: the serialized engine.
        messages: receives TensorRT's messages.
        where: location to name in an error.
        host_code: whether host code in a version-compatible engine may run; true for engines of this run.

    Raises:
        BackendError: TensorRT cannot open it.
    """
    logger = messages.logger(trt)
    load_plugins(trt, logger)
    runtime = trt.Runtime(logger)
    if host_code and hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise messages.error(f"TensorRT {trt.__version__} could not open the engine", where)
    return engine
