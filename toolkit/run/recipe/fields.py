"""The schema of a recipe: fields, keys and types at a given place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from toolkit.base.errors import did_you_mean


def remedy(root: type[BaseModel], fault: Mapping[str, Any]) -> str:
    """The remedy for a validation error in a recipe: the nearest key, or a description of what is expected."""
    loc = [part for part in fault["loc"] if isinstance(part, str)]
    if fault["type"] == "extra_forbidden":
        return did_you_mean(loc[-1], keys_at(root, loc[:-1])) if loc else ""
    if fault["type"] == "missing":
        return f"add it to the [{'.'.join(loc[:-1])}] table" if loc[:-1] else f"add the table [{loc[-1]}]"
    return expected(root, loc)


def expected(root: type[BaseModel], loc: Sequence[str]) -> str:
    """The description of a key, as a remedy."""
    meant = next((f.description for f in reversed(fields_at(root, loc)) if f.description), "")
    return f"meaning: {meant} (see `qtool schema recipe`)" if meant else "see `qtool schema recipe` for what is allowed"


def keys_at(root: type[BaseModel], loc: Sequence[str]) -> list[str]:
    """The keys that are allowed in the table at a place."""
    fields = fields_at(root, loc)
    if len(fields) < len(loc):
        return []
    return list(_fields_of(next(_models(fields[-1].annotation), None) if fields else root))


def fields_at(root: type[BaseModel], loc: Sequence[str]) -> list[FieldInfo]:
    """The fields on the path to a place in a recipe, up to the first unknown part."""
    current: Any = root
    found: list[FieldInfo] = []
    for part in loc:
        fields = _fields_of(current)
        if part not in fields:
            break
        found.append(fields[part])
        current = next(_models(fields[part].annotation), None)
    return found


def type_at(root: type[BaseModel], loc: Sequence[str]) -> Any:
    """The type of the value at a place, with its constraints; None if no value is allowed there."""
    current: Any = root
    for part in loc:
        model, values = next(_models(current), None), _values(current)
        if model is not None:
            field = _fields_of(model).get(part)
            if field is None:
                return None
            current = typed(field)
        elif values is not None:
            current = values
        else:
            return None
    return current


def typed(field: FieldInfo) -> Any:
    """A field's type with its constraints."""
    annotation: Any = field.annotation
    for limit in field.metadata:
        annotation = Annotated[annotation, limit]
    return annotation


def _fields_of(model: Any) -> dict[str, FieldInfo]:
    return {(field.alias or name): field for name, field in getattr(model, "model_fields", {}).items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)


def _values(annotation: Any) -> Any:
    """The type of the values of a table with arbitrary keys; None for other types."""
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    return next((found for part in get_args(annotation) if (found := _values(part)) is not None), None)
