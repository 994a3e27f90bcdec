"""The errors qtool raises: each says what is wrong, where, and what to do about it."""

from __future__ import annotations

import bisect
import difflib
import errno
import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from itertools import takewhile
from typing import TypeVar

Q = TypeVar("Q", bound="QtoolError")
FAILURES = (Exception, SystemExit)
"""What code that is not qtool's may end in: ``sys.exit`` in it would end qtool without a word."""
_SYSTEM = {
    errno.ENOSPC: "free some space on that disk, or name a place on another",
    errno.EDQUOT: "free some of your share of that disk, or name a place on another",
    errno.EROFS: "name a place that can be written to",
    errno.EACCES: "name a place that you may read and write",
    errno.EPERM: "name a place that you may read and write",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.EIO: "check that disk",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "fix the links, which form a loop",
    errno.ENOTDIR: "check the path: a part of it is a file, not a folder",
    errno.EISDIR: "name a file, not a folder",
    errno.EFBIG: "write to a file system that takes files of this size",
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
"""Words whose similarity is below this share of the best word's are not named beside it."""


class QtoolError(Exception):
    """What is wrong, where it is, and the remedy, in one paragraph.

    Args:
        what: the fault and the value that shows it.
        where: the place: a file and line, a node, a sample of a data file.
        remedy: what the user can do.
        value: what the recipe says that is at fault, as text or as what it was read into, where the raising code knows
            no line; it may be empty text; None where nothing is.
    """

    exit_status = 2

    def __init__(self, what: str, *, where: str = "", remedy: str = "", value: object = None) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        self.value = value if value is None or isinstance(value, str) else json.dumps(value, default=str)
        super().__init__(self.paragraph())

    def at(self, where: str) -> None:
        """Say where the fault is, unless that is said already."""
        if not self.where:
            self.where = where
            self.args = (self.paragraph(),)

    def apart(self: Q) -> Q:
        """The same error, for keeping: without the frames it came through, which hold all that was computed in them."""
        found = type(self)(self.what, where=self.where, remedy=self.remedy, value=self.value)
        vars(found).update(vars(self))
        return found

    def caused_by(self: Q, cause: BaseException) -> Q:
        """This error with its cause, for returning: a frame of the cause that had a name for it would be a cycle."""
        self.__cause__ = cause
        return self

    def paragraph(self) -> str:
        """The whole message on one paragraph; a path or value of absurd length is cut in its middle."""
        what = shortened(self.what, 3 * _SHOWN)
        text = f"{shortened(self.where, 2 * _SHOWN)}: {what}" if self.where else what
        remedy = shortened(self.remedy, 2 * _SHOWN)
        if not remedy:
            return text
        ended = text if text.endswith(("?", "!")) else text.rstrip(".") + "."
        return f"{ended} {remedy[:1].upper()}{remedy[1:]}"


class RecipeError(QtoolError):
    """A recipe that cannot be read, or asks for what does not exist."""


class ModelError(QtoolError):
    """An ONNX file that cannot be used."""


class DataError(QtoolError):
    """Samples that do not fit the model or cannot be read.

    Attributes:
        row: which of the samples at hand is at fault, where the raising code knows no place; None if not a single one.
    """

    row: int | None = None


class RangesError(QtoolError):
    """Ranges that are missing, unusable, or belong to another model."""


class WriteError(QtoolError):
    """A file that cannot be written."""


def system_fault(error: BaseException) -> QtoolError | None:
    """A refusal of the machine, not a fault of the program, as an error of ours; None for anything else."""
    if isinstance(error, MemoryError):
        return QtoolError("out of memory", remedy="use smaller batches, fewer samples or smaller profiles")
    if isinstance(error, RuntimeError) and str(error).startswith(_LOOP):
        # what pathlib says before Python 3.13
        where = str(error).removeprefix(_LOOP).strip("'")
        return QtoolError(os.strerror(errno.ELOOP), where=where, remedy=_SYSTEM[errno.ELOOP])
    if not isinstance(error, OSError) or error.errno not in _SYSTEM:
        return None
    what = error.strerror or os.strerror(error.errno)
    return QtoolError(what, where=str(error.filename or ""), remedy=system_remedy(error))


def system_remedy(error: OSError, otherwise: str = "name another place") -> str:
    """What helps against a refusal of the operating system."""
    return _SYSTEM.get(error.errno or 0, otherwise)


def shortened(text: str, most: int = _SHOWN) -> str:
    """Text with its middle left out where it is longer than ``most``: a value of 5,000 digits is no help in full."""
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


class PassError(QtoolError):
    """A pass that failed or broke the graph."""


class NotAllowedError(QtoolError):
    """Something that the user has not allowed: running a recipe's code, leaving the model's folder."""


class StoppedError(QtoolError):
    """The user stopped qtool, by Ctrl-C or SIGTERM."""

    exit_status = 130


class BackendError(QtoolError):
    """The backend is missing or refused the model."""

    exit_status = 3


def nearest(word: str, known: Iterable[str], count: int = 5, cutoff: float = 0.5) -> list[str]:
    """The known words most like ``word``, best first: those that share most letters in order, and begin alike.

    Args:
        word: what was said.
        known: what could have been meant.
        count: how many at most.
        cutoff: the smallest share of letters in common (difflib's ratio), 0 to 1.
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
    # from the likeliest on: of a hundred thousand names few can be among the nearest
    for bound, begin, name in sorted(bounds, reverse=True):
        if len(found) >= count and bound < -found[count - 1][0]:
            break
        ratio = difflib.SequenceMatcher(None, wanted, name.lower(), autojunk=False).ratio()
        if ratio >= cutoff:
            bisect.insort(found, (-ratio - begin, name))
    return [name for score, name in found[:count] if score <= _FAR * found[0][0]]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy that names the nearest known words; where none is near all of them, or the least far of many."""
    names = sorted(set(known))
    close = nearest(word, names)
    if not close and len(names) > _FEW:
        close = nearest(word, names, cutoff=_ANY_LETTER)
    if close or not names:
        return _meant(close[:_PROPOSED])
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return "known: " + ", ".join(f"'{name}'" for name in names[:_FEW]) + more


def no_value(name: str, known: Iterable[str], given: Iterable[str]) -> tuple[str, str]:
    """What is wrong, and the remedy, where an input has no value: a given but unknown name may be meant.

    Args:
        name: the input.
        known: all inputs.
        given: the names that values were given for.
    """
    known = list(known)
    strangers = sorted(set(given) - set(known))
    if not strangers:
        return f"input '{name}' has no value", f"give one for each of {', '.join(map(repr, known))}"
    stranger = (nearest(name, strangers, cutoff=0.0) or strangers)[0]
    return f"there is no input '{stranger}', and input '{name}' has no value", did_you_mean(stranger, known)


def did_you_mean_pattern(pattern: str, names: Iterable[str]) -> str:
    """A remedy for a glob that matches none of the names: the nearest names and globs over how names begin, or what
    names are like where none is near.
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
