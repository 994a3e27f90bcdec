"""trtexec and Polygraphy commands in shell scripts, batch files, Makefiles and Dockerfiles; nothing is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath

from toolkit.base.errors import QtoolError
from toolkit.run.migrate.shell_scripts.command import RTX, TOOLS, is_command, of_rtx, tool_of
from toolkit.run.migrate.shell_scripts.exec_form import ExecForms
from toolkit.run.migrate.shell_scripts.text import Document, Line, lines_of
from toolkit.run.migrate.shell_scripts.values import OF_THE_SCRIPT, VARIABLE, filled, printed

_SHIELD = "\ue000"
"""Placeholder for a literal dollar sign."""
_ENDED_NAME = re.compile(r"\$([A-Za-z_]\w*)(?=[\"'\\]+\w)")
"""A variable whose name ends at a quotation mark or backslash."""
_DEEPEST, _MOST = 20, 10_000
"""Limits of nested scripts: their depth and their total number."""
_ENDS = re.compile(r"[;&|<>()]+")
_COMMENT = re.compile(r"\s*(?:@?rem\b|::)", re.IGNORECASE)
_WINDOWS = re.compile(r"\b[A-Za-z]:\\|%\w+%|\.exe\b|\$env:", re.IGNORECASE)
_ARRAY = re.compile(r"(?:^|(?<=[\s;]))([A-Za-z_]\w*\+?=)\(([^()]*)\)")
_SUBSHELL = re.compile(r"(^|[\s;&|])\(([^()]*)\)(?=\s*(?:$|[;&|<>]))")
_QUIET = re.compile(r"^\s*(?:@-?|-@?)(?=[\w$./])")
"""Prefixes of Makefile lines that are not echoed, or whose failure is ignored."""
_ASSIGNMENT = re.compile(r"(?:\$env:)?([A-Za-z_]\w*)([+?]?)=(.*)", re.DOTALL)
_LEADING = frozenset(
    {"then", "do", "else", "{", "!", "export", "local", "readonly", "declare", "set", "function", "RUN", "ENV", "ARG",
     "CMD", "ENTRYPOINT"}
)  # fmt: skip
"""Words that may precede an assignment or a command."""
_BEGINS, _FINISHES = (
    frozenset({"if", "for", "while", "until", "case", "select", "{"}),
    frozenset({"fi", "done", "esac", "}"}),
)
_NAMED = {"function": 1, "case": 2}
_SPACED = re.compile(r"\$?(?:env:)?([A-Za-z_]\w*)")
_CLOSE = re.compile(r"^([A-Za-z_]\w*)(::?=|\?=)")
_MAKES = {"=": "=", ":=": "=", "::=": "=", "?=": "?=", "+=": "+= "}
"""A shell's assignment operator for each one of Makefiles and PowerShell that is separated by spaces."""
_SHELL = re.compile(r"(?:ba|da|a|k|z)?sh|cmd|powershell|pwsh|su|runuser")
_SCRIPT_FLAG = re.compile(r"-[A-Za-z]*c|/[cCkK]|-[cC]ommand")
"""The flag before a shell's script on its command line."""
_PYTHON = re.compile(r"python[0-9.]*")
_READS_AGAIN = frozenset({"eval", "ssh"})
"""Programs that pass their words to a shell as a script."""
_PRINTS = frozenset({"echo", "printf", "print", "Write-Host", "Write-Output", "logger"})
"""Programs that print their words."""
_KEEPS = frozenset({"cat", "tee", "COPY", "ADD", "read"})
"""Programs that store their input."""


@dataclass
class Found:
    """The commands that a script runs.

    Attributes:
        commands: commands of trtexec and Polygraphy, each with its line, variables expanded.
        python: the Python code that it passes to an interpreter, each with its first line.
        nested: how many nested scripts have been read.
    """

    commands: list[tuple[int, list[str]]] = field(default_factory=list)
    python: list[tuple[int, str]] = field(default_factory=list)
    nested: int = 0


