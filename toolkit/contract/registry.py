"""How passes are found by name or by the part they play, and made from their settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from typing import Any

from pydantic import ValidationError

from toolkit.base.code import load_object
from toolkit.base.errors import RecipeError, did_you_mean
from toolkit.base.schema import no_number, validation_words
from toolkit.contract.installed import installed, installed_for
from toolkit.contract.passes import Pass
from toolkit.contract.roles import Role


def find(use: str, allow_code: bool = False) -> type[Pass]:
    """The pass class of a recipe's ``use``: an installed name, or ``module:Name`` where code is allowed.

    Raises:
        RecipeError: there is no such pass.
        NotAllowedError: it is ``module:Name`` and code is not allowed.
    """
    if ":" in use:
        found = load_object(use, allow_code, "pass")
    else:
        entries = installed()
        if use not in entries:
            raise RecipeError(f"no pass is called '{use}'", remedy=did_you_mean(use, entries))
        found = entries[use].load()
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise RecipeError(f"'{use}' is not a pass", remedy="a pass is a subclass of toolkit.Pass")
    return found


def playing(role: Role) -> list[tuple[str, type[Pass]]]:
    """The installed passes that play a part, qtool's own first; those that cannot be imported are left out."""
    return [(name, kind) for name, kind in installed_for(role) if issubclass(kind, Pass)]


def named(role: Role) -> str:
    """The name of an installed pass that plays a part, the first by name; the part's own name where none does."""
    return next((name for name, _ in playing(role)), str(role.value))


def configure(kind: type[Pass], settings: Mapping[str, Any]) -> Pass:
    """A pass with its settings.

    Raises:
        RecipeError: an unknown key (the message names the nearest right one) or a wrong value.
    """
    where, remedy = f"pass '{kind.title()}'", f"`qtool passes {kind.title()}` lists its settings"
    try:
        made = kind(**settings)
    except ValidationError as error:
        raise RecipeError("; ".join(explain(error, kind.model_fields)), where=where, remedy=remedy) from error
    fault = no_number(settings, made)
    if fault is not None:
        raise RecipeError(validation_words(fault), where=where, remedy=remedy)
    return made


def explain(error: ValidationError, known: Mapping[str, Any] | SequenceOf[str]) -> Iterator[str]:
    """Each fault of a pydantic error in words."""
    for fault in error.errors():
        unknown = fault["type"] == "extra_forbidden"
        hint = did_you_mean(str(fault["loc"][-1]), known) if unknown else ""
        yield validation_words(fault) + (f": {hint}" if hint else "")
