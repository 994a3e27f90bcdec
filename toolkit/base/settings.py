"""Types for settings of recipes and passes: numbers with limits, sizes, and paths."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

_UNIT = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([KMGT]?B)?", re.IGNORECASE)
_LEAST_BYTES, _MOST_BYTES = 10**6, 10**15
_LONGEST_NAME, _LONGEST_PATH = 255, 4096


def byte_size(text: str) -> int:
    """The bytes of a size as text: '2GB', '512 MB', '1000000'.

    Raises:
        ValueError: it is not a size, or below 1 MB or above 1000 TB.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("write a size such as '2GB'")
    size = int(float(match[1]) * _UNIT[(match[2] or "").upper()])
    if not _LEAST_BYTES <= size <= _MOST_BYTES:
        raise ValueError("write a size between 1MB and 1000TB, such as '2GB'")
    return size


def without_effect(setting: str, why: str, name: str) -> tuple[str, str]:
    """The fault and the remedy for a setting that has no effect.

    Args:
        setting: the setting as written, with its value.
        why: why it has no effect.
        name: the setting to remove.
    """
    return f"{setting} has no effect: {why}", f"leave out {name}"


def _sized(text: str) -> str:
    byte_size(text)
    return text


def path_text(text: Any) -> Any:
    """A path as written, checked to be valid for a file system.

    Raises:
        ValueError: it is empty, contains NUL, is too long, or starts with the home of a user that does not exist.
    """
    if not isinstance(text, str):
        return text
    if not text:
        raise ValueError("a path cannot be empty")
    if "\0" in text:
        raise ValueError("a path cannot contain a NUL character")
    longest = max(len(part.encode("utf-8", "surrogateescape")) for part in text.split("/"))
    if longest > _LONGEST_NAME or len(text) > _LONGEST_PATH:
        raise ValueError(f"a path has at most {_LONGEST_PATH} characters, and each name in it {_LONGEST_NAME} bytes")
    try:
        Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"there is no user '{text.split('/')[0][1:]}', whose home it starts with") from error
    return text


Count = Annotated[int, Field(gt=0, le=2**31 - 1)]
"""A number of things, at least 1."""
Decibels = Annotated[float, Field(ge=0, le=400)]
"""A required SQNR: below 0 dB noise exceeds the signal, and float64 itself reaches about 310 dB."""
PathText = Annotated[str, AfterValidator(path_text)]
"""A path in a recipe."""
ByteSize = Annotated[str, AfterValidator(_sized)]
"""A size in bytes, as text."""
