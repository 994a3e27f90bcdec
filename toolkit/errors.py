"""The errors qtool raises: each says what is wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QtoolError(Exception):
    """What is wrong, where it is, and the remedy, in one paragraph.

    Args:
        what: the fault and the value that shows it.
        where: the place: a file and line, a node, a sample of a data file.
        remedy: what the user can do.
    """

    exit_status = 2

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(self.paragraph())

    def paragraph(self) -> str:
        """The whole message on one paragraph."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.remedy:
            text = text.rstrip(".") + ". " + self.remedy[:1].upper() + self.remedy[1:]
        return text


class RecipeError(QtoolError):
    """A recipe that cannot be read, or asks for what does not exist."""


class ModelError(QtoolError):
    """An ONNX file that cannot be used."""


class DataError(QtoolError):
    """Samples that do not fit the model or cannot be read."""


class RangesError(QtoolError):
    """Ranges that are missing, unusable, or belong to another model."""


class PassError(QtoolError):
    """A pass that failed or broke the graph."""


class NotAllowedError(QtoolError):
    """Something that the user has not allowed: running a recipe's code, leaving the model's folder."""


class BackendError(QtoolError):
    """The backend is missing or refused the model."""

    exit_status = 3


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known words most like ``word``, best first, at most ``count``."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), list(by_lower), n=count, cutoff=0.5)
    return [by_lower[name] for name in found]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy that names the nearest known words, or lists all where none is near."""
    names = sorted(set(known))
    close = nearest(word, names)
    if close:
        return "did you mean " + " or ".join(f"'{name}'" for name in close) + "?"
    if not names:
        return ""
    shown = ", ".join(f"'{name}'" for name in names[:12])
    return f"known: {shown}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")