def read_shell(text: str, arguments: Sequence[str] = ()) -> Found:
    """The trtexec and Polygraphy commands, and the embedded Python code, that a script or command line runs.

    Lines are continued after a backslash and until quotations and brackets are closed. The script's own variables and
    arrays are expanded, unless a condition decides their value. Nested scripts are read too: in substitutions, after
    ``bash -c``, in here-documents and in Docker's lists. Nothing is run.

    Args:
        text: the script.
        arguments: the arguments that the script is run with; without any, its own defaults apply.

    Raises:
        QtoolError: the script cannot be parsed; the message names the line.
    """
    known = dict(OF_THE_SCRIPT)
    if arguments:
        known |= {str(number): word for number, word in enumerate(arguments, start=1)}
        known["@"] = known["*"] = shlex.join(arguments)
    reader = _Shell(Found(), known)
    reader.read_text(text)
    return reader.found


def commands_in(text: str) -> list[tuple[int, list[str]]]:
    """The commands of ``read_shell`` only."""
    return read_shell(text).commands


def _is_pattern(word: str) -> bool:
    """Whether a word is a pattern of a ``case``, or the name of a function being defined."""
    return word.endswith(")") and not word.startswith(("$", "("))


def _program(word: str) -> str:
    """A command's name without path and extension."""
    return PurePosixPath(PureWindowsPath(word).name).name.lower().removesuffix(".exe")


def _prints_path(word: str) -> bool:
    return printed([[word]]) is not None


def _array(found: re.Match[str]) -> str:
    """Replace an array by one word; additions to an array become further words in it."""
    more = " " if found[1].endswith("+=") else ""
    return f"{found[1]}{shlex.quote(more + found[2].strip())}"


