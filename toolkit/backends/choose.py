"""Which backend a recipe gets, and why."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

from toolkit.backends.base import Backend
from toolkit.backends.none import NoBackend
from toolkit.backends.process import run_job
from toolkit.base.errors import BackendError, RecipeError, did_you_mean
from toolkit.base.gpu import find_gpu

NAMES = ("auto", "tensorrt", "tensorrt_rtx", "none")
_INSTALL = {"tensorrt": "run 'pip install qtool[tensorrt]'", "tensorrt_rtx": "run 'pip install qtool[rtx]'"}


def choose(name: str = "auto") -> tuple[Backend, str]:
    """The backend of that name and why it was taken.

    ``auto`` takes tensorrt where it loads and a GPU is here, else tensorrt_rtx where it loads, else none; the reason
    says why those before it were not taken.

    Raises:
        RecipeError: there is no backend of that name.
        BackendError: the backend that was asked for by name cannot be used here.
    """
    if name not in NAMES:
        raise RecipeError(f"no backend is called '{name}'", where="[engine] backend", remedy=did_you_mean(name, NAMES))
    if name == "none":
        return NoBackend(), "asked for: the run stops at the ONNX model"
    refusals: list[str] = []
    for candidate in (name,) if name != "auto" else ("tensorrt", "tensorrt_rtx"):
        features, refusal = usable(candidate)
        if features is not None:
            chosen = _make(candidate, features)
            why = "asked for" if name != "auto" else f"{candidate} {features['version']} loads" + (
                f" and the GPU is {gpu.name}" if candidate == "tensorrt" and (gpu := find_gpu()) else ""
            )  # fmt: skip
            return chosen, "; ".join([why, *refusals])
        refusals.append(refusal)
    if name != "auto":
        raise BackendError(
            refusals[0],
            where=f'[engine] backend = "{name}"',
            remedy=f"{_INSTALL[name]}, or use another backend" + (" on this machine" if "GPU" in refusals[0] else ""),
        )
    return NoBackend(), "; ".join(["nothing can build an engine here", *refusals])


@cache
def _features(module: str) -> tuple[dict[str, Any] | None, str]:
    """What the child process found in a module, or None and why it does not load."""
    if importlib.util.find_spec(module) is None:
        return None, f"{module} is not installed"
    try:
        return run_job("probe", {"module": module}), ""
    except BackendError as error:
        return None, f"{module} is installed but cannot be used: {error.what}"


def usable(backend: str) -> tuple[dict[str, Any] | None, str]:
    """What the backend's module offers, or None and why it cannot be used here."""
    if backend == "tensorrt" and importlib.util.find_spec("tensorrt") is not None and find_gpu() is None:
        return None, "tensorrt is installed but no GPU is here, and it builds on a GPU only"
    return _features(backend)


def _make(name: str, features: dict[str, Any]) -> Backend:
    if name == "tensorrt":
        from toolkit.backends.tensorrt import TensorRTBackend

        return TensorRTBackend(features)
    from toolkit.backends.rtx import RtxBackend

    return RtxBackend()
