"""The commands of the tools in shell scripts, batch files, Makefiles and Dockerfiles; nothing is run or looked up."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress

from toolkit.base.errors import QtoolError
from toolkit.run.migrate.command import RTX, TOOLS, of_rtx, tool_of

_LONGEST = 1 << 16
_ENDS = re.compile(r"[;&|<>()]+")
_COMMENT = re.compile(r"\s*(?:@?rem\b|::)", re.IGNORECASE)
_WINDOWS = re.compile(r"\b[A-Za-z]:\\|%\w+%|\.exe\b|\$env:", re.IGNORECASE)
_ARRAY = re.compile(r"(?:^|(?<=[\s;]))([A-Za-z_]\w*\+?=)\(([^()]*)\)")
_OPEN_ARRAY = re.compile(r"(?:^|[\s;])[A-Za-z_]\w*\+?=\([^()]*$")
_SUBSHELL = re.compile(r"(^|[\s;&|])\(([^()]*)\)(?=\s*(?:$|[;&|<>]))")
_QUIET = re.compile(r"^\s*(?:@-?|-@?)(?=[\w$./])")
"""What a line of a Makefile begins with that is not to be shown, or may fail."""
_ASSIGNMENT = re.compile(r"(?:\$env:)?([A-Za-z_]\w*)([+?]?)=(.*)", re.DOTALL)
_VARIABLE = re.compile(
    r"\$(?:\{([A-Za-z_]\w*)(?:\[[@*]\])?\}|\(([A-Za-z_]\w*)\)|(?:env:)?([A-Za-z_]\w*))|%([A-Za-z_]\w*)%"
)
_LEADING = frozenset(
    {"then", "do", "else", "{", "!", "export", "local", "readonly", "declare", "set", "function", "RUN", "ENV", "ARG"}
)
"""What may stand in front of an assignment or a command."""
_BEGINS, _FINISHES = (
    frozenset({"if", "for", "while", "until", "case", "select", "{"}),
    frozenset({"fi", "done", "esac", "}"}),
)
_NAMED = {"function": 1, "case": 2}
_SPACED = re.compile(r"\$?(?:env:)?([A-Za-z_]\w*)")
_CLOSE = re.compile(r"^([A-Za-z_]\w*)(::?=|\?=)")
_MAKES = {"=": "=", ":=": "=", "::=": "=", "?=": "?=", "+=": "+= "}
"""By what stands between a name and its value, alone, in a Makefile or PowerShell, what does in a shell."""


def commands_in(text: str) -> list[tuple[int, list[str]]]:
    """The commands of the tools in a script or on a command line, each with its line, variables filled in.

    Lines that end in a backslash go on; variables and arrays of the script itself are known, unless it decides at some
    place whether they get another value; nothing else is run or looked up.

    Raises:
        QtoolError: the script does not parse; the message names the line.
    """
    reader = _Shell()
    for number, line in _logical_lines(text):
        reader.read(number, line)
    return reader.found


def _is_pattern(word: str) -> bool:
    """Whether it is one of a ``case``, or the name of a function that is defined."""
    return word.endswith(")") and not word.startswith(("$", "("))


def _array(found: re.Match[str]) -> str:
    """An array as one word; what is added to one are further words."""
    more = " " if found[1].endswith("+=") else ""
    return f"{found[1]}{shlex.quote(more + found[2].strip())}"


class _Shell:
    def __init__(self) -> None:
        self.found: list[tuple[int, list[str]]] = []
        self.known: dict[str, str] = {}
        self.depth = 0

    def read(self, number: int, line: str) -> None:
        """Take in one line: what it assigns, and the commands of the tools in it."""
        if _COMMENT.match(line):
            return
        line = _ARRAY.sub(_array, _CLOSE.sub(r"\1 \2 ", _QUIET.sub("", line)))
        words = _words(_SUBSHELL.sub(r"\1\2", line), number)
        if words[1:2] and words[1] in _MAKES and (name := _SPACED.fullmatch(words[0])):
            words = [f"{name[1]}{_MAKES[words[1]]}{' '.join(words[2:])}"]
        for command, decided in _commands(words):
            self._command(number, command, decided or self.depth > 0)

    def _command(self, number: int, words: list[str], decided: bool) -> None:
        while words and (words[0] in _LEADING | _BEGINS | _FINISHES or _is_pattern(words[0])):
            if words[0] in _NAMED:
                # what it is called, or looks at, follows
                del words[1 : 1 + _NAMED[words[0]]]
            self.depth = max(0, self.depth + (words[0] in _BEGINS) - (words[0] in _FINISHES))
            decided = decided or self.depth > 0
            words.pop(0)
            while words and words[0].startswith("-"):
                # declare -a, local -r
                words.pop(0)
        given: list[str] = []
        while words and (match := _ASSIGNMENT.fullmatch(words[0])):
            given.append(words.pop(0))
            self._assign(match[1], match[3], match[2], decided)
        filled = [part for word in words for part in self._expanded(word)]
        start = next((i for i, word in enumerate(filled) if tool_of(word)), None)
        if start is not None:
            rtx = [word for word in (f"{RTX}={self.known.get(RTX, 0)}", *given, *filled[:start]) if of_rtx(word)]
            self.found.append((number, [*rtx, *filled[start:]]))

    def _assign(self, name: str, value: str, how: str, decided: bool) -> None:
        """What a script decides about when it runs is not known, unless it is the same either way."""
        if how == "?" and name in self.known:
            return
        value = self._filled(value)
        if how == "+":
            value = f"{self.known.get(name, '')}{value}".strip()
        same = self.known.get(name, value) == value
        self.known[name] = value if same or not decided else f"${name}"

    def _expanded(self, word: str) -> list[str]:
        """A word with its variables filled in; a variable alone may hold several words."""
        filled = self._filled(word)
        if filled == word or not _VARIABLE.fullmatch(word):
            return [filled]
        with suppress(ValueError):
            return shlex.split(filled)
        # a quotation mark that is not closed
        return [filled]

    def _filled(self, word: str) -> str:
        filled = _VARIABLE.sub(lambda found: self.known.get(next(filter(None, found.groups())), found[0]), word)
        # variables of variables may double with every line
        return filled if len(filled) <= _LONGEST else word


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    pending, begin = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        begin = begin or number
        if line.rstrip().endswith(("\\", "^")) or (line.rstrip().endswith("`") and line.count("`") % 2):
            pending += line.rstrip()[:-1] + " "
            continue
        if _OPEN_ARRAY.search(pending + line):
            # an array goes on until its bracket is closed
            pending += line.partition(" #")[0] + " "
            continue
        yield begin, pending + line
        pending, begin = "", 0
    if pending:
        yield begin, pending


def _words(line: str, number: int) -> list[str]:
    reader = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
    reader.whitespace_split = True
    reader.commenters = "#"
    if _WINDOWS.search(line):
        # a backslash is a folder's there
        reader.escape = ""
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


def _commands(words: Sequence[str]) -> Iterator[tuple[list[str], bool]]:
    """The commands of a line, each with whether another one decides about it; where their output goes is no part."""
    current: list[str] = []
    decided = False
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
            yield current, decided
            current, decided = [], word in ("&&", "||")
    yield current, decided
