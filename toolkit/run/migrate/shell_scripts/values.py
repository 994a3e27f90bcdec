"""Values of variables and substitutions of a shell script, as far as the script determines them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

_LONGEST = 1 << 16
VARIABLE = re.compile(
    r"\$(?:\{([A-Za-z_]\w*|[0-9]+|[@*])(?:\[[@*0-9]\])?(?:(:?[-=?+]|%%?|##?)([^{}]*))?\}"
    r"|\(([A-Za-z_]\w*)\)|(?:env:)?([A-Za-z_]\w*|[0-9@*]))|%([A-Za-z_]\w*)%"
)
"""A variable of a shell, a Makefile, PowerShell or a batch file, possibly with a parameter expansion."""
OF_THE_SCRIPT: Mapping[str, str] = {"PWD": ".", "CURDIR": ".", "0": "./script", "BASH_SOURCE": "./script"}
"""Variables with the script's working directory and path, to which relative paths refer."""


def filled(word: str, known: Mapping[str, str]) -> str:
    """Expand the variables in a word; unknown ones stay as they are written.

    Args:
        known: values of variables and positional parameters by name; a value with its own name means several values.
    """
    made = VARIABLE.sub(lambda found: _worth(found, known), word)
    # variables that contain variables may double in length with every line
    return made if len(made) <= _LONGEST else word


def _worth(found: re.Match[str], known: Mapping[str, str]) -> str:
    braced, how, more, *others = found.groups()
    name = next(filter(None, (braced, *others)))
    value = known.get(name)
    if value is not None and value.startswith(f"${name}"):
        return found[0] if how else value
    if how is None:
        return found[0] if value is None else value
    if how in ("-", "=", ":-", ":="):
        # a script's arguments are known, so a missing one has its default
        return str(value) if value or (value is not None and ":" not in how) else filled(more, known)
    if value is None:
        return found[0]
    if how.strip(":") in "?+":
        return filled(more, known) if "+" in how else value
    return _cut(value, how, filled(more, known))


def _cut(value: str, how: str, pattern: str) -> str:
    """``${x%pattern}`` and similar: a value without its shortest or longest matching prefix or suffix."""
    lengths = range(len(value) + 1) if len(how) == 1 else range(len(value), -1, -1)
    for length in lengths:
        cut = length if how[0] == "#" else len(value) - length
        part, rest = (value[:cut], value[cut:]) if how[0] == "#" else (value[cut:], value[:cut])
        if fnmatchcase(part, pattern):
            return rest
    return value


def printed(commands: Sequence[Sequence[str]]) -> str | None:
    """The output of a substitution's commands if it is a path that the script determines; else None."""
    folder, said = ".", None
    for words in commands:
        name, rest = (words[0], [word for word in words[1:] if not word.startswith("-")]) if words else ("", [])
        if name == "cd" and len(rest) == 1:
            folder = posixpath.normpath(posixpath.join(folder, rest[0]))
        elif name == "pwd":
            said = folder
        elif name in _PRINTERS and rest:
            said = _PRINTERS[name](*rest[:2])
        elif name:
            return None
    return said


_PRINTERS: Mapping[str, Callable[..., str]] = {
    "dirname": lambda path, *_: posixpath.dirname(path) or ".",
    "basename": lambda path, end="": posixpath.basename(path).removesuffix(end),
    "realpath": lambda path, *_: path,
    "readlink": lambda path, *_: path,
}
