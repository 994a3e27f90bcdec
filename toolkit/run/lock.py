"""recipe.lock.toml: the recipe with every setting resolved, and what the run was made from."""

from __future__ import annotations

from toolkit.base.versions import versions
from toolkit.run.inputs import Inputs
from toolkit.run.recipe_passes import named_passes


def lock_text(inputs: Inputs, backend: str, lowering: str) -> str:
    """The content of recipe.lock.toml.

    Args:
        inputs: the recipe with fingerprints of what it reads.
        backend: what built the engine.
        lowering: ``strong`` or ``weak``.
    """
    import tomli_w

    recipe, prints = inputs.job.recipe, inputs.prints
    settings = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    settings["pass"] = [
        {"use": use, **step.model_dump(mode="json", exclude_none=True)}
        for use, step in named_passes(recipe, inputs.job.allow_code)
    ]
    settings["lock"] = {
        "backend": backend,
        "lowering": lowering,
        "versions": versions(),
        "fingerprints": {
            "model": prints.of(inputs.job.model_path),
            "calibration_data": prints.of_data(recipe.calibration.data),
            "evaluation_data": prints.of_data(recipe.evaluation.data),
            "external_data": prints.of_weights(),
            "ranges": prints.of_file(recipe.calibration.ranges),
            "collection": prints.of_file(recipe.calibration.collection),
        },
    }
    return tomli_w.dumps(settings)
