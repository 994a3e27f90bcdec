"""Python objects from the caller in places where a recipe names code: passes, data loaders and metrics."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator

from toolkit.base.given import CallerObject
from toolkit.contract.passes import Pass


def named(value: Any) -> Any:
    """A string unchanged, a path as a string, and a reference for any other object."""
    if value is None or isinstance(value, str):
        return value
    return str(value) if isinstance(value, Path) else CallerObject(value)


def entry_of(value: Any) -> Any:
    """The recipe's table of a pass, given as an object, a class or a name.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, type) and issubclass(value, Pass):
        value = value()
    if isinstance(value, Pass):
        return {"use": CallerObject(value)}
    if isinstance(value, str):
        return {"use": value}
    if not isinstance(value, dict):
        raise ValueError(f"a pass is of type {type(value).__name__}: give passes, their names, or tables with use")
    return value


def entries_of(value: Any) -> list[Any]:
    """The recipe's tables of one or several passes."""
    several = isinstance(value, Iterable) and not isinstance(value, (str, dict, Pass))
    return [entry_of(one) for one in (value if several else [value])]


def _named_setting(value: Any, text: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    # values in a file are strings or wrong: a list in a file is not a caller's object
    made = value if (info.context or {}).get("file") else named(value)
    # pydantic would convert the reference to a plain string
    return made if isinstance(made, CallerObject) else text(made)


Named = Annotated[str, WrapValidator(_named_setting)]
"""A string setting of the recipe for which the caller may pass an object."""
