"""Line numbers of keys and values in a recipe's text, which TOML parsers do not keep."""

from __future__ import annotations

import re
from collections.abc import Sequence


def place_of(path: str, text: str, loc: Sequence[str | int]) -> str:
    """``file:line`` of a key, or of its nearest parent that can be found."""
    line = _line_of(text, loc)
    return f"{path}:{line}" if line else path


def place_of_value(path: str, text: str, loc: Sequence[str | int], value: str) -> str:
    """``file:line`` of a value in the table ``loc``, else of its first occurrence, else of the table."""
    lines = range(len(text.splitlines()))
    found = next((line for area in (_area(text, loc), lines) if (line := _line_in(text, area, value))), None)
    return f"{path}:{found}" if found is not None else place_of(path, text, loc)


def holds_value(text: str, loc: Sequence[str | int], value: str) -> bool:
    """Whether a value is written in the table ``loc``."""
    return _line_in(text, _area(text, loc), value) is not None


def _area(text: str, loc: Sequence[str | int]) -> range:
    return range(*(_table(text, loc) or (0, 0)))


def _line_in(text: str, area: range, value: str) -> int | None:
    """The first of some lines with a value, counted from 1; None if there is none."""
    lines = text.splitlines()
    # quoted first, since an unquoted bracket or an empty string would match any line
    said = [r"([\"'])" + re.escape(value) + r"\1", *([r"(?<!\w)" + re.escape(value) + r"(?!\w)"] if value else [])]
    for one in map(re.compile, said):
        found = (i for i in area if one.search(lines[i]) and not lines[i].lstrip().startswith("#"))
        if (index := next(found, None)) is not None:
            return index + 1
    return None


def _line_of(text: str, loc: Sequence[str | int]) -> int | None:
    """The line of the deepest part of ``loc`` that is in the file, counted from 1; None if no part is."""
    if not text or not loc:
        return None
    lines = text.splitlines()
    found_table = _table(text, loc)
    if found_table is None:
        top = re.compile(r"^\s*\[?\[?\s*" + re.escape(str(loc[0])) + r"\b")
        return next((i + 1 for i, line in enumerate(lines) if top.match(line)), None)
    start, end = found_table
    best = start + 1
    for part in loc[2 if len(loc) > 1 and isinstance(loc[1], int) else 1 :]:
        key = re.compile(r"(^|[\s.{,\[\"'])" + re.escape(str(part)) + r"[\"'\]]?\s*(=|\.)")
        found = next((i for i in range(best - 1, end) if key.search(lines[i])), None)
        if found is None:
            break
        best = found + 1
    return best


def _table(text: str, loc: Sequence[str | int]) -> tuple[int, int] | None:
    """The range of lines from a table's header to the next header, counted from 0, end exclusive.

    A number in ``loc`` after the name selects one of several tables. None if no header names the table.
    """
    lines = text.splitlines()
    header = re.compile(r"^\s*\[\[?\s*" + re.escape(str(loc[0])) + r"\b")
    starts = [i for i, line in enumerate(lines) if header.match(line)]
    if not starts:
        return None
    index = loc[1] if len(loc) > 1 and isinstance(loc[1], int) else 0
    start = starts[min(index, len(starts) - 1)]
    return start, next((i for i in range(start + 1, len(lines)) if re.match(r"^\s*\[", lines[i])), len(lines))
