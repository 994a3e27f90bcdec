"""Reading files that others wrote: regular files only, a limit on their size, and one net under every reader."""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from toolkit.base.errors import QtoolError, shortened, system_remedy

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_CHUNK = 1 << 20
_FOREIGN = (
    (
        b"version https://git-lfs",
        "it is a Git LFS pointer, not the file that it stands for",
        "fetch that: git lfs pull",
    ),
    (b"\x1f\x8b", "it is compressed with gzip", "decompress it"),
    (b"<!doctype html", "it is a web page, as a failed download leaves it", "download it again"),
    (b"<html", "it is a web page, as a failed download leaves it", "download it again"),
)
"""How misnamed files begin, in lower case; what they are, and what to do."""
_NOT_REGULAR = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


@dataclass(frozen=True)
class FileKind:
    """A kind of file that qtool reads, and how its faults are told.

    Attributes:
        refusal: what is said of a file that is not of this kind: ``it cannot be read as a collection``.
        error: the class of error to raise.
        remedy: what helps where the file is not of this kind.
        limit: how many bytes one may have.
        smaller: what helps where it has more; where empty, ``remedy`` is used.
    """

    refusal: str
    error: type[QtoolError]
    remedy: str
    limit: int = 1 << 28
    smaller: str = ""

    def fault(self, path: str | os.PathLike[str], what: str, remedy: str = "") -> QtoolError:
        """The error to raise where the file is not what it should be."""
        what, remedy = foreign(path) or (what, remedy)
        return self.error(f"{self.refusal}: {what}", where=os.fspath(path), remedy=remedy or self.remedy)


OWN = FileKind("it is damaged", QtoolError, "remove it: it will be made again")
"""A file that qtool keeps for itself: nothing that is wrong with it is the user's business."""


@contextmanager
def reading(path: str | os.PathLike[str], kind: FileKind) -> Iterator[None]:
    """The block reads ``path``: whatever fails in it is reported as a fault of the file, unless it already is.

    Raises:
        QtoolError: of the kind's own class; what the block raises of ours goes through.
    """
    try:
        yield
    except QtoolError:
        raise
    except MemoryError as error:
        raise kind.fault(path, "reading it takes more memory than there is") from error
    except OSError as error:
        if error.errno is None:
            raise kind.fault(path, fault_words(error)) from error
        raise kind.error(
            f"it cannot be read: {error.strerror or os.strerror(error.errno)}",
            where=os.fspath(path),
            remedy=system_remedy(error, "check the path"),
        ) from error
    except Exception as error:
        raise kind.fault(path, fault_words(error)) from error


def foreign(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """What a misnamed file is, by its first bytes, and what to do; None where that is not known."""
    with suppress(OSError, ValueError, QtoolError), open_regular(path) as stream:
        head = stream.read(32).lstrip().lower()
        return next(((what, remedy) for begin, what, remedy in _FOREIGN if head.startswith(begin)), None)
    return None


def fault_words(error: BaseException) -> str:
    """What a library says of a file, in one short line."""
    text = shortened(" ".join(str(error).split()))
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if "set_int_max_str_digits" in text:
        return "a number in it has thousands of digits"
    speaks = isinstance(error, (ValueError, OSError)) or type(error).__module__ != "builtins"
    return text if speaks and text else type(error).__name__ + (f": {text}" if text else "")


@contextmanager
def open_regular(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file opened for reading; a pipe or a device, which may never end or block for ever, is refused unopened.

    Raises:
        QtoolError: it is no regular file.
        OSError: it is not there or cannot be opened.
    """
    _refuse_irregular(os.stat(path), path)  # noqa: PTH116
    with open(path, "rb", opener=_without_waiting) as stream:
        # it may have been replaced in between
        _refuse_irregular(os.fstat(stream.fileno()), path)
        yield stream


def require_regular(path: str | os.PathLike[str]) -> None:
    """Refuse a path that exists and is no regular file, before anybody opens it.

    Raises:
        QtoolError: see ``open_regular``.
        OSError: it is not there.
    """
    _refuse_irregular(os.stat(path), path)  # noqa: PTH116


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


def _refuse_irregular(found: os.stat_result, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(found.st_mode):
        what = next((name for test, name in _NOT_REGULAR if test(found.st_mode)), "no regular file")
        raise QtoolError(
            f"this is {what}, not a file", where=os.fspath(path), remedy="name a file; a pipe can be saved to one first"
        )


def read_file(path: str | os.PathLike[str], kind: FileKind) -> bytes:
    """The content of a file.

    Raises:
        QtoolError: it is missing, no regular file, larger than the kind's limit, or cannot be read.
    """
    with reading(path, kind), open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = b"" if size > kind.limit else stream.read(size + 1)
        # what grows meanwhile, and what the system makes up as it is read, has no size beforehand
        while size < len(content) <= kind.limit and (more := stream.read(_CHUNK)):
            content += more
        if max(size, len(content)) > kind.limit:
            what = f"it has {max(size, len(content)):,} bytes; the limit is {kind.limit:,}"
            raise kind.fault(path, what, kind.smaller)
        return content


def read_utf8(path: str | os.PathLike[str], kind: FileKind) -> str:
    """The text of a file, without the byte order mark that some editors begin with; see ``read_file``."""
    content = read_file(path, kind)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # no other encoding of a text than UTF-16 and UTF-32, which begin with a mark, has bytes of 0
        binary = b"\0" in content and not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        if binary:
            raise kind.fault(path, "it is no text") from error
        raise kind.fault(path, f"byte {error.start} is not UTF-8 text", "save it as UTF-8") from error


def read_json(path: str | os.PathLike[str], kind: FileKind, strict: bool = True) -> Any:
    """The content of a JSON file, see ``parse_json`` and ``read_file``."""
    return parse_json(read_file(path, kind), path, kind, strict)


def own_json(path: str | os.PathLike[str]) -> Any:
    """What a JSON file that qtool keeps for itself says; None where it is missing, damaged or no regular file."""
    with suppress(QtoolError):
        return read_json(path, OWN)
    return None


def parse_json(
    content: bytes | str, path: str | os.PathLike[str], kind: FileKind, strict: bool = True, unique: bool = False
) -> Any:
    """What JSON text says.

    Args:
        content: the text; as bytes in UTF-8.
        path: the file, for the error.
        kind: what the file should be.
        strict: refuse control characters within strings.
        unique: refuse an object with two entries of one name, of which json keeps the last without a word.

    Raises:
        QtoolError: it is no JSON, holds NaN or an infinity (JSON knows neither), a number beyond float64, or half of
            a surrogate pair, which no file or terminal can show.
    """
    with reading(path, kind):
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        found = json.loads(
            text, strict=strict, parse_float=_finite, parse_constant=_refuse_constant,
            object_pairs_hook=_without_twins if unique else None,
        )  # fmt: skip
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode("utf-8")
        return found


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"two entries are named '{shortened(twice)}'")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {shortened(text, 40)} is outside the range of float64")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
