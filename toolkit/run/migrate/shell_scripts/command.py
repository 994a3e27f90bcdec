"""Build instructions in command lines of trtexec and Polygraphy."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from toolkit.base.errors import QtoolError
from toolkit.contract.findings import Finding
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.migrate.orders.order import Order
from toolkit.run.migrate.orders.terms import POLYGRAPHY, SHORT, TRTEXEC, Flag, Term
from toolkit.run.migrate.orders.values import polygraphy_value, trtexec_value

TOOLS = ("trtexec", "polygraphy")
RTX = "POLYGRAPHY_USE_TENSORRT_RTX"
"""The environment variable that makes Polygraphy use TensorRT-RTX, unless it is 0."""
_SHAPE_TERMS = (Term.MIN, Term.OPT, Term.MAX)
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_BUILDING = ("convert", "run")
"""Polygraphy's commands that build an engine."""
_OTHERS = ("check", "data", "debug", "inspect", "multi-device", "plugin", "surgeon", "template")


@dataclass(frozen=True)
class Command:
    """A trtexec or Polygraphy command in a script.

    Attributes:
        line: its line in the script.
        words: its words, preceded by environment variables.
        why: the finding that the script does not reach it, or that this is unknown; None if it is reached.
    """

    line: int
    words: Sequence[str]
    why: Finding | None = None


def tool_of(word: str) -> str:
    """The tool that a command's first word names, with any path; empty if it names none."""
    name = PurePosixPath(PureWindowsPath(word).name).name.lower().removesuffix(".exe").strip("${}")
    return name if name in TOOLS else ""


def orders_of_command(words: Sequence[str], line: int = 0) -> list[Order]:
    """The instructions in a command line: Polygraphy's environment variables, and everything after the tool's name.

    Raises:
        QtoolError: it is not a ``trtexec``, ``polygraphy convert`` or ``polygraphy run`` command.
    """
    variables, words = words, without_variables(words)
    tool = tool_of(words[0]) if words else ""
    if tool == "trtexec":
        return list(_numbered(_trtexec(words[1:], line)))
    if tool == "polygraphy" and words[1:2] and words[1] in _BUILDING:
        given = [Order(Term.BACKEND, "tensorrt_rtx", word, line) for word in variables if of_rtx(word)]
        return [*given, *_numbered(_polygraphy(words[2:], line))]
    shown = " ".join(words[:2])
    raise QtoolError(
        f"'{shown}' is not a command that can be migrated",
        remedy="give a command for trtexec, 'polygraphy convert' or 'polygraphy run'",
    )


def is_command(words: Sequence[str]) -> bool:
    """Whether words that begin with a tool's name are a command; those in ``pip install polygraphy onnx`` are not."""
    first = words[1] if words[1:] else ""
    return first.startswith(("-", "$")) or (tool_of(words[0]) == "polygraphy" and first in (*_BUILDING, *_OTHERS))


def orders_of_commands(commands: Sequence[Command], where: str) -> list[Order]:
    """The instructions of a script's first command that builds from ONNX, with notes on other commands.

    Args:
        where: the script's name, for messages.

    Raises:
        QtoolError: there are commands, but none that can be migrated.
    """
    reached = [one for one in commands if one.why is None or one.why.code is not MigrateCode.NOT_TAKEN] or commands
    able = [one for one in reached if _migratable(one.words)] or reached
    chosen = next((one for one in able if any("onnx" in word for word in one.words)), able[0] if able else None)
    orders: list[Order] = []
    for one in commands:
        if one is not chosen:
            orders.append(Order(None, None, shlex.join(one.words), one.line, one.why or another_command(one)))
            continue
        try:
            own = orders_of_command(one.words, one.line)
        except QtoolError as error:
            error.at(f"{where}, line {one.line}")
            raise
        for order in own:
            taken = one.why is None or one.why.code is not MigrateCode.NOT_TAKEN
            orders.append(replace(order, value=order.value if taken else None, why=order.why or one.why))
    return orders


def _migratable(words: Sequence[str]) -> bool:
    plain = without_variables(words)
    return tool_of(plain[0]) == "trtexec" or (len(plain) > 1 and plain[1] in _BUILDING)


def without_variables(words: Sequence[str]) -> Sequence[str]:
    """A command's words from its name on, without preceding ``env`` and ``NAME=value``."""
    first = next((i for i, word in enumerate(words) if word != "env" and not _ASSIGNMENT.fullmatch(word)), len(words))
    return words[first:]


def of_rtx(word: str) -> bool:
    """Whether a word sets the environment variable that makes Polygraphy use TensorRT-RTX."""
    return word.startswith(f"{RTX}=") and word != f"{RTX}=0"


def _numbered(orders: Iterator[Order]) -> Iterator[Order]:
    """Add to shapes the number of their profile: that of ``--profile``, or the number of earlier uses of the flag."""
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
            # trtexec requires '=', but wrappers with the same flags accept a separate word
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


def another_command(command: Command) -> Finding:
    """The finding that a script has another command, which is not migrated."""
    return MigrateCode.OTHER_COMMAND(line=command.line, command=" ".join(command.words[:3]))
