"""Fills the values of a finding into its template."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from toolkit.base.text import plain
from toolkit.contract.findings import BaseCode, Finding

Table = Mapping[BaseCode, str | Callable[..., str]]
"""Templates by code: a format string over the finding's values, or a function that takes them by name."""
_SHOWN = 3


def names(listed: tuple[Any, ...], most: int = _SHOWN) -> str:
    """The first ``most`` names in quotation marks, and how many more there are."""
    shown = ", ".join(f"'{one}'" for one in listed[:most])
    return shown + (f" and {len(listed) - most} more" if len(listed) > most else "")


def written(template: str | Callable[..., str], finding: Finding, sentence: Callable[[Finding], str]) -> str:
    """The finding's sentence, on one line; findings among its values become sentences, lists become quoted names.

    Raises:
        ValueError: its values, which may come from a file, are not those of its sentence.
    """
    values = {name: _said(value, sentence) for name, value in finding.values.items()}
    if callable(template):
        try:
            text = template(**values)
        except TypeError as error:
            raise ValueError(f"the values of finding '{finding.code}' are not those of its sentence") from error
    else:
        text = "".join([one if name is None else _formatted(values[name], one) for one, name in _pieces(template)])
    # not the values: what is to be copied, such as a line of TOML, writes names in its own way
    return plain(text)


@cache
def _pieces(template: str) -> list[tuple[str, str | None]]:
    """A template as pairs: (text, None), or (format spec, value's name); cached to parse each template once."""
    found: list[tuple[str, str | None]] = []
    for text, name, spec, _ in string.Formatter().parse(template):
        found += [(text, None)] if name is None else [(text, None), (spec or "", name)]
    return found


def _said(value: Any, sentence: Callable[[Finding], str]) -> Any:
    if isinstance(value, tuple):
        return tuple(_said(one, sentence) for one in value)
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return _NoNumber(value)
    return sentence(value) if isinstance(value, Finding) else value


class _NoNumber(str):
    """The word for a number that is not finite; format specs for numbers have no effect on it."""

    def __format__(self, spec: str) -> str:
        return str(self)


def _formatted(value: Any, spec: str) -> str:
    if isinstance(value, tuple):
        return names(value)
    # numbers that are not finite come as strings
    return value if isinstance(value, str) else format(value, spec)
