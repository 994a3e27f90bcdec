"""Command lines of trtexec and Polygraphy, also those that stand in a shell script, read into orders."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from toolkit.base.errors import QtoolError
from toolkit.contract.findings import Finding
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.migrate.order import Order
from toolkit.run.migrate.terms import POLYGRAPHY, SHORT, TRTEXEC, Flag, Term
from toolkit.run.migrate.values import polygraphy_value, trtexec_value

TOOLS = ("trtexec", "polygraphy")
_LONGEST = 1 << 16
_RTX = "POLYGRAPHY_USE_TENSORRT_RTX"
"""The environment variable that makes Polygraphy use TensorRT-RTX, where it is not 0."""
_ENDS = re.compile(r"[;&|<>()]+")
_SHAPE_TERMS = (Term.MIN, Term.OPT, Term.MAX)
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")


def tool_of(word: str) -> str:
    """Which of the tools a command's first word names, under whatever path; empty where it is none."""
    name = PurePosixPath(PureWindowsPath(word).name).name.lower().removesuffix(".exe").strip("${}")
    return name if name in TOOLS else ""


def orders_of_command(words: Sequence[str], line: int = 0) -> list[Order]:
    """What a command line says: variables of Polygraphy, and all from the tool's name on.

    Raises:
        QtoolError: it is neither a trtexec nor a ``polygraphy convert`` or ``polygraphy run`` command.
    """
    variables, words = words, without_variables(words)
    tool = tool_of(words[0]) if words else ""
    if tool == "trtexec":
        return list(_numbered(_trtexec(words[1:], line)))
    if tool == "polygraphy" and words[1:2] and words[1] in ("convert", "run"):
        given = [Order(Term.BACKEND, "tensorrt_rtx", word, line) for word in variables if _of_rtx(word)]
        return [*given, *_numbered(_polygraphy(words[2:], line))]
    shown = " ".join(words[:2])
    raise QtoolError(
        f"'{shown}' is no command that can be migrated",
        remedy="give a command of trtexec, 'polygraphy convert' or 'polygraphy run'",
    )


def without_variables(words: Sequence[str]) -> Sequence[str]:
    """A command's words from its name on: without ``env`` and ``NAME=value`` in front."""
    first = next((i for i, word in enumerate(words) if word != "env" and not _ASSIGNMENT.fullmatch(word)), len(words))
    return words[first:]


def _of_rtx(word: str) -> bool:
    return word.startswith(f"{_RTX}=") and word != f"{_RTX}=0"


def _numbered(orders: Iterator[Order]) -> Iterator[Order]:
    """Shapes with the number of their profile: that of ``--profile``, or how often the flag was said before."""
    said: dict[Term, int] = {}
    named: int | None = None
    for order in orders:
        if order.term is Term.PROFILE and order.why is None:
            named = order.value
        if order.term in _SHAPE_TERMS and order.why is None:
            number = said.get(order.term, 0) if named is None else named
            said[order.term] = number + 1
            order = Order(order.term, (number, order.value), order.said, order.line)
        yield order


def _trtexec(words: Sequence[str], line: int) -> Iterator[Order]:
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, given, value = word.partition("=")
        flag = TRTEXEC.get(name)
        if flag is None:
            why = MigrateCode.UNKNOWN_FLAG(flag=name) if word.startswith("-") else MigrateCode.STRAY_WORD(word=word)
            yield Order(None, None, word, line, why)
            continue
        if flag.takes == "value" and not given and rest and not rest[0].startswith("--"):
            # trtexec itself wants a '='; others that take its flags do not
            value = rest.pop(0)
            word = f"{word} {value}"
        yield _read(flag, word, line, lambda flag=flag, value=value: trtexec_value(flag.term, value or flag.means))


