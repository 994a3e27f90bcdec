"""Whether an engine can be run on this machine's GPU, decided before anything is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.base.errors import BackendError, DataError, QtoolError, RecipeError
from toolkit.contract.findings import Finding
from toolkit.report.codes import ReportCode
from toolkit.run.inputs.engine_settings import engine_settings

if TYPE_CHECKING:
    from toolkit.run.recipe.recipe import Recipe


def device_run_declined(recipe: Recipe, device_check: bool | None) -> Finding | None:
    """The reason not to run the engine on a GPU in this run; None if it will be run, provided one is built.

    Raises:
        QtoolError: ``--device-check`` requests it, and it is not possible.
    """
    if device_check is False:
        return ReportCode.DEVICE_CHECK_OFF()
    found = refusal(recipe)
    if found is not None and device_check:
        raise type(found)(found.what, where=found.where, remedy=f"{found.remedy}, or leave out --device-check")
    return ReportCode.DEVICE_NOT_USABLE(error=found.what) if found is not None else None


def refusal(recipe: Recipe) -> QtoolError | None:
    """The reason that an engine cannot be run on a GPU here, or None; decided before anything is built."""
    from toolkit.backends.choose import choose
    from toolkit.backends.rtx import target_capabilities
    from toolkit.base.gpu import find_gpu
    from toolkit.report.findings import sentence

    gpu = find_gpu()
    if gpu is None:
        what = "this machine has no GPU to run the engine"
        return BackendError(what, remedy="run on the machine that the engine is for")
    backend, reason = choose(recipe.engine.backend)
    if backend.name == "none":
        return RecipeError(
            f"no engine is built ({sentence(reason)}), so none can be run on the GPU",
            where=recipe.locate("engine", "backend"),
            remedy='install a backend and set backend = "auto"',
        )
    if backend.name == "tensorrt_rtx":
        capabilities, why = target_capabilities(engine_settings(recipe))
        if gpu.compute_capability not in capabilities:
            return BackendError(
                f"the engine is built for compute capability {', '.join(capabilities)} ({sentence(why)}), and this "
                f"machine's {gpu.name} has {gpu.compute_capability}",
                where=recipe.locate("engine", "backend"),
                remedy="run on a GPU of that capability, or use a backend that builds for this one",
            )
    if recipe.evaluation.data is None and recipe.calibration.data is None and recipe.calibration.random is None:
        return DataError(
            "there are no samples to run the engine on",
            where=recipe.locate("evaluation"),
            remedy="add [evaluation] data or [calibration] data",
        )
    return None
