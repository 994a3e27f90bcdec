"""The base of all parts of the report: no unknown keys, no NaN, no infinity."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


AT_ONCE = 1000
"""How many entries of a list are built at a time when it is written."""
Finite = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A float, or null instead of NaN or infinity."""
SquashedBy = Annotated[
    str,
    Field(
        validation_alias=AliasChoices("squashed_by", "behind"),
        description="the operator before the output that maps it to a fixed range, such as Softmax",
    ),
]
"""An operator upstream of an output; earlier releases called the key ``behind``."""


class Part(BaseModel):
    """The base of all parts of the report: no unknown keys, no NaN, no infinity."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True)


def streamed(whole: Part) -> dict[str, Any]:
    """A part as JSON like ``model_dump``, except that long lists become iterators that build a few entries at a time.

    For a graph of 50,000 nodes, complete lists would take as much memory as the report itself.
    """
    long = {name for name, value in whole if isinstance(value, list) and len(value) > AT_ONCE}
    rest = whole.model_dump(mode="json", by_alias=True, exclude=long)
    names = {name: field.alias or name for name, field in type(whole).model_fields.items()}
    kept = [(name, key) for name, key in names.items() if name in long or key in rest]
    return {key: _entries(whole, name) if name in long else rest[key] for name, key in kept}


def _entries(whole: Part, name: str) -> Iterator[Any]:
    held = getattr(whole, name)
    for first in range(0, len(held), AT_ONCE):
        some = type(whole).model_construct(**{name: held[first : first + AT_ONCE]})
        yield from next(iter(some.model_dump(mode="json", by_alias=True, include={name}).values()))
