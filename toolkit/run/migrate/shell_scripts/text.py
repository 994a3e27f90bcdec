"""Lines of a shell script, joined as the shell does, with substitutions, comments and here-documents in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_LONGEST, _FARTHEST, _DEEPEST, _TRIES = 1 << 16, 500, 50, 200
"""Limits: characters and lines searched for a closing mark, nested brackets, and unclosed marks."""
_FRESH = frozenset(" \t\n=(:;|&,{[")
"""Characters before a quotation; an apostrophe within a word does not open one."""
_OPEN_ARRAY = re.compile(r"(?:^|[\s;])[A-Za-z_]\w*\+?=\([^()]*$")
_COMMENT = re.compile(r"\s*(?:@?rem\b|::|#(?!!))", re.IGNORECASE)
_DOCUMENT = re.compile(r"<<(-?)\s*(?:'([^'\n]+)'|\"([^\"\n]+)\"|\\?([A-Za-z_]\w*))")


@dataclass(frozen=True)
class Inner:
    """A substitution in a line, whose commands the shell runs first: ``$(...)``, ``<(...)`` or one in backquotes.

    Attributes:
        begin: the position of its opening mark.
        end: the position after its closing mark.
        text: the text between the marks.
    """

    begin: int
    end: int
    text: str


@dataclass(frozen=True)
class Document:
    """A here-document.

    Attributes:
        number: the line on which it begins.
        text: its content.
    """

    number: int
    text: str


@dataclass
class Line:
    """A line of a script as the shell reads it: continued until its quotations and brackets are closed.

    Attributes:
        number: the line of the script on which it begins.
        text: the line, without its comments.
        inner: its substitutions, from left to right.
        documents: the here-documents after it.
    """

    number: int
    text: str
    inner: list[Inner] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)


def lines_of(text: str, escapes: bool = True) -> Iterator[Line]:
    """The lines of a script; a quotation or bracket that is never closed ends with its own line.

    Args:
        text: the script.
        escapes: whether a backslash escapes the next character, as it does outside Windows.
    """
    lines, start = text.splitlines(), 0
    while start < len(lines):
        end, line, scan = _joined(lines, start, escapes)
        for begin, past in scan.comments:
            line = line[:begin] + " " * (past - begin) + line[past:]
        found = Line(start + 1, line, scan.inner)
        for word, indented in scan.documents:
            shown = [one.lstrip("\t") if indented else one for one in lines[end : end + _FARTHEST]]
            if word in shown:
                length = shown.index(word)
                found.documents.append(Document(end + 1, "\n".join(shown[:length])))
                end += length + 1
        yield found
        start = end


def _joined(lines: list[str], start: int, escapes: bool) -> tuple[int, str, _Scan]:
    """The line that begins at ``start`` joined with its continuation lines, and the start of the next one."""
    pending, alone = "", None
    for end in range(start, min(len(lines), start + _FARTHEST)):
        line = lines[end]
        if _continues(line.rstrip(), escapes) or (line.rstrip().endswith("`") and line.count("`") % 2):
            pending += line.rstrip()[:-1] + " "
            continue
        if _COMMENT.match(pending + line):
            return end + 1, pending + line, _Scan()
        if _OPEN_ARRAY.search(pending + line):
            alone = alone or (end + 1, pending + line)
            # an array continues until its bracket is closed
            pending += line.partition(" #")[0] + " "
            continue
        scan = _scan(pending + line, escapes)
        if scan.complete or len(pending) > _LONGEST:
            return end + 1, pending + line, scan
        alone = alone or (end + 1, pending + line)
        pending += line + "\n"
    end, text = alone or (min(len(lines), start + _FARTHEST), pending)
    return end, text, _scan(text, escapes)


def _continues(line: str, escapes: bool) -> bool:
    """Whether a line's last character continues it on the next line; an escaped backslash does not."""
    backslashes = len(line) - len(line.rstrip("\\"))
    return line.endswith("^") or (backslashes % 2 == 1 if escapes else backslashes > 0)


@dataclass
class _Scan:
    complete: bool = True
    inner: list[Inner] = field(default_factory=list)
    comments: list[tuple[int, int]] = field(default_factory=list)
    documents: list[tuple[str, bool]] = field(default_factory=list)


def _scan(line: str, escapes: bool) -> _Scan:
    found, at, tries = _Scan(), 0, 0
    while at < len(line) and tries < _TRIES:
        char, past = line[at], 0
        fresh = at == 0 or line[at - 1] in _FRESH
        if char == "\\" and escapes:
            at += 2
            continue
        if char == "#" and fresh:
            end = _end_of_comment(line, at)
            found.comments.append((at, end))
            at = end
            continue
        if char in "'\"":
            past = _past(line, at + 1, char)
            if past > 0 and char == '"':
                found.inner += _inside(line, at + 1, past - 1)
        elif mark := _mark(line, at):
            past = _past(line, at + len(mark), ")" if mark.endswith("(") else mark)
            if past > 0:
                found.inner.append(Inner(at, past, line[at + len(mark) : past - 1]))
        elif char == "<" and (document := _DOCUMENT.match(line, at)) and not line.startswith("<<<", at):
            found.documents.append((next(filter(None, document.groups()[1:])), bool(document[1])))
            past = document.end()
        if past < 0:
            # a mark in the middle of a word is an apostrophe
            tries += 1
            found.complete = found.complete and not (fresh or char == "$")
        at = past if past > 0 else at + 1
    return found


def _mark(line: str, at: int) -> str:
    """The mark at this position that begins a substitution; empty if there is none."""
    return next((mark for mark in ("$(", "<(", ">(", "`") if line.startswith(mark, at)), "")


def _inside(line: str, begin: int, end: int) -> Iterator[Inner]:
    """The substitutions inside a quotation."""
    while begin < end:
        mark = _mark(line, begin) if line[begin] in "$`" else ""
        if line[begin] == "\\":
            begin += 2
            continue
        past = _past(line, begin + len(mark), ")" if mark == "$(" else mark) if mark else 0
        if past > 0:
            yield Inner(begin, past, line[begin + len(mark) : past - 1])
        begin = max(past, begin + 1)


def _end_of_comment(line: str, at: int) -> int:
    end = line.find("\n", at)
    return end if end >= 0 else len(line)


def _past(line: str, at: int, closer: str, depth: int = 0) -> int:
    """The position after the closing mark; -1 if nothing closes it."""
    if depth > _DEEPEST:
        return -1
    if closer == "'":
        return line.find("'", at) + 1 or -1
    while 0 <= at < len(line):
        char = line[at]
        if char == "\\":
            at += 2
        elif char == closer:
            return at + 1
        elif line.startswith("$(", at):
            at = _past(line, at + 2, ")", depth + 1)
        elif closer in '"`':
            at += 1
        elif char == "#" and line[at - 1] in _FRESH:
            at = _end_of_comment(line, at)
        elif char in "'\"`(":
            at = _past(line, at + 1, ")" if char == "(" else char, depth + 1)
        else:
            at += 1
    return -1