class _Shell:
    def __init__(self, found: Found, known: dict[str, str], within: int = 0) -> None:
        self.found, self.known, self.within = found, known, within
        self.depth = 0
        self.functions: list[int] = []
        """The depths at which functions begin whose bodies are being read: parameters are their own, not the
        script's."""
        self.waiting: dict[str, tuple[str, str, str, int]] = {}
        """Substitutions that are not read yet, by the variable in their place."""
        self.ran: list[list[str]] = []
        self.opaque: set[str] = set()
        """Substitutions whose output is known only at run time."""
        self.listed = ExecForms()

    def read_text(self, text: str, number: int = 1) -> None:
        """Read a script that begins on line ``number``."""
        for line in lines_of(text, _WINDOWS.search(text) is None):
            line.number += number - 1
            listed, done = self.listed.read(line.number, line.text)
            for at, words in done:
                self._command(at, words, False)
            if not listed:
                self.read(line)
        for at, words in self.listed.ended():
            self._command(at, words, False)

    def read(self, line: Line) -> None:
        """Read one line: its assignments, and its commands of trtexec and Polygraphy."""
        if _COMMENT.match(line.text):
            return
        text = _ARRAY.sub(_array, _CLOSE.sub(r"\1 \2 ", _QUIET.sub("", self._without_inner(line))))
        words = _words(_SUBSHELL.sub(r"\1\2", text), line.number)
        for document in line.documents:
            self._document(words, document)
        if words[1:2] and words[1] in _MAKES and (name := _SPACED.fullmatch(words[0])):
            words = [f"{name[1]}{_MAKES[words[1]]}{' '.join(words[2:])}"]
        for command, decided in _commands(words):
            self._command(line.number, command, decided or self.depth > 0)

    # ---------------------------------------------------------------- scripts within the script

    def _nested(self, text: str, number: int, arguments: Sequence[str] = ()) -> list[list[str]]:
        """Read a nested script, which has its own variables; returns the commands that it runs."""
        given = {str(place): word for place, word in enumerate(arguments)}
        reader = _Shell(self.found, {**self._visible(), **given}, self.within + 1)
        self.found.nested += 1
        if self.within < _DEEPEST and self.found.nested <= _MOST:
            reader.read_text(_unshielded(text), number)
        return reader.ran

    def _without_inner(self, line: Line) -> str:
        """A line with variables in place of substitutions, whose commands run first."""
        made, at = "", 0
        for inner in line.inner:
            if inner.text.isidentifier() and not _prints_path(inner.text):
                # a Makefile's variable
                continue
            name = f"__{len(self.known)}_{len(self.waiting)}"
            shown = line.text[inner.begin : inner.end]
            number = line.number + line.text.count("\n", 0, inner.begin)
            self.waiting[f"${{{name}}}"] = (name, inner.text, shown, number)
            made += f"{line.text[at : inner.begin]}${{{name}}}"
            at = inner.end
        return made + line.text[at:]

    def _substitute(self, words: Sequence[str]) -> None:
        """Read a command's substitutions before the command itself."""
        for mark in [mark for mark in self.waiting if any(mark in word for word in words)]:
            name, text, shown, number = self.waiting.pop(mark)
            ran = self._nested(text, number)
            said = None if any("$" in word for command in ran for word in command) else printed(ran)
            self.known[name] = shown if said is None else said
            self.opaque |= {mark} if said is None else set()

    def _document(self, words: list[str], document: Document) -> None:
        """Read a here-document as a script or as Python code, depending on the programs that read it, or ignore it."""
        names = {_program(word): word for word in words}
        if _KEEPS & set(words) and not any(_SHELL.fullmatch(name) for name in names):
            first, ends = document.text.partition("\n")[0], {PurePosixPath(word).suffix for word in words}
            python = ".py" in ends or (first.startswith("#!") and "python" in first)
            kept = python or first.startswith("#!") or ends & {".sh", ".bash", ".bat", ".cmd"}
        else:
            python, kept = any(_PYTHON.fullmatch(name) for name in names), True
        if python:
            self.found.python.append((document.number, document.text))
        elif kept:
            self._nested(document.text, document.number)

    def _within_words(self, number: int, words: list[str]) -> bool:
        """Read the script that a command line passes to a shell or to Python; returns whether there is one."""
        programs = [_program(self._filled(word)) for word in words]
        at = next((i for i, name in enumerate(programs) if _SHELL.fullmatch(name) or _PYTHON.fullmatch(name)), None)
        if at is not None:
            flag = next((i for i in range(at + 1, len(words)) if _SCRIPT_FLAG.fullmatch(words[i])), None)
            if flag is not None and words[flag + 1 :] and not any(tool_of(word) for word in words[at:flag]):
                script, *arguments = words[flag + 1 :]
                if _PYTHON.fullmatch(programs[at]):
                    self.found.python.append((number, _unshielded(script)))
                elif words[flag].startswith("/") or "ommand" in words[flag]:
                    self._nested(" ".join([script, *arguments]), number)
                else:
                    self._nested(script, number, arguments)
                return True
        at = next((i for i, word in enumerate(words) if word in _READS_AGAIN), None)
        if at is not None:
            self._nested(" ".join(map(self._filled, words[at + 1 :])), number)
        return at is not None

    # ---------------------------------------------------------------- commands and variables

    def _command(self, number: int, words: list[str], decided: bool) -> None:
        """Read a command, consuming ``words``; ``decided``: whether another command decides if it runs."""
        decided = self._leading_words(words) or decided
        self._substitute(words)
        given: list[str] = []
        while words and (match := _ASSIGNMENT.fullmatch(words[0])):
            given.append(words.pop(0))
            self._assign(match[1], match[3], match[2], decided)
        expanded = [(word, self._expanded(word)) for word in words]
        whole = [part for _, made in expanded for part in made]
        if not whole:
            return
        self.ran.append(whole)
        # a nested script expands its own parameters
        as_written = [part for word, made in expanded for part in ([word] if len(made) == 1 else made)]
        if whole[0] in _PRINTS or self._within_words(number, as_written):
            return
        start = next((i for i, word in enumerate(whole) if tool_of(word)), None)
        if start is not None and is_command(whole[start:]):
            rtx = [word for word in (f"{RTX}={self.known.get(RTX, 0)}", *given, *whole[:start]) if of_rtx(word)]
            self.found.commands.append((number, list(map(_unshielded, [*rtx, *whole[start:]]))))

    def _leading_words(self, words: list[str]) -> bool:
        """Remove the words before a command, and track the blocks that they open and close.

        Returns:
            Whether one of these blocks decides if the command runs.
        """
        defined = decided = False
        while words and (words[0] in _LEADING | _BEGINS | _FINISHES or _is_pattern(words[0])):
            defined = defined or words[0] == "function" or words[0].endswith("()")
            if words[0] in _NAMED:
                # followed by its name or by the value that it tests
                del words[1 : 1 + _NAMED[words[0]]]
            if words[0] == "{" and defined:
                self.functions.append(self.depth)
            self.depth = max(0, self.depth + (words[0] in _BEGINS) - (words[0] in _FINISHES))
            self.functions = [begin for begin in self.functions if begin < self.depth]
            decided = decided or self.depth > 0
            words.pop(0)
            while words and words[0].startswith("-"):
                # declare -a, local -r
                words.pop(0)
        return decided

    def _assign(self, name: str, value: str, how: str, decided: bool) -> None:
        """Assign a variable; a value that depends on a condition is unknown, unless it is the same in both cases."""
        if how == "?" and name in self.known:
            return
        readable = not any(mark in value for mark in self.opaque)
        value = self._filled(value) if readable else f"${name}"
        if how == "+":
            value = f"{self.known.get(name, '')}{value}".strip()
        same = self.known.get(name, value) == value
        self.known[name] = value if same or not decided else f"${name}"

    def _expanded(self, word: str) -> list[str]:
        """A word with its variables expanded; a variable on its own may expand to several words."""
        made = self._filled(word)
        if made == word or word in self.opaque or not VARIABLE.fullmatch(word):
            return [made]
        with suppress(ValueError):
            return shlex.split(made)
        # an unclosed quotation mark
        return [made]

    def _visible(self) -> dict[str, str]:
        """The visible variables: inside a function its own parameters hide the script's."""
        if not self.functions:
            return self.known
        return {**self.known, **{name: f"${name}" for name in map(str, (*range(1, 10), "@", "*"))}}

    def _filled(self, word: str) -> str:
        return filled(word, self._visible())


