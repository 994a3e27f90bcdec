"""Check of a recipe's profiles against the model's inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from toolkit.base.errors import RecipeError, did_you_mean
from toolkit.base.text import toml_key
from toolkit.contract.findings import Finding
from toolkit.data.codes import DataCode
from toolkit.graph.shape_inference.derived_dimensions import derived_dimensions
from toolkit.graph.shape_inference.dimensions import is_batch_name, places

if TYPE_CHECKING:
    from toolkit.base.profiles import Profiles, ShapeProfile
    from toolkit.graph.model import Model
    from toolkit.run.recipe.recipe import Recipe


def check(profiles: Profiles, model: Model, recipe: Recipe) -> list[Finding]:
    """Check that every profile names inputs of the model, matches their rank and fixed dimensions, and is complete.

    Returns:
        Findings about sizes for which an engine may fail to build.

    Raises:
        RecipeError: a profile does not fit; the message names the profile, the input and the line.
    """
    shapes = model.input_shapes()
    dynamic = [name for name, shape in shapes.items() if any(not isinstance(dim, int) for dim in shape)]
    if not len(profiles) and dynamic and recipe.engine.backend != "none":
        name = dynamic[0]
        raise RecipeError(
            f"input '{name}' has the dynamic shape {shapes[name]} and the recipe has no profile",
            where=str(recipe.path or "the recipe"),
            remedy=f"add [[profile]] with shapes.{toml_key(name)} = {{ min = [..], opt = [..], max = [..] }}; or use "
            "`qtool new`",
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
                if is_batch_name(dim) and not extent.opt[axis]:
                    raise RecipeError(
                        f"profile '{profile.name}' gives '{name}' 0 samples: opt has 0 in dimension {axis}, '{dim}'",
                        where=where,
                        remedy="write at least 1 in opt and max",
                    )
        for name in dynamic:
            if name not in profile.shapes:
                raise RecipeError(
                    f"profile '{profile.name}' gives no shapes for the dynamic input '{name}'",
                    where=where,
                    remedy=f"add shapes.{toml_key(name)} = {{ min = [..], opt = [..], max = [..] }}",
                )
        _names_agree(profile, shapes, where)
    return [one for profile in profiles for one in _unlike_names(profile, shapes)]


def _unlike_names(profile: ShapeProfile, shapes: dict[str, list[int | str | None]]) -> Iterator[Finding]:
    """Dimensions named as an expression, such as ``past + length``, whose opt size differs from the expression's value.

    Names may be wrong: exporters take them from the example input, and a decoder's first step may have an empty past of
    length 1.
    """
    stands = places(shapes)
    opt = {
        dim: _extent_of(profile, name, axis)[1]
        for dim, where_it_stands in stands.items()
        for name, axis in where_it_stands[:1]
        if name in profile.shapes and axis < len(profile.shapes[name].opt)
    }
    for dim, one in derived_dimensions(shapes).items():
        if dim in opt and all(part in opt for part in one.parts):
            made, (tensor, axis) = one.size(opt), stands[dim][0]
            if made is not None and made != opt[dim]:
                yield DataCode.OPT_UNLIKE_NAME(
                    profile=profile.name, tensor=tensor, axis=axis, dim=dim, opt=opt[dim], made=made
                )


def _names_agree(profile: ShapeProfile, shapes: dict[str, list[int | str | None]], where: str) -> None:
    """Check that dimensions of the same name have the same extent, since the model cannot run otherwise.

    Raises:
        RecipeError: two differ; the message names both.
    """
    for dim, stands in places(shapes).items():
        given = [
            (name, axis) for name, axis in stands if name in profile.shapes and axis < len(profile.shapes[name].min)
        ]
        for name, axis in given[1:]:
            first, other = (_extent_of(profile, *place) for place in (given[0], (name, axis)))
            if first != other:
                raise RecipeError(
                    f"profile '{profile.name}' lets dimension '{dim}' be {_words(first)} in input '{given[0][0]}' and "
                    f"{_words(other)} in input '{name}', and the model gives both the same name",
                    where=where,
                    remedy=f"give dimension {given[0][1]} of '{given[0][0]}' and dimension {axis} of '{name}' the same "
                    "min, opt and max",
                )


def _extent_of(profile: ShapeProfile, name: str, axis: int) -> tuple[int, int, int]:
    extent = profile.shapes[name]
    return extent.min[axis], extent.opt[axis], extent.max[axis]


def _words(extent: tuple[int, int, int]) -> str:
    return f"{extent[0]} to {extent[2]} (opt {extent[1]})"
