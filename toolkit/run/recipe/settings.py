"""Settings given in addition to a recipe's file, as with ``qtool run --set section.key=value``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from toolkit.base.errors import RecipeError, did_you_mean
from toolkit.base.schema import validation_words
from toolkit.base.toml import parse_toml
from toolkit.run.recipe.fields import expected, fields_at, keys_at, type_at, typed

OPTION = "--set"
_NAMED = {"profile": "name", "pass": "use"}
"""The tables that a recipe may have several of, with the key that identifies each."""
_FORM = "write section.key=value, such as engine.rest=fp32; see `qtool schema recipe`"


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        key: the key as given, such as ``engine.rest``.
        place: its place in the recipe.
        value: the value, as in a recipe file.
        before: the value in the file; None if the file has none.
        option: the command-line option that sets it; empty for ``--set``.
    """

    key: str
    place: tuple[str | int, ...]
    value: Any
    before: Any = None
    option: str = ""

    def covers(self, loc: Sequence[str | int]) -> bool:
        """Whether it sets the value at a place, or a part of it."""
        length = min(len(loc), len(self.place))
        return length > 1 and tuple(loc[:length]) == self.place[:length]

    @property
    def where(self) -> str:
        """Its name in messages."""
        return self.option or f"{OPTION} {self.key}"


def apply_settings(content: dict[str, Any], given: Sequence[str], root: type[BaseModel]) -> list[Setting]:
    """Write settings into the content of a recipe's file, in order; ``content`` is changed.

    Args:
        content: the content of the file.
        given: strings ``section.key=value``. A pass or profile is selected by its name or number: ``pass.NAME.key``,
            ``profile.0.name``. A value is TOML, or a string without quotation marks.
        root: the recipe's class.

    Raises:
        RecipeError: there is no such key, or the value has the wrong type; the message names both and what is expected.
    """
    return [_apply(content, text, root) for text in given]


def _apply(content: dict[str, Any], text: str, root: type[BaseModel]) -> Setting:
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    where = f"{OPTION} {text}"
    parts = _parts(key)
    if not equals or len(parts) < 2:
        raise RecipeError("this is not a setting", where=where, remedy=_FORM)
    place = _place(content, parts, where, root)
    words = [part for part in place if isinstance(part, str)]
    wanted = _wanted(content, place, words, where, root)
    made = _value(key, value, wanted, words, where, root)
    table: Any = content
    for depth, part in enumerate(place[:-1]):
        table = table[part] if isinstance(part, int) else table.setdefault(part, {})
        # a list index was checked when the place was resolved
        if not isinstance(table, dict) and not isinstance(place[depth + 1], int):
            name = ".".join(map(str, place[: depth + 1]))
            raise RecipeError(f"'{name}' is not a table in the recipe", where=where, remedy=_FORM)
    before = table.get(place[-1])
    table[place[-1]] = made
    return Setting(key, place, made, before)


def _parts(key: str) -> list[str]:
    """The parts of a key as TOML parses it; a key that is not valid TOML is split at its dots."""
    try:
        found: Any = parse_toml(f"{key} = 0")
    except ValueError:
        return key.split(".")
    parts = []
    while isinstance(found, dict):
        part, found = next(iter(found.items()))
        parts.append(part)
    return parts


def _place(content: dict[str, Any], parts: list[str], where: str, root: type[BaseModel]) -> tuple[str | int, ...]:
    """The place of a key in the recipe; names of passes and profiles become numbers.

    Raises:
        RecipeError: there is no such section, or no or several passes or profiles of that name.
    """
    section, *rest = parts
    if section not in keys_at(root, ()):
        raise RecipeError(
            f"a recipe has no section '{section}'", where=where, remedy=did_you_mean(section, keys_at(root, ()))
        )
    if section not in _NAMED:
        return tuple(parts)
    entries = content.get(section)
    listed = entries if isinstance(entries, list) else []
    names = [str(entry.get(_NAMED[section], "")) if isinstance(entry, dict) else "" for entry in listed]
    number = int(rest[0]) if re.fullmatch(r"[0-9]{1,9}", rest[0]) else None
    found = [i for i, name in enumerate(names) if i == number or (number is None and name == rest[0])]
    if len(found) != 1 or len(rest) < 2:
        several = f"there are {len(found)}: say which by its number, {section}.{found[0] if found else 0}.key=value"
        raise RecipeError(
            f"the recipe has no {section} '{rest[0]}'" if not found else f"'{'.'.join(parts)}' names no single setting",
            where=where,
            remedy=did_you_mean(rest[0], names) if not found else several if len(found) > 1 else _FORM,
        )
    return (section, found[0], *rest[1:])


def _wanted(
    content: dict[str, Any], place: tuple[str | int, ...], words: list[str], where: str, root: type[BaseModel]
) -> Any:
    """The type of the value at a place; ``Any`` for settings of user-defined passes.

    Raises:
        RecipeError: no value is allowed there.
    """
    if place[0] == "pass":
        from toolkit.contract.installed import installed_passes
        from toolkit.contract.registry import find_pass

        entry = content["pass"][place[1]]
        use = entry.get("use") if isinstance(entry, dict) else None
        if use not in installed_passes():
            return Any
        known = find_pass(use).model_fields
        if place[2] in known or place[2] == "use":
            return typed(known[str(place[2])]) if len(place) == 3 and place[2] != "use" else Any
        raise RecipeError(
            f"pass '{use}' has no setting '{place[2]}'", where=where, remedy=did_you_mean(str(place[2]), known)
        )
    wanted = type_at(root, words)
    if wanted is None:
        known_to = len(fields_at(root, words))
        raise RecipeError(
            f"[{'.'.join(words[:known_to])}] has no key '{words[known_to]}'",
            where=where,
            remedy=did_you_mean(words[known_to], keys_at(root, words[:known_to])) or _FORM,
        )
    return wanted


def _value(key: str, text: str, wanted: Any, words: list[str], where: str, root: type[BaseModel]) -> Any:
    """Parse a value: as TOML if that fits the type, else as a plain string.

    Raises:
        RecipeError: neither fits the type.
    """
    candidates: list[Any] = [text]
    # a number of thousands of digits is a ValueError of Python's
    with suppress(ValueError, RecursionError):
        candidates.insert(0, parse_toml(f"value = {text}")["value"])
    refusals = []
    for candidate in candidates:
        try:
            TypeAdapter(wanted).validate_python(candidate, context={"file": True})
        except ValidationError as error:
            refusals.append(error.errors()[0])
        else:
            return candidate
    first = refusals[0]
    meant = expected(root, words) if words[0] != "pass" else "`qtool passes` lists a pass's settings"
    if first["type"] == "list_type":
        meant = f"""write a list in brackets: {key}='["{text}"]'"""
    raise RecipeError(validation_words({**first, "loc": (*words, *first["loc"])}), where=where, remedy=meant)
