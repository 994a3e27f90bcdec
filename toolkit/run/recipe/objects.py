"""Python objects where a recipe names code: passes, data loaders and metrics that the caller made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator

from toolkit.base.given import CallerObject
from toolkit.contract.passes import Pass


def named(value: Any) -> Any:
    """Text as it is, a path as text, and the name of any other object."""
    if value is None or isinstance(value, str):
        return value
    return str(value) if isinstance(value, Path) else CallerObject(value)


def entry_of(value: Any) -> Any:
    """The recipe's table of a pass: from one that was made in Python, from its class, or from its name.

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
    """The recipe's tables of a pass, or of several."""
    several = isinstance(value, Iterable) and not isinstance(value, (str, dict, Pass))
    return [entry_of(one) for one in (value if several else [value])]


def _named_setting(value: Any, text: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    # what a file holds is text, or wrong: a list there is no caller's object
    made = value if (info.context or {}).get("file") else named(value)
    # pydantic would turn it into plain text
    return made if isinstance(made, CallerObject) else text(made)


Named = Annotated[str, WrapValidator(_named_setting)]
"""A text of the recipe for which an object may stand."""
