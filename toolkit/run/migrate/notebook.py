"""Jupyter notebooks: their Python, and the commands of the shell in it."""

from __future__ import annotations

import re

from toolkit.base.errors import QtoolError
from toolkit.base.reading import FileKind, parse_json

_KIND = FileKind("this is not a notebook of Jupyter", QtoolError, "export it as a script")
_CELL = ("%%bash", "%%sh", "%%cmd")
"""What makes a whole cell one of the shell."""
_ONE = re.compile(r"\s*(?:\w+\s*=\s*)?!")
"""What makes a line one, whether its output is kept or not."""


def notebook_code(text: str, where: str) -> tuple[str, str]:
    """The Python of a notebook's cells and its commands of the shell, each on the line that it has among all cells.

    Args:
        text: the file.
        where: its name, for messages.

    Raises:
        QtoolError: it is no notebook.
    """
    found = parse_json(text, where, _KIND)
    cells = found.get("cells") if isinstance(found, dict) else None
    if not isinstance(cells, list):
        raise _KIND.fault(where, "it has no cells")
    python: list[str] = []
    shell: list[str] = []
    for cell in cells:
        source = cell.get("source", "") if isinstance(cell, dict) and cell.get("cell_type") == "code" else ""
        lines = ("".join(map(str, source)) if isinstance(source, list) else str(source)).splitlines()
        whole, goes_on = bool(lines) and lines[0].startswith(_CELL), False
        for line in lines:
            of_shell = goes_on or whole or _ONE.match(line) is not None
            goes_on = of_shell and line.rstrip().endswith("\\")
            magic = of_shell or line.lstrip().startswith("%")
            # a line that is left out keeps its number, and a block that has no other its body
            python.append(line[: len(line) - len(line.lstrip())] + "pass" if magic else line)
            shell.append(_own(line) if of_shell and not line.startswith("%%") else "")
    return "\n".join(python), "\n".join(shell)


def _own(line: str) -> str:
    """A line of the shell without what stands in front of it in a notebook."""
    mark = _ONE.match(line)
    return line[mark.end() :] if mark is not None else line.lstrip()