def _polygraphy(words: Sequence[str], line: int) -> Iterator[Order]:
    rest, models = list(words), 0
    while rest:
        word = rest.pop(0)
        name, given, value = word.partition("=")
        name = SHORT.get(name, name)
        if re.fullmatch(r"-[vq]{2,}", name):
            name = SHORT[name[:2]]
        flag = POLYGRAPHY.get(name)
        if flag is None and not word.startswith("-"):
            models += 1
            if models == 1:
                yield Order(Term.MODEL, word, word, line)
            else:
                yield Order(None, None, word, line, MigrateCode.STRAY_WORD(word=word))
            continue
        if flag is None:
            yield Order(None, None, word, line, MigrateCode.UNKNOWN_FLAG(flag=name))
            continue
        values = [value] if given else []
        while not given and rest and not _is_flag(rest[0]) and (flag.takes == "values" or not values):
            if flag.takes == "nothing":
                break
            values.append(rest.pop(0))
        said = " ".join([word, *(values if not given else [])])
        yield _read(flag, said, line, lambda flag=flag, values=values: polygraphy_value(
            flag.term, values or ([flag.means] if flag.means else [])
        ))  # fmt: skip


def _is_flag(word: str) -> bool:
    return re.match(r"--?[A-Za-z]", word) is not None


def _read(flag: Flag, said: str, line: int, value: Any) -> Order:
    try:
        return Order(flag.term, value(), said, line)
    except (ValueError, KeyError, IndexError, OverflowError):
        return Order(flag.term, None, said, line, MigrateCode.VALUE_UNREADABLE(said=said))


def commands_in(text: str) -> list[tuple[int, list[str]]]:
    """The commands of the tools in a shell script or on a command line, each with its line, variables filled in.

    Lines that end in a backslash go on; ``VAR=value`` lines of the script itself are known, nothing else is run or
    looked up.

    Raises:
        QtoolError: the script does not parse; the message names the line.
    """
    known: dict[str, str] = {}
    found: list[tuple[int, list[str]]] = []
    for number, logical in _logical_lines(text):
        words = _words(logical, number)
        if words[:1] == ["export"]:
            words.pop(0)
        while words and (match := _ASSIGNMENT.fullmatch(words[0])):
            value = _filled(match[2], known)
            # what has several values has none that is known
            known[match[1]] = value if known.get(match[1], value) == value else f"${match[1]}"
            words.pop(0)
        for command in _commands(words):
            filled = [part for word in command for part in _expanded(word, known)]
            start = next((i for i, word in enumerate(filled) if tool_of(word)), None)
            if start is not None:
                given = [word for word in (f"{_RTX}={known.get(_RTX, 0)}", *filled[:start]) if _of_rtx(word)]
                found.append((number, [*given, *filled[start:]]))
    return found


def _expanded(word: str, known: Mapping[str, str]) -> list[str]:
    """A word with its variables filled in; a variable alone may hold several words."""
    filled = _filled(word, known)
    return shlex.split(filled) if _VARIABLE.fullmatch(word) and filled != word else [filled]


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    pending, begin = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        begin = begin or number
        if line.rstrip().endswith(("\\", "^", "`")):
            pending += line.rstrip()[:-1] + " "
            continue
        yield begin, pending + line
        pending, begin = "", 0
    if pending:
        yield begin, pending


def _words(line: str, number: int) -> list[str]:
    reader = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
    reader.whitespace_split = True
    reader.commenters = "#"
    try:
        return list(reader)
    except ValueError as error:
        if not any(tool in line for tool in TOOLS):
            return []
        raise QtoolError(
            f"the command does not parse: {str(error).lower()}",
            where=f"line {number}",
            remedy="close the quotation mark, or give the command alone",
        ) from error


def _commands(words: Sequence[str]) -> Iterator[list[str]]:
    """The commands of a line; where their output goes is no part of them."""
    current: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not _ENDS.fullmatch(word):
            current.append(word)
        elif "<" in word or ">" in word:
            if current and current[-1].isdecimal():
                # the number of the stream that is sent elsewhere
                current.pop()
            del rest[:1]
        else:
            yield current
            current = []
    yield current


def _filled(word: str, known: Mapping[str, str]) -> str:
    filled = _VARIABLE.sub(lambda match: known.get(match[1] or match[2], match[0]), word)
    # variables of variables may double with every line
    return filled if len(filled) <= _LONGEST else word


def another_command(line: int, words: Sequence[str]) -> Finding:
    """That a script holds a further command, which is not migrated."""
    return MigrateCode.OTHER_COMMAND(line=line, command=" ".join(words[:3]))
