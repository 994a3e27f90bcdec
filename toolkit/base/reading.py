"""Reading untrusted files: only regular files, with a size limit, and with every failure reported as a qtool error."""

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
from traceback import walk_tb
from types import BuiltinFunctionType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any, BinaryIO

from toolkit.base.errors import QtoolError, shortened, system_remedy
from toolkit.base.modules import OWN_PACKAGES

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
"""First bytes of misnamed files, in lower case, with what they are and the remedy."""
_NOT_REGULAR = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


_CALLED = (FunctionType, MethodType, BuiltinFunctionType, GeneratorType)
_CALL = re.compile(
    r"(?!.*__(init|new)__\(\))[\w.<>]+\(\) (missing|takes|got an unexpected|got multiple) "
    r"|'(?!NoneType')[\w.]+' object is not callable"
)
_OF_EITHER = (TypeError, LookupError, AttributeError, AssertionError)
"""Errors of Python's own that a file with other content than expected causes as well as a bug."""


@dataclass(frozen=True)
class FileKind:
    """A kind of file that qtool reads, and how errors in such files are reported.

    Attributes:
        refusal: start of the message about a file that is not of this kind: ``it cannot be read as a collection``.
        error: class of the error to raise.
        remedy: the remedy if a file is not of this kind.
        limit: largest size in bytes.
        smaller: the remedy for a larger file; if empty, ``remedy`` is used.
    """

    refusal: str
    error: type[QtoolError]
    remedy: str
    limit: int = 1 << 28
    smaller: str = ""

    def fault(self, path: str | os.PathLike[str], what: str, remedy: str = "") -> QtoolError:
        """The error to raise if a file does not have the expected content."""
        what, remedy = foreign(path) or (what, remedy)
        return self.error(f"{self.refusal}: {what}", where=os.fspath(path), remedy=remedy or self.remedy)


OWN = FileKind("it is damaged", QtoolError, "remove it: it will be made again")
"""A file that qtool maintains itself, whose content users need not know."""


@contextmanager
def reading(path: str | os.PathLike[str], kind: FileKind) -> Iterator[None]:
    """Report any error in the block, which reads ``path``, as an error in the file; qtool's errors pass through.

    Raises:
        QtoolError: of the kind's class, for any other exception in the block.
        NameError, AttributeError, TypeError, KeyError: a fault of the code, whatever the file holds; see
            ``_fault_of_code``. If either may be at fault, the remedy says so.
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
        if _fault_of_code(error):
            raise
        raise kind.fault(path, fault_words(error), _doubtful_remedy(error, kind)) from error


def _fault_of_code(error: Exception) -> bool:
    """Whether no file can cause an error.

    That is so if a name is not defined; if a module, a function or an object of qtool lacks an attribute; if a function
    of qtool is called with other arguments than it takes, or a value that is none is called; and if a table lacks a key
    that is an object of qtool, such as a member of an enum. Constructors may be called with the fields of a file.

    Other errors that qtool's code raises, such as KeyError, may come from a file that lacks what the code looks for.
    """
    if isinstance(error, AttributeError):
        held = error.obj
        return isinstance(held, (ModuleType, *_CALLED)) or _is_own(held if isinstance(held, type) else type(held))
    if isinstance(error, TypeError):
        return bool(_CALL.match(str(error)) and _own_place(error))
    if isinstance(error, KeyError):
        return bool(error.args) and _is_own(type(error.args[0]))
    return isinstance(error, NameError)


def _is_own(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in OWN_PACKAGES


def _own_place(error: Exception) -> str:
    """The module and line of qtool's that raised an error; empty if other code did."""
    frames = list(walk_tb(error.__traceback__))
    if not frames:
        return ""
    frame, line = frames[-1]
    name = str(frame.f_globals.get("__name__", ""))
    return f"{name}:{line}" if name.partition(".")[0] in OWN_PACKAGES else ""


def _doubtful_remedy(error: Exception, kind: FileKind) -> str:
    """The remedy if the file or the code that reads it may be at fault; empty if it is the file."""
    place = _own_place(error) if isinstance(error, _OF_EITHER) else ""
    return f"{kind.remedy}; if the file is sound, report a bug in qtool, with {place}" if place else ""


