"""Errors in the words of a command line: empty ones, unknown ones, and values that an option does not take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args, get_type_hints

from toolkit.base.errors import QtoolError, did_you_mean, shortened

_OTHERS = "migrate"
"""The command whose arguments may be another tool's command line."""
_NUMBERS = {int: "a whole number", float: "a number"}


def empty_word(words: Sequence[str]) -> QtoolError | None:
    """The error for an empty argument, as an unset shell variable leaves; None if there is none.

    As a path it would mean the current folder, whose files might be overwritten.
    """
    if words[:1] == [_OTHERS]:
        return None
    for before, word in zip(["", *words], words):
        option = word[:-1] if word.startswith("--") and word.find("=") == len(word) - 1 else ""
        if not word or option:
            place = option or (before if before.startswith("-") else "an argument")
            return QtoolError(f"{place} is empty", remedy="give it a value: a shell variable may be unset")
    return None


def usage_error(error: Any, words: Sequence[str], command: Callable[..., Any] | None) -> QtoolError:
    """The parser's error as one that names the option, its value and what it takes.

    Args:
        error: a ``UsageError`` of click's, or of what typer has in its place.
        words: the command line.
        command: the function of the command; None if there is no such command.
    """
    name = "" if command is None else command.__name__
    message = error.format_message().rstrip(".")
    what, remedy = message[:1].lower() + message[1:], f"see `{' '.join(['qtool', name]).strip()} --help`"
    option, parameter = getattr(error, "option_name", ""), getattr(error, "param", None)
    # errors of options that are known but lack a value, or take none, have no context
    parsed = error.ctx.command if error.ctx is not None else None
    known: list[str] = [one for each in parsed.params for one in each.opts] if parsed is not None else [option]
    if option not in ("", *known):
        taken = [*(one for one in known if one[0] == "-"), "--help"]
        what, remedy = f"there is no option {option}", did_you_mean(option, taken)
    elif commands := getattr(parsed, "commands", None):
        if word := next((word for word in words if not word.startswith("-")), ""):
            what, remedy = f"there is no command '{word}'", did_you_mean(word, commands)
    elif command is not None and parameter is not None and (value := _value(words, parameter.opts)) is not None:
        expected, meaning = _declared(command, parameter.name)
        what, remedy = f"{parameter.opts[0]} is '{shortened(value)}': expected {expected}", f"meaning: {meaning}"
    return QtoolError(what, remedy=remedy)


def _value(words: Sequence[str], options: Sequence[str]) -> str | None:
    """The last value of an option."""
    found = None
    for word, after in zip(words, [*words[1:], None]):
        name, equals, value = word.partition("=")
        # the name of an argument is no word of the command line
        if name in options and name.startswith("-"):
            found = value if equals else after
    return found


def _declared(command: Callable[..., Any], name: str) -> tuple[str, str]:
    """What an option takes according to the declaration of its function, and its help."""
    kind, info = get_args(get_type_hints(command, include_extras=True)[name])[:2]
    number = next((word for one, word in _NUMBERS.items() if one in (kind, *get_args(kind))), "another value")
    bounds = [f"{word} {end}" for word, end in (("at least", info.min), ("at most", info.max)) if end is not None]
    expected = f"{number} of {' and '.join(bounds)}" if bounds else number
    return expected, info.help[:1].lower() + info.help[1:].rstrip(".")
