"""The passes of a recipe, with their settings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from toolkit.base.errors import RecipeError
from toolkit.base.given import is_given, taken
from toolkit.contract.roles import Role
from toolkit.run.recipe.repeated_passes import RepeatedPasses

if TYPE_CHECKING:
    from toolkit.contract.passes import Pass
    from toolkit.report.schema.report import PassInfo
    from toolkit.run.recipe.recipe import Recipe


def passes_of(recipe: Recipe, allow_code: bool) -> list[Pass]:
    """The recipe's passes, in order; a sequence is replaced by its members.

    Raises:
        RecipeError: an unknown pass or setting; the message names the line.
    """
    return [step for _, step in named_passes(recipe, allow_code)]


def named_passes(recipe: Recipe, allow_code: bool) -> list[tuple[str, Pass]]:
    """``passes_of``, each with the name that the recipe uses; for a Python object its title.

    Raises:
        RecipeError: an unknown pass or setting, a pass that repeats an earlier one, or a stripping pass without
            settings that undoes an earlier quantizing pass; the message names the line.
    """
    from toolkit.contract.registry import find_pass

    found: list[tuple[str, Pass]] = []
    quantizes: tuple[int, str] | None = None
    repeated = RepeatedPasses(recipe)
    for index, entry in enumerate(recipe.passes):
        use, settings = entry["use"], {key: value for key, value in entry.items() if key != "use"}
        try:
            step = taken(use) if is_given(use) else _made(find_pass(use, allow_code), settings, recipe.is_resolved)
        except RecipeError as error:
            where = recipe.locate("pass", index, error.value or "use")
            raise RecipeError(error.what, where=where, remedy=error.remedy) from error
        held = members(step)
        for one in () if is_given(use) else (step, *held):
            one.comes_from(partial(_place, recipe, index))
        plain = held == [step] and not is_given(use)
        found += [(use if plain else one.title(), one) for one in held]
        for name, one in found[len(found) - len(held) :]:
            if not recipe.is_resolved:
                repeated.take(index, name, one)
            if one.role in (Role.QUANTIZE, Role.SEARCH):
                quantizes = index, name
            elif one.role is Role.STRIP and quantizes is not None and not recipe.is_resolved and _takes_all(one):
                _refuse_taken_out(recipe, *quantizes, name)
    return found


def _takes_all(strip: Pass) -> bool:
    """Whether a stripping pass removes all Q/DQ pairs, without keeping ranges: it has no settings."""
    return not strip.model_fields_set


def _refuse_taken_out(recipe: Recipe, index: int, quantizer: str, strip: str) -> None:
    raise RecipeError(
        f"{quantizer} has no effect: {strip} after it removes all Q/DQ pairs",
        where=recipe.locate("pass", index, "use"),
        remedy=f"put {strip} before {quantizer}",
    )


def _made(kind: type[Pass], settings: Mapping[str, Any], resolved: bool) -> Pass:
    from toolkit.contract.registry import configure_pass

    if resolved:
        # lock files of earlier releases contain all settings of a pass
        unused = kind.model_construct(**settings).unused_settings()
        settings = {name: value for name, value in settings.items() if name not in unused}
    return configure_pass(kind, settings)


def members(step: Pass) -> list[Pass]:
    """The passes in a sequence, in order, including nested ones; a single pass gives itself."""
    from toolkit.contract.passes import Sequence

    return [one for member in step.passes for one in members(member)] if isinstance(step, Sequence) else [step]


def pass_infos(recipe: Recipe, allow_code: bool) -> list[PassInfo]:
    """The recipe's passes as shown in the report, with the data that its advice needs.

    Raises:
        RecipeError: an unknown pass or setting; the message names the line.
    """
    from toolkit.report.schema.report import PassInfo

    return [
        PassInfo(
            use=use,
            settings=step.model_dump(mode="json", exclude_unset=True),
            title=step.title(),
            role=step.role,
            options=frozenset(type(step).model_fields),
        )
        for use, step in named_passes(recipe, allow_code)
    ]


def stripping_passes(recipe: Recipe, allow_code: bool) -> list[Pass]:
    """The recipe's passes that remove Q/DQ pairs."""
    return [step for step in passes_of(recipe, allow_code) if step.role is Role.STRIP]


def _place(recipe: Recipe, index: int, value: str | None) -> str:
    return recipe.locate("pass", index, "use") if value is None else recipe.locate_value(value, "pass", index)


def predicts_for(recipe: Recipe, allow_code: bool) -> str:
    """The GPU for which the user wants latency predicted: the report's, else a search's; empty if neither names one."""
    if recipe.report.gpu:
        return recipe.report.gpu
    searches = (step for step in passes_of(recipe, allow_code) if step.role is Role.SEARCH)
    return next((gpu for step in searches if (gpu := getattr(step, "gpu", ""))), "")
