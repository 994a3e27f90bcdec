"""Jupyter notebooks as Python: IPython's syntax extensions are replaced by the calls that IPython makes for them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from toolkit.base.errors import QtoolError
from toolkit.base.reading import FileKind, parse_json

SYSTEM, OUTPUT = "get_ipython().system", "get_ipython().getoutput"
"""The functions that IPython calls for ``!command`` and ``said = !command``."""
_KIND = FileKind("this is not a notebook of Jupyter", QtoolError, "export it as a script")
_SHELL = re.compile(r"%%(?:bash|sh|cmd|script\s+(?:ba)?sh|writefile\s.*\.(?:sh|bat))\b")
"""The first line of a shell cell."""
_PYTHON = re.compile(r"%%(?:time|timeit|capture|prun|python3?|pypy|writefile\s.*\.py)\b")
"""The first line of a cell that remains Python."""
_ONE = re.compile(r"(\s*)(?:(\w+)\s*=\s*)?(?:!!?|%(?:system|sx)\s)(.*)", re.DOTALL)
"""A shell line, with or without assignment of its output."""
_MAGIC = re.compile(r"\s*(?:[\w.\[\]]+\s*=\s*)?%{1,2}[A-Za-z]|\s*\?{0,2}[\w.*]+\?{1,2}\s*$|\s*\?{1,2}[\w.*]+\s*$")
"""Other IPython syntax: a magic, or a request for help."""
_FILLED = re.compile(r"\{([^{}]*)\}|\$([A-Za-z_]\w*)")
_GIVEN = re.compile(r"^\s*([A-Za-z_]\w*)\s*(?::[^=]+)?=(?!=)", re.MULTILINE)


def notebook_code(text: str, where: str) -> str:
    """The Python code of a notebook's cells; line numbers count over all cells.

    Args:
        text: the file.
        where: its name, for messages.

    Raises:
        QtoolError: it is not a notebook.
    """
    found = parse_json(text, where, _KIND)
    cells = found.get("cells") if isinstance(found, dict) else None
    if not isinstance(cells, list):
        raise _KIND.fault(where, "it has no cells")
    sources = [
        "".join(map(str, source)) if isinstance(source := cell.get("source", ""), list) else str(source)
        for cell in cells
        if isinstance(cell, dict) and cell.get("cell_type") == "code"
    ]
    given = {name for source in sources for name in _GIVEN.findall(source)}
    return "\n".join(line for source in sources for line in _python(source.splitlines(), given))


def _python(lines: list[str], given: set[str]) -> Iterator[str]:
    """A cell's lines as Python; lines that are left out are replaced by ``pass`` to keep line numbers and blocks."""
    first = lines[0].strip() if lines else ""
    if _SHELL.match(first):
        script = "\n".join(["", *lines[1:]])
        yield f"{SYSTEM}({script!r})"
        yield from ["pass"] * (len(lines) - 1)
        return
    if first.startswith("%%") and not _PYTHON.match(first):
        yield from ["pass"] * len(lines)
        return
    rest = list(lines)
    while rest:
        line, begin = rest.pop(0), len(rest)
        one = _ONE.fullmatch(line)
        while one is not None and line.endswith("\\") and rest:
            line = f"{line}\n{rest.pop(0)}"
        indent = line[: len(line) - len(line.lstrip())]
        if one is not None:
            command = f"{OUTPUT if one[2] else SYSTEM}({_text(line[one.start(3) :], given)})"
            yield f"{indent}{one[2]} = {command}" if one[2] else f"{indent}{command}"
        else:
            yield f"{indent}pass" if _MAGIC.match(line) else line
        yield from [f"{indent}pass"] * (begin - len(rest))


def _text(command: str, given: set[str]) -> str:
    """A command as a Python expression, with the values that IPython inserts: ``{name}`` and ``$name``."""
    parts, at = [], 0
    for found in _FILLED.finditer(command):
        if not _names(found[1] or found[2]) & given:
            continue
        parts += [repr(command[at : found.start()]), f"str({found[1] or found[2]})"]
        at = found.end()
    return " + ".join([*parts, repr(command[at:])])


def _names(text: str) -> set[str]:
    """The names in an expression; empty if the text is not an expression."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
