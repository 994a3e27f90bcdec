"""Opening an engine's bytes, inside a child process."""

from __future__ import annotations

from typing import Any

from toolkit.backends.building.messages import Messages


def load_plugins(trt: Any, logger: Any) -> None:
    """Register TensorRT's own plugins, which an engine built with one of them needs before it can be opened.

    The ONNX parser does so by itself; a process that only opens engines must. TensorRT-RTX has none.
    """
    register = getattr(trt, "init_libnvinfer_plugins", None)
    if register is not None:
        register(logger, "")


def open_engine(trt: Any, content: bytes, messages: Messages, where: str, host_code: bool) -> Any:
    """The engine that these bytes hold.

    Args:
        trt: the module that built it.
        content: the serialized engine.
        messages: where TensorRT's messages go.
        where: what to name in an error.
        host_code: whether a version-compatible engine's own code may run, as in engines of this run.

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