def foreign(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """What a misnamed file is, judged by its first bytes, and the remedy; None if unknown."""
    with suppress(OSError, ValueError, QtoolError), open_regular(path) as stream:
        head = stream.read(32).lstrip().lower()
        return next(((what, remedy) for begin, what, remedy in _FOREIGN if head.startswith(begin)), None)
    return None


def fault_words(error: BaseException) -> str:
    """An exception of a library that reads a file, as one short line."""
    text = shortened(" ".join(str(error).split()))
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if "set_int_max_str_digits" in text:
        return "a number in it has thousands of digits"
    speaks = isinstance(error, (ValueError, OSError)) or type(error).__module__ != "builtins"
    return text if speaks and text else type(error).__name__ + (f": {text}" if text else "")


@contextmanager
def open_regular(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for reading; pipes and devices, which may block or never end, are refused without opening them.

    Raises:
        QtoolError: it is not a regular file.
        OSError: it does not exist or cannot be opened.
    """
    _refuse_irregular(os.stat(path), path)  # noqa: PTH116
    with open(path, "rb", opener=_without_waiting) as stream:
        # the file may have been replaced in between
        _refuse_irregular(os.fstat(stream.fileno()), path)
        yield stream


def require_regular(path: str | os.PathLike[str]) -> None:
    """Refuse an existing path that is not a regular file, before it is opened.

    Raises:
        QtoolError: see ``open_regular``.
        OSError: it does not exist.
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


def require_size(path: str | os.PathLike[str], kind: FileKind) -> None:
    """Refuse a file that is larger than files of its kind may be, before it is read.

    Raises:
        QtoolError: it is, or it is missing or not a regular file.
    """
    with reading(path, kind), open_regular(path) as stream:
        _refuse_size(os.fstat(stream.fileno()).st_size, path, kind)


def _refuse_size(size: int, path: str | os.PathLike[str], kind: FileKind) -> None:
    if size > kind.limit:
        raise kind.fault(path, f"it has {size:,} bytes; the limit is {kind.limit:,}", kind.smaller)


def read_file(path: str | os.PathLike[str], kind: FileKind) -> bytes:
    """The content of a file.

    Raises:
        QtoolError: it is missing, not a regular file, larger than the kind's limit, or cannot be read.
    """
    with reading(path, kind), open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = b"" if size > kind.limit else stream.read(size + 1)
        # files that grow meanwhile, and files such as those in /proc, have more bytes than their size says
        while size < len(content) <= kind.limit and (more := stream.read(_CHUNK)):
            content += more
        _refuse_size(max(size, len(content)), path, kind)
        return content


def read_utf8(path: str | os.PathLike[str], kind: FileKind) -> str:
    """The text of a file, without the byte order mark that some editors write; see ``read_file``."""
    content = read_file(path, kind)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # in text, zero bytes occur only in UTF-16 and UTF-32, which start with a byte order mark
        binary = b"\0" in content and not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        if binary:
            raise kind.fault(path, "it is no text") from error
        raise kind.fault(path, f"byte {error.start} is not UTF-8 text", "save it as UTF-8") from error


def read_json(path: str | os.PathLike[str], kind: FileKind, strict: bool = True) -> Any:
    """The content of a JSON file, see ``parse_json`` and ``read_file``."""
    return parse_json(read_file(path, kind), path, kind, strict)


def own_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file that qtool maintains; None if it is missing, damaged or not a regular file."""
    with suppress(QtoolError):
        return read_json(path, OWN)
    return None


def parse_json(
    content: bytes | str, path: str | os.PathLike[str], kind: FileKind, strict: bool = True, unique: bool = False
) -> Any:
    """The value of JSON text.

    Args:
        content: the text; bytes are UTF-8.
        path: the file, for errors.
        strict: refuse control characters within strings.
        unique: refuse objects with duplicate keys, of which ``json`` silently keeps the last.

    Raises:
        QtoolError: it is not JSON, or contains NaN or an infinity (which JSON does not have), a number outside the
            range of float64, or half of a surrogate pair, which cannot be displayed or stored.
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