def _shielded(line: str) -> str:
    """A line with escaped dollar signs replaced by a placeholder, without backslashes that ``shlex`` would keep."""
    made, quotation, at = list[str](), "", 0
    while at < len(line):
        sign, following = line[at], line[at + 1 : at + 2]
        if sign == "\\" and quotation != "'" and following:
            # in double quotation marks a backslash is literal, except before these characters
            made.append({"$": _SHIELD, "`": "`" if quotation else "\\`"}.get(following, sign + following))
            at += 2
            continue
        if sign in "'\"" and quotation in ("", sign):
            quotation = "" if quotation else sign
        if sign == "$" and quotation != "'" and (ended := _ENDED_NAME.match(line, at)):
            # without the braces the name would absorb the next characters
            made.append(f"${{{ended[1]}}}")
            at = ended.end()
            continue
        made.append(sign)
        at += 1
    return "".join(made)


def _unshielded(text: str) -> str:
    return text.replace(_SHIELD, "$")


def _words(line: str, number: int) -> list[str]:
    line = line if _WINDOWS.search(line) else _shielded(line)
    reader = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
    reader.whitespace_split = True
    reader.commenters = ""
    if _WINDOWS.search(line):
        # in Windows paths a backslash is a separator
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
    """The commands of a line without redirections, each with whether another command decides if it runs."""
    current: list[str] = []
    decided = False
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not _ENDS.fullmatch(word):
            current.append(word)
        elif "<" in word or ">" in word:
            if current and current[-1].isdecimal():
                # the number of the redirected stream
                current.pop()
            del rest[:1]
        else:
            yield current, decided
            current, decided = [], word in ("&&", "||")
    yield current, decided
