"""Arguments of a command line that are empty by mistake, as an unset shell variable leaves them."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.base.errors import QtoolError

_OTHERS = "migrate"
"""The command that takes another tool's words as they are."""


def empty_word(words: Sequence[str]) -> QtoolError | None:
    """That a word is empty, as where a variable of the shell is not set; None where none is.

    As a path it would name the folder that the command runs in, and what lies there would be written over.
    """
    if words[:1] == [_OTHERS]:
        return None
    for before, word in zip(["", *words], words):
        option = word[:-1] if word.startswith("--") and word.find("=") == len(word) - 1 else ""
        if not word or option:
            place = option or (before if before.startswith("-") else "an argument")
            return QtoolError(f"{place} is empty", remedy="give it a value: a shell variable may be unset")
    return None
