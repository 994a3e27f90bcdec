"""pydantic models for the files of others: their base class, strict numbers, and faults in words."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError

from toolkit.base.errors import did_you_mean, shortened
from toolkit.base.reading import FileKind, reading

Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
"""A finite number; neither text nor true and false pass for one."""
Natural = Annotated[int, Strict(), Field(ge=0, le=2**63 - 1)]
"""A whole number from 0 on that fits 64 bits."""


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("expected the smallest value before the largest")
    return ends


Extremes = Annotated[tuple[Number, Number], AfterValidator(_ordered)]
"""The smallest and the largest value of a tensor."""
_SHOWN = 80
_EXPECTED = "expected "
_LIST, _TABLE = "expected a list", "expected a table"
_NUMBER, _WHOLE = "expected a number", "expected a whole number"
_WANTED = {
    "list_type": _LIST, "tuple_type": _LIST, "dict_type": _TABLE, "model_type": _TABLE, "model_attributes_type": _TABLE,
    "string_type": "expected a string", "string_unicode": "expected a string",
    "bool_type": "expected true or false", "bool_parsing": "expected true or false",
    "int_type": _WHOLE, "int_parsing": _WHOLE, "int_from_float": _WHOLE,
    "int_parsing_size": "this is too large a number",
    "float_type": _NUMBER, "float_parsing": _NUMBER, "finite_number": "expected a finite number",
    "literal_error": "expected {expected}", "greater_than": "it must be greater than {gt:g}",
    "greater_than_equal": "it must be at least {ge:g}", "less_than": "it must be less than {lt:g}",
    "less_than_equal": "it must be at most {le:g}", "string_too_short": "it cannot be empty",
    "too_short": "expected a list of at least {min_length}, not of {actual_length}",
    "too_long": "expected a list of at most {max_length}, not of {actual_length}",
}  # fmt: skip
"""What is expected, in the words of TOML and JSON where pydantic's are Python's; fields are those of its context."""
_BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
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
    """The first fault, in pydantic's form, of settings in which text, or true and false, were taken for a number, or
    text or a number for true or false.

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
        return {"type": "number", "loc": place, "input": given, "msg": _NUMBER}
    elif isinstance(given, (int, float, str)) and not isinstance(given, bool) and isinstance(made, bool):
        return {"type": "flag", "loc": place, "input": given, "msg": "expected true or false"}
    found = (no_number(value, one, (*place, key)) for key, value, one in pairs)
    return next((fault for fault in found if fault is not None), None)


def validation_words(fault: Mapping[str, Any], others: Iterable[Mapping[str, Any]] = ()) -> str:
    """One fault that pydantic found: the key, its value, and what is wrong with it.

    Args:
        fault: in pydantic's form.
        others: what it found in the same value for the other types that it may have.
    """
    place = shortened(".".join(str(part) for part in fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"unknown key '{place}'"
    if fault["type"] == "missing":
        return f"'{place}' is missing"
    wanted = dict.fromkeys(wanted_words(one) for one in (fault, *others))
    if _NUMBER in wanted:
        wanted.pop(_WHOLE, None)
    said = " or ".join(one.removeprefix(_EXPECTED) for one in wanted)
    said = f"{_EXPECTED}{said}" if all(one.startswith(_EXPECTED) for one in wanted) else said
    return f"'{place}' is {value_words(fault['input'])}: {said}" if place else said


def wanted_words(fault: Mapping[str, Any]) -> str:
    """What is expected in the place of a value at fault."""
    kind = fault["type"]
    if kind in _BOUNDS and isinstance(fault["input"], (bool, str)):
        # what was taken for a number is not one
        return _NUMBER
    if kind in _WANTED:
        return _WANTED[kind].format(**fault.get("ctx", {}))
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"


def explain(error: ValidationError, known: Iterable[str], given: Mapping[str, Any]) -> Iterator[str]:
    """Each fault of a pydantic error in words; ``known`` are the keys that there are, ``given`` the settings."""
    faults: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for fault in error.errors():
        faults.setdefault(_written_place(fault, given), []).append(fault)
    for place, found in faults.items():
        # of the types that may be there, one that fits as far as to its parts is what was meant
        if not any(other[: len(place)] == place != other for other in faults):
            unknown = found[0]["type"] == "extra_forbidden"
            hint = did_you_mean(str(place[-1]), known) if unknown else ""
            yield validation_words({**found[0], "loc": place}, found[1:]) + (f": {hint}" if hint else "")


def _written_place(fault: Mapping[str, Any], given: Any) -> tuple[str | int, ...]:
    """Where a fault is in the settings: pydantic also names which of several types it tried there."""
    place: list[str | int] = []
    *before, last = fault["loc"] or ("",)
    for part in before:
        inside = isinstance(given, (list, tuple)) and isinstance(part, int)
        if inside or (isinstance(given, Mapping) and part in given):
            place.append(part)
            given = given[part]
    named = isinstance(last, int) or (isinstance(given, Mapping) and last in given) or not place
    return (*place, last) if named or fault["type"] == "missing" else tuple(place)


def value_words(value: Any) -> str:
    """A value as TOML and JSON write it, with single quotation marks, short enough to read."""
    try:
        return shortened(_written(value), _SHOWN)
    except (ValueError, RecursionError):
        # an integer of more digits than Python converts, or lists within lists
        return f"a {type(value).__name__} too long to show"


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if type(value) is list:
        return f"[{', '.join(map(_written, value))}]"
    if type(value) is dict:
        return "{" + ", ".join(f"{key!r}: {_written(one)}" for key, one in value.items()) + "}"
    return repr(value)
