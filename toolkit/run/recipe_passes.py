"""The passes of a recipe, with their settings."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from toolkit.base.errors import RecipeError
from toolkit.contract.roles import Role

if TYPE_CHECKING:
    from toolkit.contract.passes import Pass
    from toolkit.report.schema import PassInfo
    from toolkit.run.recipe import Recipe


def passes_of(recipe: Recipe, allow_code: bool) -> list[Pass]:
    """The recipe's passes, in order.

    Raises:
        RecipeError: an unknown pass or setting; the message names the line.
    """
    from toolkit.contract.registry import configure, find

    found = []
    for index, entry in enumerate(recipe.passes):
        settings = {key: value for key, value in entry.items() if key != "use"}
        try:
            step = configure(find(entry["use"], allow_code), settings)
        except RecipeError as error:
            raise RecipeError(error.what, where=recipe.locate("pass", index, "use"), remedy=error.remedy) from error
        step.comes_from(partial(_place, recipe, index))
        found.append(step)
    return found


def pass_infos(recipe: Recipe, allow_code: bool) -> list[PassInfo]:
    """The recipe's passes as the report names them, with what advice must know of each.

    Raises:
        RecipeError: an unknown pass or setting; the message names the line.
    """
    from toolkit.report.schema import PassInfo

    return [
        PassInfo(
            use=entry["use"],
            settings={key: value for key, value in entry.items() if key != "use"},
            title=step.title(),
            role=step.role,
            options=frozenset(type(step).model_fields),
        )
        for entry, step in zip(recipe.passes, passes_of(recipe, allow_code))
    ]


def stripping_passes(recipe: Recipe, allow_code: bool) -> list[Pass]:
    """The recipe's passes that remove Q/DQ pairs."""
    return [step for step in passes_of(recipe, allow_code) if step.role is Role.STRIP]


def _place(recipe: Recipe, index: int, value: str) -> str:
    return recipe.locate_value(value, "pass", index)
