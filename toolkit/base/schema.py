"""pydantic models for the files of others: their base class, strict numbers, and faults in words."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError

from toolkit.base.errors import did_you_mean, shortened
from toolkit.base.reading import FileKind, reading

Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
"""A finite number; neither text nor true and false pass for one."""
Natural = Annotated[int, Strict(), Field(ge=0, le=2**63 - 1)]
"""A whole number from 0 on that fits 64 bits."""
Extremes = tuple[Number, Number]
"""The smallest and the largest value of a tensor."""
_SHOWN = 80
_WANTED = {
    "list_type": "a list is wanted", "tuple_type": "a list is wanted", "dict_type": "a table is wanted",
    "model_type": "a table is wanted", "model_attributes_type": "a table is wanted",
}  # fmt: skip
"""What is wanted in the words of TOML and JSON, where pydantic says it in Python's."""
FileModel = TypeVar("FileModel", bound="FileSchema")


class FileSchema(BaseModel):
    """An object of a JSON file; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=False, allow_inf_nan=False)


def validated(model: type[FileModel], content: Any, path: str | os.PathLike[str], kind: FileKind) -> FileModel:
    """Parsed JSON as an instance of ``model``.

    Raises:
        QtoolError: of the kind's own class: a field is unknown, missing, or of the wrong type; the message names it.
    """
    with reading(path, kind):
        try:
            return model.model_validate(content)
        except ValidationError as error:
            raise kind.fault(path, validation_words(error.errors()[0])) from error


def no_number(given: Any, made: Any, place: tuple[str | int, ...] = ()) -> dict[str, Any] | None:
    """The first fault, in pydantic's form, of settings in which true, false or text was taken for a number.

    Args:
        given: the settings.
        made: what pydantic, which converts values, made of them.
        place: where they are.
    """
    if isinstance(made, BaseModel):
        made = {info.alias or name: getattr(made, name) for name, info in type(made).model_fields.items()}
    pairs: Iterable[tuple[Any, Any, Any]] = ()
    if isinstance(given, Mapping) and isinstance(made, Mapping):
        pairs = ((key, value, made[key]) for key, value in given.items() if key in made)
    elif isinstance(given, (list, tuple)) and isinstance(made, (list, tuple)):
        pairs = ((index, *both) for index, both in enumerate(zip(given, made)))
    elif isinstance(given, (bool, str)) and isinstance(made, (int, float)) and not isinstance(made, (bool, str)):
        return {"type": "number", "loc": place, "input": given, "msg": "a number is wanted"}
    found = (no_number(value, one, (*place, key)) for key, value, one in pairs)
    return next((fault for fault in found if fault is not None), None)


def validation_words(fault: Mapping[str, Any]) -> str:
    """One fault that pydantic found: the key, its value, and what is wrong with it."""
    place = shortened(".".join(str(part) for part in fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"unknown key '{place}'"
    if fault["type"] == "missing":
        return f"'{place}' is missing"
    message = _WANTED.get(fault["type"]) or str(fault["msg"]).removeprefix("Value error, ")
    said = f"{message[:1].lower()}{message[1:]}"
    return f"'{place}' is {value_words(fault['input'])}: {said}" if place else said


def explain(error: ValidationError, known: Iterable[str]) -> Iterator[str]:
    """Each fault of a pydantic error in words; ``known`` are the keys that there are."""
    for fault in error.errors():
        unknown = fault["type"] == "extra_forbidden"
        hint = did_you_mean(str(fault["loc"][-1]), known) if unknown else ""
        yield validation_words(fault) + (f": {hint}" if hint else "")


def value_words(value: Any) -> str:
    """A value as Python writes it, short enough to read."""
    try:
        return shortened(repr(value), _SHOWN)
    except (ValueError, RecursionError):
        # an integer of more digits than Python converts, or lists within lists
        return f"a {type(value).__name__} too long to show"
