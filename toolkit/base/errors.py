"""The errors that qtool raises: each says what is wrong, where, and what to do about it."""

from __future__ import annotations

import bisect
import difflib
import errno
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import takewhile
from typing import TypeVar

Q = TypeVar("Q", bound="QtoolError")
FAILURES = (Exception, SystemExit)
"""What third-party code may raise: its ``sys.exit`` would otherwise end qtool silently."""
_SYSTEM = {
    errno.ENOSPC: "free some space on that disk, or choose a place on another",
    errno.EDQUOT: "free some of your quota on that disk, or choose a place on another",
    errno.EROFS: "choose a place that is writable",
    errno.EACCES: "choose a place that you may read and write",
    errno.EPERM: "choose a place that you may read and write",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.EIO: "check that disk",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "fix the symbolic links, which form a loop",
    errno.ENOTDIR: "check the path: part of it is a file, not a folder",
    errno.EISDIR: "name a file, not a folder",
    errno.EFBIG: "write to a file system that supports files of this size",
    errno.ENOMEM: "close other programs",
    errno.ENXIO: "name a regular file",
}
_LOOP = "Symlink loop from "
_FEW = 12
_SHOWN = 200
_PROPOSED = 3
_ANY_LETTER = 1e-9
_UNSURE = 0.4
_FAR = 0.75
"""Words less similar than this fraction of the best match are not suggested with it."""


class QtoolError(Exception):
    """An error message in one paragraph: what is wrong, where, and the remedy.

    Args:
        what: the fault, with the value that shows it.
        where: the location: a file and line, a node, a sample of a data file.
        remedy: what the user can do.
        value: the faulty value in the recipe, as text or parsed, if the raising code does not know the line; it may be
            an empty string; None if there is none.
    """

    exit_status = 2

    def __init__(self, what: str, *, where: str = "", remedy: str = "", value: object = None) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        self.value = value if value is None or isinstance(value, str) else json.dumps(value, default=str)
        super().__init__(self.paragraph())

    def at(self, where: str) -> None:
        """Set the place of the fault, unless it is set already."""
        if not self.where:
            self.where = where
            self.args = (self.paragraph(),)

    def apart(self: Q) -> Q:
        """The same error without its traceback, to be kept: frames would keep all their local variables alive."""
        found = type(self)(self.what, where=self.where, remedy=self.remedy, value=self.value)
        vars(found).update(vars(self))
        return found

    def caused_by(self: Q, cause: BaseException) -> Q:
        """This error with its cause, to be returned: a frame of the cause with a reference to it would be a cycle."""
        self.__cause__ = cause
        return self

    def paragraph(self) -> str:
        """The whole message in one paragraph; extremely long paths and values are shortened in the middle."""
        what = shortened(self.what, 3 * _SHOWN)
        text = f"{shortened(self.where, 2 * _SHOWN)}: {what}" if self.where else what
        remedy = shortened(self.remedy, 2 * _SHOWN)
        if not remedy:
            return text
        ended = text if text.endswith(("?", "!")) else text.rstrip(".") + "."
        return f"{ended} {remedy[:1].upper()}{remedy[1:]}"


class RecipeError(QtoolError):
    """A recipe that cannot be read, or names something that does not exist."""


class ModelError(QtoolError):
    """An ONNX file that cannot be used."""


class DataError(QtoolError):
    """Samples that do not fit the model or cannot be read.

    Attributes:
        row: the index of the faulty sample in its batch, if the raising code does not know the place; None if there is
            no single one.
    """

    row: int | None = None


class RangesError(QtoolError):
    """Ranges that are missing, unusable, or belong to another model."""


class WriteError(QtoolError):
    """A file that cannot be written."""


def system_fault(error: BaseException) -> QtoolError | None:
    """The ``QtoolError`` for a failure of the machine (memory, disk), not of the program; None for anything else."""
    if isinstance(error, MemoryError):
        return QtoolError("out of memory", remedy="use smaller batches, fewer samples or smaller profiles")
    if isinstance(error, UnicodeEncodeError) and error.encoding == sys.getfilesystemencoding() != "utf-8":
        return not_in_locale(error.object)
    if isinstance(error, RuntimeError) and str(error).startswith(_LOOP):
        # the message of pathlib before Python 3.13
        where = str(error).removeprefix(_LOOP).strip("'")
        return QtoolError(os.strerror(errno.ELOOP), where=where, remedy=_SYSTEM[errno.ELOOP])
    if not isinstance(error, OSError) or error.errno not in _SYSTEM:
        return None
    what = error.strerror or os.strerror(error.errno)
    return QtoolError(what, where=str(error.filename or ""), remedy=system_remedy(error))


