"""Commands written as lists: Docker's ENTRYPOINT and CMD, and their like in compose files and pods."""

from __future__ import annotations

import json
import re

_LISTED = re.compile(
    r"\s*(?:-\s+)?(?:(ENTRYPOINT|CMD|RUN)\s|(entrypoint|command|args)\s*:)\s*\[(.*)\]\s*(?:#.*)?", re.DOTALL
)
_WORD = re.compile(r"""\s*(?:'((?:[^']|'')*)'|"((?:[^"\\]|\\.)*)"|([^\s,'"][^,]*))\s*(?:,|$)""")
"""A word of a list of YAML's: in quotation marks of either kind, or in none."""
_BEGINS = re.compile(r"\s*(?:-\s+)?(?:FROM\s|(?:image|name)\s*:)", re.IGNORECASE)
_ORDER = ("entrypoint", "command", "cmd", "args")
"""What a container runs, in the order in which its parts are joined."""


class ExecForms:
    """Collects the parts of what a container runs, which may lie on several lines."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[int, list[str]]] = {}

    def read(self, number: int, line: str) -> tuple[bool, list[tuple[int, list[str]]]]:
        """Take in a line.

        Returns:
            Whether the line is a part, and the commands that it ends, each with its line.
        """
        found = _LISTED.fullmatch(line)
        if found is None:
            return False, self.ended() if _BEGINS.match(line) else []
        words = _listed(found[3])
        if found[1] == "RUN":
            return True, [(number, words)]
        part = (found[1] or found[2]).lower()
        # the last ENTRYPOINT and CMD of an image count; a file of services has those of many containers
        done = self.ended() if found[2] and part in self._parts else []
        self._parts[part] = (number, words)
        return True, done

    def ended(self) -> list[tuple[int, list[str]]]:
        """The command of the container that ends here."""
        parts = [self._parts[name] for name in _ORDER if name in self._parts]
        self._parts = {}
        return [(parts[0][0], [word for _, words in parts for word in words])] if parts else []


def _listed(text: str) -> list[str]:
    """The words of a list as JSON or YAML write it on one line."""
    try:
        found = json.loads(f"[{text}]")
    except ValueError:
        found = [(one[1] or "").replace("''", "'") or one[2] or (one[3] or "").rstrip() for one in _WORD.finditer(text)]
    return [str(one) for one in found]
