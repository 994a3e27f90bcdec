"""A recipe's ``[engine]`` section as settings of a backend, and the other inputs of a build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from toolkit.backends.backend import EngineChoices, EngineSettings, Extras
from toolkit.base.errors import RecipeError

if TYPE_CHECKING:
    from toolkit.contract.plan import PrecisionPlan
    from toolkit.contract.ranges import Ranges
    from toolkit.run.inputs.inputs import Inputs
    from toolkit.run.recipe.recipe import Recipe


def engine_settings(recipe: Recipe, kept: Path | None = None) -> EngineSettings:
    """The recipe's engine settings.

    Args:
        recipe: with its section ``[engine]``.
        kept: the folder of the run's own files. If the recipe names no timing cache, all engines of the run share one
            in this folder: kernels that several engines have in common are timed once, and later builds are faster.

    Raises:
        RecipeError: a setting is invalid.
    """
    section = recipe.engine
    cache = recipe.resolve(section.timing_cache) if section.timing_cache is not None else None
    if cache is None and kept is not None:
        # caches are kept apart by the number of timing iterations, since averaged times must not mix
        cache = kept / f"engines{section.avg_timing_iterations or ''}.timing"
    try:
        return EngineSettings(
            **section.model_dump(include=set(EngineChoices.model_fields)),
            workspace=section.workspace_mb << 20 if section.workspace_mb else None,
            timing_cache=cache,
        )
    except ValidationError as error:
        first = error.errors()[0]
        setting = [name for name in first["loc"][:1] if name in type(section).model_fields]
        fault = first["msg"].removeprefix("Value error, ")
        raise RecipeError(fault, where=recipe.locate("engine", *setting)) from error


def extras_for(inputs: Inputs, plan: PrecisionPlan, ranges: Ranges | None) -> Extras:
    """The inputs of a build besides the model: plan, ranges and calibration batches."""
    job, section = inputs.job, inputs.job.recipe.engine
    return Extras(
        plan=plan,
        rest=section.rest,
        ranges=ranges,
        batches=inputs.calibrator_batches(),
        calibration_profile=section.calibration_profile or next(iter(job.profiles.names), ""),
        calibration_cache=job.folder.path / "calibration.cache" if section.calibrator != "ranges" else None,
    )
