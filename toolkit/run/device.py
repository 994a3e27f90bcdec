"""The step "device": whether the engine is run on this machine's GPU, and what became of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.base.errors import BackendError, DataError, QtoolError, RecipeError
from toolkit.base.files import write_json
from toolkit.run.engine_settings import engine_settings

if TYPE_CHECKING:
    from toolkit.run.pipeline import Pipeline
    from toolkit.run.recipe import Recipe

SWITCHED_OFF = "switched off by --no-device-check"


def not_wanted(recipe: Recipe, device_check: bool | None) -> str:
    """Why the engine will not be run on a GPU in this run, in words; empty where it will be, if one is built.

    Raises:
        QtoolError: ``--device-check`` asks for it, and it cannot be.
    """
    if device_check is False:
        return SWITCHED_OFF
    found = refusal(recipe)
    if found is not None and device_check:
        raise type(found)(found.what, where=found.where, remedy=f"{found.remedy}, or leave out --device-check")
    return found.what if found is not None else ""


def refusal(recipe: Recipe) -> QtoolError | None:
    """Why the engine cannot be run on a GPU here, or None; knows this before anything is built."""
    from toolkit.backends.choose import choose
    from toolkit.backends.rtx import target_capabilities
    from toolkit.base.gpu import find_gpu

    gpu = find_gpu()
    if gpu is None:
        return BackendError("no GPU is here to run the engine on", remedy="run on the machine that the engine is for")
    backend, reason = choose(recipe.engine.backend)
    if backend.name == "none":
        return RecipeError(
            f"no engine is built ({reason}), so none can be run on the GPU",
            where=recipe.locate("engine", "backend"),
            remedy='install a backend and set backend = "auto"',
        )
    if backend.name == "tensorrt_rtx":
        capabilities, why = target_capabilities(engine_settings(recipe))
        if gpu.compute_capability not in capabilities:
            return BackendError(
                f"the engine is built for compute capability {', '.join(capabilities)} ({why}), and this machine's "
                f"{gpu.name} has {gpu.compute_capability}",
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


def check_on_device(pipeline: Pipeline) -> None:
    """Run the engine on the GPU where that is wanted and one was built; a step like any other.

    Raises:
        BackendError: ``--device-check`` demands it, and no engine was built, or no sample could be run.
    """
    if not pipeline.not_on_device and not (pipeline.path / "model.engine").is_file():
        pipeline.not_on_device = "the backend built no engine"
    # a failure is never found again: it may have been another program that held the GPU's memory
    if pipeline.not_on_device or device_result(pipeline)["status"] == "failed":
        pipeline.folder.forget("device")
    if not pipeline.not_on_device:
        pipeline.step("device", pipeline.device_key(), lambda: _run(pipeline))
    found = device_result(pipeline)
    if pipeline.device_check and found["status"] == "skipped":
        raise BackendError(
            f"the engine was not run on the GPU: {found['why']}",
            where="--device-check",
            remedy="give samples that fill a batch of some profile, or leave out --device-check"
            if not pipeline.not_on_device
            else "use a backend that builds an engine here, or leave out --device-check",
        )


def device_result(pipeline: Pipeline) -> dict[str, Any]:
    """The content of device.json, or why there is none; see ``run_on_device``."""
    path = pipeline.folder.hidden / "device.json"
    # what an interrupted run left is no result of this one
    if pipeline.not_on_device or not path.is_file():
        from toolkit.base.gpu import find_gpu

        gpu = find_gpu()
        return {"status": "skipped", "why": pipeline.not_on_device, "gpu": gpu.name if gpu is not None else ""}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _run(pipeline: Pipeline) -> list[Path]:
    from toolkit.run.engine import run_on_device

    built = json.loads((pipeline.folder.hidden / "build.json").read_text(encoding="utf-8"))
    path = pipeline.folder.hidden / "device.json"
    write_json(path, run_on_device(pipeline, pipeline.path / "model.engine", built["build"]["backend"]))
    return [path]
