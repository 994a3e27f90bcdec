"""Python objects where a recipe names code: passes, data loaders and metrics that the caller made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from toolkit.base.given import give
from toolkit.contract.passes import Pass


def named(value: Any) -> Any:
    """Text as it is, a path as text, and the name of any other object."""
    if value is None or isinstance(value, str):
        return value
    return str(value) if isinstance(value, Path) else give(value)


def entry_of(value: Any) -> Any:
    """The recipe's table of a pass that was made in Python; whatever else it is stays as it is."""
    if not isinstance(value, Pass):
        return value
    return {"use": give(type(value)), **value.model_dump(mode="json", exclude_defaults=True)}


def entries_of(value: Any) -> Any:
    """The recipe's tables of a pass, or of several."""
    if isinstance(value, Pass):
        value = [value]
    return [entry_of(one) for one in value] if isinstance(value, Iterable) and not isinstance(value, str) else value


Named = Annotated[str, BeforeValidator(named)]
"""A text of the recipe for which an object may stand."""