def not_in_locale(name: str) -> QtoolError:
    """The error that the locale's encoding, which is not UTF-8, lacks characters of a file's name."""
    return QtoolError(
        f"names of files are read as {sys.getfilesystemencoding()} here, which lacks characters of this one",
        where=shortened(name).encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
        remedy="set PYTHONUTF8=1, or a locale of UTF-8 (LC_ALL=C.UTF-8)",
    )


def system_remedy(error: OSError, otherwise: str = "choose another place") -> str:
    """The remedy for an error of the operating system."""
    return _SYSTEM.get(error.errno or 0, otherwise)


def shortened(text: str, most: int = _SHOWN) -> str:
    """Text whose middle is left out if it is longer than ``most``, such as a value of 5,000 digits."""
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


class PassError(QtoolError):
    """A pass that failed or broke the graph."""


class NotAllowedError(QtoolError):
    """Something the user has not allowed: running a recipe's code, or leaving the model's folder."""


class StoppedError(QtoolError):
    """The user stopped qtool with Ctrl-C or SIGTERM."""

    exit_status = 130


class BackendError(QtoolError):
    """The backend is missing or rejected the model."""

    exit_status = 3


def nearest(word: str, known: Iterable[str], count: int = 5, cutoff: float = 0.5) -> list[str]:
    """The known words most similar to ``word``, best first: those with most letters in common order, and the same
    beginning.

    Args:
        word: the unknown word.
        known: the known words.
        count: the most words to return.
        cutoff: the smallest similarity (difflib's ratio), 0 to 1.
    """
    wanted = word.lower()
    letters, bounds = Counter(wanted).items(), []
    for name in set(known):
        other = name.lower()
        length = len(wanted) + len(other)
        most = 2 * sum(min(many, other.count(one)) for one, many in letters) / length if length else 1.0
        if most >= cutoff:
            alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(wanted, other)))
            begin = 2 * alike / max(length, 1)
            bounds.append((most + begin, begin, name))
    found: list[tuple[float, str]] = []
    # the likeliest first: of a hundred thousand names few can be among the nearest
    for bound, begin, name in sorted(bounds, reverse=True):
        if len(found) >= count and bound < -found[count - 1][0]:
            break
        ratio = difflib.SequenceMatcher(None, wanted, name.lower(), autojunk=False).ratio()
        if ratio >= cutoff:
            bisect.insort(found, (-ratio - begin, name))
    return [name for score, name in found[:count] if score <= _FAR * found[0][0]]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy that suggests the most similar known words; if none is similar, all of them, or the closest of many."""
    names = sorted(set(known))
    close = nearest(word, names)
    if not close and len(names) > _FEW:
        close = nearest(word, names, cutoff=_ANY_LETTER)
    if close or not names:
        return _meant(close[:_PROPOSED])
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return "known: " + ", ".join(f"'{name}'" for name in names[:_FEW]) + more


def no_value(name: str, known: Iterable[str], given: Iterable[str]) -> tuple[str, str]:
    """The fault and remedy for an input without a value: an unknown given name may be a misspelling.

    Args:
        name: the input.
        known: all inputs.
        given: the names of the given values.
    """
    known = list(known)
    strangers = sorted(set(given) - set(known))
    if not strangers:
        return f"input '{name}' has no value", f"give one for each of {', '.join(map(repr, known))}"
    stranger = (nearest(name, strangers, cutoff=0.0) or strangers)[0]
    return f"there is no input '{stranger}', and input '{name}' has no value", did_you_mean(stranger, known)


def did_you_mean_pattern(pattern: str, names: Iterable[str]) -> str:
    """A remedy for a glob that matches no name: the most similar names and globs over prefixes of names; if none is
    similar, examples of names.
    """
    names = list(names)
    separator = "/" if any("/" in name for name in names) else "."
    groups = {}
    for name in names:
        for match in re.finditer(re.escape(separator), name):
            start = name[: match.end()]
            if match.start() and not set(start) & set("*?["):
                groups[start] = f"{start}*"
    meant = groups if groups and pattern.endswith(f"{separator}*") else {**groups, **{name: name for name in names}}
    stem = pattern.strip("*")
    close = nearest(stem, meant, _PROPOSED) or nearest(stem, meant, _PROPOSED, _UNSURE)
    if close or not meant:
        return _meant(meant[near] for near in close)
    return f"names are such as {', '.join(map(repr, list(meant.values())[:_PROPOSED]))}"


def _meant(names: Iterable[str]) -> str:
    listed = " or ".join(f"'{name}'" for name in names)
    return f"did you mean {listed}?" if listed else ""
