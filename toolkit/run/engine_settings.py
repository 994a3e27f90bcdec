"""A recipe's ``[engine]`` section as backends take it, and what a build needs besides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.base.errors import RecipeError

if TYPE_CHECKING:
    from toolkit.backends.base import EngineSettings, Extras
    from toolkit.contract.plan import PrecisionPlan
    from toolkit.contract.ranges import Ranges
    from toolkit.run.inputs import Inputs
    from toolkit.run.recipe import Recipe

_SAME = (
    "typing",
    "constraints",
    "quantization",
    "optimization_level",
    "avg_timing_iterations",
    "refit",
    "version_compatible",
    "hardware_compatible",
    "sparse_weights",
    "calibrator",
    "measure",
)


def engine_settings(recipe: Recipe) -> EngineSettings:
    """The recipe's engine settings.

    Raises:
        RecipeError: one of them is not what backends take.
    """
    from toolkit.backends.base import EngineSettings

    section = recipe.engine
    settings = {name: getattr(section, name) for name in _SAME}
    settings["compute_capabilities"] = tuple(section.compute_capabilities)
    settings["workspace"] = section.workspace_mb << 20 if section.workspace_mb else None
    settings["tactic_sources"] = tuple(section.tactic_sources) if section.tactic_sources is not None else None
    if section.timing_cache is not None:
        settings["timing_cache"] = recipe.resolve(section.timing_cache)
    try:
        return EngineSettings(**settings)
    except ValueError as error:
        text = str(error).splitlines()[2].strip() if len(str(error).splitlines()) > 2 else str(error)
        raise RecipeError(text.split(" [type=")[0], where=recipe.locate("engine")) from error


def extras_for(inputs: Inputs, plan: PrecisionPlan, ranges: Ranges | None) -> Extras:
    """What a build needs besides the model: the plan, ranges and calibration batches."""
    from toolkit.backends.base import Extras

    job, section = inputs.job, inputs.job.recipe.engine
    return Extras(
        plan=plan,
        rest=section.rest,
        ranges=ranges,
        batches=inputs.calibrator_batches(),
        calibration_profile=section.calibration_profile or next(iter(job.profiles.names), ""),
        calibration_cache=job.folder.path / "calibration.cache" if section.calibrator != "ranges" else None,
    )
