"""Empty command-line arguments, such as an unset shell variable leaves."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.base.errors import QtoolError

_OTHERS = "migrate"
"""The command whose arguments may be another tool's command line."""


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
