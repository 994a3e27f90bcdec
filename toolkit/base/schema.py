"""pydantic models for files from outside: their base class, strict numbers, and errors as text."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError

from toolkit.base.errors import did_you_mean, shortened
from toolkit.base.reading import FileKind, reading

Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
"""A finite number; text and booleans are not accepted."""
Natural = Annotated[int, Strict(), Field(ge=0, le=2**63 - 1)]
"""A non-negative integer that fits int64."""


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
"""Expected values in terms of TOML and JSON, by pydantic's error type; fields are filled from its context."""
_BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
FileModel = TypeVar("FileModel", bound="FileSchema")


class FileSchema(BaseModel):
    """An object in a JSON file; unknown fields are rejected."""

    model_config = ConfigDict(extra="forbid", strict=False, allow_inf_nan=False)


def validated(model: type[FileModel], content: Any, path: str | os.PathLike[str], kind: FileKind) -> FileModel:
    """Parsed JSON as an instance of ``model``.

    Raises:
        QtoolError: of the kind's class: a field is unknown, missing, or of the wrong type; the message names it.
    """
    with reading(path, kind):
        try:
            return model.model_validate(content)
        except ValidationError as error:
            raise kind.fault(path, validation_words(error.errors()[0])) from error


def no_number(given: Any, made: Any, place: tuple[str | int, ...] = ()) -> dict[str, Any] | None:
    """The first value in settings that pydantic converted between number and text or boolean, as a fault in its form.

    Args:
        given: the settings.
        made: the result of pydantic, which converts values.
        place: location of the settings, as keys and indices.
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
    """One fault found by pydantic as text: the key, its value, and what is wrong.

    Args:
        fault: the fault in pydantic's form.
        others: faults of the same value for the other types that are allowed.
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
    """What is expected instead of a faulty value."""
    kind = fault["type"]
    if kind in _BOUNDS and isinstance(fault["input"], (bool, str)):
        # bounds are checked after conversion, but the value was not a number
        return _NUMBER
    if kind in _WANTED:
        return _WANTED[kind].format(**fault.get("ctx", {}))
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"


def explain(error: ValidationError, known: Iterable[str], given: Mapping[str, Any]) -> Iterator[str]:
    """Each fault of a pydantic error as text; ``known`` are the valid keys, ``given`` the settings."""
    faults: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for fault in error.errors():
        faults.setdefault(_written_place(fault, given), []).append(fault)
    for place, found in faults.items():
        # of several allowed types, the one whose fault is deeper inside is the one that was meant
        if not any(other[: len(place)] == place != other for other in faults):
            unknown = found[0]["type"] == "extra_forbidden"
            hint = did_you_mean(str(place[-1]), known) if unknown else ""
            yield validation_words({**found[0], "loc": place}, found[1:]) + (f": {hint}" if hint else "")


def _written_place(fault: Mapping[str, Any], given: Any) -> tuple[str | int, ...]:
    """The location of a fault in the settings, without the names of union members that pydantic adds."""
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
    """A value as written in TOML and JSON, but with single quotes, and shortened."""
    try:
        return shortened(_written(value), _SHOWN)
    except (ValueError, RecursionError):
        # an integer with more digits than Python converts, or deeply nested lists
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
