"""Which backend a recipe uses, and why."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

from toolkit.backends.backend import Backend
from toolkit.backends.codes import EngineCode
from toolkit.backends.none import NoBackend
from toolkit.backends.processes.process import run_job
from toolkit.base.errors import BackendError, RecipeError, did_you_mean
from toolkit.base.gpu import find_gpu
from toolkit.contract.findings import Finding

NAMES = ("auto", "tensorrt", "tensorrt_rtx", "none")
_BUILDING = ("tensorrt", "tensorrt_rtx")
"""The candidates of ``auto``, in order of preference."""
NEVER_INT8 = {"tensorrt_rtx": frozenset({"ConvTranspose"})}
"""Operators for which a backend was never observed to use an INT8 kernel despite Q/DQ pairs (RTX 1.7.1.116, for compute
capability 8.9 and 12.0: its kernel reads float16 after a separate Dequantize)."""
_INSTALL = {"tensorrt": "run pip install 'qtool[tensorrt]'", "tensorrt_rtx": "run pip install 'qtool[rtx]'"}


def lacks_int8(backend: str, op: str) -> str:
    """The name of the backend that ``choose`` would return if it lacks INT8 kernels for an operator; else "".

    No backend is loaded for operators for which all backends have kernels.
    """
    if not any(op in ops for ops in NEVER_INT8.values()) or backend == "none":
        return ""
    chosen = choose(backend)[0].name if backend == "auto" else backend
    return chosen if op in NEVER_INT8.get(chosen, ()) else ""


def choose(name: str = "auto") -> tuple[Backend, Finding]:
    """The backend of this name, and why it was chosen.

    ``auto`` chooses tensorrt if it loads and there is a GPU, else tensorrt_rtx if it loads, else none; the finding says
    why preferred candidates were not chosen.

    Raises:
        RecipeError: there is no backend of this name.
        BackendError: the named backend cannot be used on this machine.
    """
    if name not in NAMES:
        raise RecipeError(f"there is no backend '{name}'", where="[engine] backend", remedy=did_you_mean(name, NAMES))
    if name == "none":
        return NoBackend(), EngineCode.NO_BACKEND_REQUESTED()
    refusals: list[BackendError] = []
    for candidate in (name,) if name != "auto" else _BUILDING:
        features, refusal = usable(candidate)
        if features is not None:
            chosen = _make(candidate, features)
            if name != "auto":
                return chosen, EngineCode.BACKEND_REQUESTED()
            gpu = find_gpu() if candidate == "tensorrt" else None
            refused = tuple(error.what for error in refusals)
            return chosen, EngineCode.BACKEND_CHOSEN(gpu=gpu.name if gpu is not None else None, refused=refused)
        if refusal is not None:
            refusals.append(refusal)
    if name != "auto":
        raise BackendError(refusals[0].what, where=f'[engine] backend = "{name}"', remedy=refusals[0].remedy)
    return NoBackend(), EngineCode.NO_BACKEND_USABLE(refused=tuple(error.what for error in refusals))


def next_after(refusing: str) -> str:
    """The name of the backend that ``auto`` tries next if ``refusing`` rejects the model."""
    following = _BUILDING[_BUILDING.index(refusing) + 1 :]
    return next((name for name in following if usable(name)[0] is not None), "none")


@cache
def _features(module: str) -> tuple[dict[str, Any] | None, BackendError | None]:
    """What the child process found in a module, or None and why it does not load."""
    remedy = f"{_INSTALL[module]}, or use another backend"
    if not installed(module):
        return None, BackendError(f"{module} is not installed", remedy=remedy)
    try:
        return run_job("probe", {"module": module}), None
    except BackendError as error:
        return None, BackendError(f"{module} is installed but cannot be used: {error.what}", remedy=remedy)


def installed(backend: str) -> bool:
    """Whether the backend's module is installed; it is not loaded."""
    return importlib.util.find_spec(backend) is not None


def usable(backend: str) -> tuple[dict[str, Any] | None, BackendError | None]:
    """The features of the backend's module, or None and why it cannot be used on this machine."""
    if backend == "tensorrt" and installed("tensorrt") and find_gpu() is None:
        what = "tensorrt is installed but builds only on a GPU, and this machine has none"
        return None, BackendError(what, remedy="run on a machine with a GPU, or use another backend")
    return _features(backend)


def _make(name: str, features: dict[str, Any]) -> Backend:
    if name == "tensorrt":
        from toolkit.backends.tensorrt import TensorRTBackend

        return TensorRTBackend(features)
    from toolkit.backends.rtx import RtxBackend

    return RtxBackend()
