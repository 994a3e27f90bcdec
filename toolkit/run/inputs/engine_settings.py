"""A recipe's ``[engine]`` section as backends take it, and what a build needs besides."""

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
        kept: where the run keeps its files. Where the recipe names no timing cache, all engines of the run share one
            there: a kernel that several engines have in common is timed once, and a run that builds again is faster.

    Raises:
        RecipeError: one of them is not what backends take.
    """
    section = recipe.engine
    cache = recipe.resolve(section.timing_cache) if section.timing_cache is not None else None
    if cache is None and kept is not None:
        # times averaged over a number of runs must not mix with others
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
    """What a build needs besides the model: the plan, ranges and calibration batches."""
    job, section = inputs.job, inputs.job.recipe.engine
    return Extras(
        plan=plan,
        rest=section.rest,
        ranges=ranges,
        batches=inputs.calibrator_batches(),
        calibration_profile=section.calibration_profile or next(iter(job.profiles.names), ""),
        calibration_cache=job.folder.path / "calibration.cache" if section.calibrator != "ranges" else None,
    )
