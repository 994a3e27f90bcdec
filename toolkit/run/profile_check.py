"""Whether a recipe's profiles fit the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.base.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from toolkit.base.profiles import Profiles
    from toolkit.graph.model import Model
    from toolkit.run.recipe import Recipe


def check(profiles: Profiles, model: Model, recipe: Recipe) -> None:
    """Check that every profile names inputs of the model, with their rank and fixed dimensions, and all dynamic ones.

    Raises:
        RecipeError: one does not; the message names the profile, the input and the line.
    """
    shapes = model.input_shapes()
    dynamic = [name for name, shape in shapes.items() if any(not isinstance(dim, int) for dim in shape)]
    if not len(profiles) and dynamic and recipe.engine.backend != "none":
        name = dynamic[0]
        raise RecipeError(
            f"input '{name}' has the dynamic shape {shapes[name]} and the recipe has no profile",
            where=str(recipe.path or "the recipe"),
            remedy=f"add [[profile]] with shapes.{name} = {{ min = [..], opt = [..], max = [..] }}; or use `qtool new`",
        )
    for index, profile in enumerate(profiles):
        where = recipe.locate("profile", index, "shapes")
        for name, extent in profile.shapes.items():
            if name not in shapes:
                raise RecipeError(
                    f"profile '{profile.name}' names the input '{name}', which the model does not have",
                    where=where,
                    remedy=did_you_mean(name, shapes),
                )
            declared = shapes[name]
            if declared and len(declared) != len(extent.min):
                raise RecipeError(
                    f"profile '{profile.name}' gives '{name}' {len(extent.min)} dimensions; the model has "
                    f"{len(declared)}: {declared}",
                    where=where,
                    remedy="give every dimension of the input",
                )
            for axis, dim in enumerate(declared):
                if isinstance(dim, int) and (extent.min[axis] != dim or extent.max[axis] != dim):
                    raise RecipeError(
                        f"profile '{profile.name}' lets dimension {axis} of '{name}' be {extent.min[axis]} to "
                        f"{extent.max[axis]}; the model fixes it at {dim}",
                        where=where,
                        remedy=f"write {dim} in min, opt and max, or export the model with that dimension dynamic",
                    )
        for name in dynamic:
            if name not in profile.shapes:
                raise RecipeError(
                    f"profile '{profile.name}' gives no shapes for the dynamic input '{name}'",
                    where=where,
                    remedy=f"add shapes.{name} = {{ min = [..], opt = [..], max = [..] }}",
                )
