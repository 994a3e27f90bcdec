"""Commands written as lists: Docker's ENTRYPOINT and CMD, and the equivalents in compose files and pods."""

from __future__ import annotations

import json
import re

_LISTED = re.compile(
    r"\s*(?:-\s+)?(?:(ENTRYPOINT|CMD|RUN)\s|(entrypoint|command|args)\s*:)\s*\[(.*)\]\s*(?:#.*)?", re.DOTALL
)
_WORD = re.compile(r"""\s*(?:'((?:[^']|'')*)'|"((?:[^"\\]|\\.)*)"|([^\s,'"][^,]*))\s*(?:,|$)""")
"""A word in a YAML list, with either kind of quotation marks or none."""
_OPENS = re.compile(r"(\s*(?:-\s+)?)(entrypoint|command|args)\s*:\s*")
"""The key above a list with one word per line."""
_ITEM = re.compile(r"(\s*)-\s+(.*?)\s*", re.DOTALL)
_QUOTED = re.compile(r"""'((?:[^']|'')*)'|"((?:[^"\\]|\\.)*)\"""", re.DOTALL)
_BLOCK = re.compile(r"[|>][+-]?\d*")
"""The start of a multi-line string."""
_BEGINS = re.compile(r"\s*(?:-\s+)?(?:FROM\s|(?:image|name)\s*:)", re.IGNORECASE)
_ORDER = ("entrypoint", "command", "cmd", "args")
"""The parts of a container's command, in the order in which they are joined."""


class ExecForms:
    """Collects the parts of a container's command, which may span several lines."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[int, list[str]]] = {}
        self._below: tuple[str, int] | None = None
        """The part whose words follow, one per line, and the indentation of its name."""
        self._text: int | None = None
        """The indentation of the dash before a multi-line string."""

    def read(self, number: int, line: str) -> tuple[bool, list[tuple[int, list[str]]]]:
        """Read a line.

        Returns:
            Whether the line belongs to a command, and the commands that it completes, each with its line.
        """
        if self._item(line):
            return True, []
        found, opens = _LISTED.fullmatch(line), _OPENS.fullmatch(line)
        if opens is not None:
            done = self.ended() if opens[2] in self._parts else []
            self._below = (opens[2], len(opens[1]))
            self._parts[opens[2]] = (number, [])
            return True, done
        if found is None:
            return False, self.ended() if _BEGINS.match(line) else []
        words = _listed(found[3])
        if found[1] == "RUN":
            return True, [(number, words)]
        part = (found[1] or found[2]).lower()
        # for an image the last ENTRYPOINT and CMD apply; a file of services has those of several containers
        done = self.ended() if found[2] and part in self._parts else []
        self._parts[part] = (number, words)
        return True, done

    def _item(self, line: str) -> bool:
        """Read a line as a word of the open list, or as part of its last word; returns whether it is one."""
        if self._below is None:
            return False
        part, indent = self._below
        words = self._parts[part][1]
        depth = len(line) - len(line.lstrip())
        if self._text is not None and (not line.strip() or depth > self._text):
            words[-1] += f"{line.strip()}\n"
            return True
        self._text = None
        found = _ITEM.fullmatch(line)
        if not line.strip() or line.lstrip().startswith("#"):
            return True
        if found is None or depth < indent or _BEGINS.match(line):
            self._below = None
            return False
        word = found[2]
        if _BLOCK.fullmatch(word):
            self._text = depth
            words.append("")
        else:
            words.append(_scalar(word))
        return True

    def ended(self) -> list[tuple[int, list[str]]]:
        """The command of the container that ends here."""
        parts = [self._parts[name] for name in _ORDER if name in self._parts]
        self._parts, self._below, self._text = {}, None, None
        parts = [(at, words) for at, words in parts if words]
        return [(parts[0][0], [word for _, words in parts for word in words])] if parts else []


def _scalar(text: str) -> str:
    """The value of a YAML scalar."""
    quoted = _QUOTED.fullmatch(text)
    if quoted is None:
        return text
    return quoted[1].replace("''", "'") if quoted[1] is not None else re.sub(r"\\(.)", r"\1", quoted[2])


def _listed(text: str) -> list[str]:
    """The words of a list in JSON or YAML on one line."""
    try:
        found = json.loads(f"[{text}]")
    except ValueError:
        found = [(one[1] or "").replace("''", "'") or one[2] or (one[3] or "").rstrip() for one in _WORD.finditer(text)]
    return [str(one) for one in found]
