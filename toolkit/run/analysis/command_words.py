"""The words of a command that judges a model, with ``{model}`` replaced by the model's path."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from toolkit.base.errors import QtoolError

_KNOWN = {"model": "the path of the ONNX model"}
"""The names that a command may have in braces, with their meaning."""
_BRACES = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|(?<!\$)\{([A-Za-z_]\w*)\}")
"""A name in doubled braces, which escape single ones, or a name in braces that is not a shell variable ``${name}``."""


def refuse_unknown_names(command: str) -> None:
    """Refuse a command that has an unknown name in braces.

    Raises:
        QtoolError: there is one; the message lists the known names.
    """
    known = ", ".join(f"'{{{name}}}' ({meaning})" for name, meaning in _KNOWN.items())
    for _, name in _BRACES.findall(command):
        if name and name not in _KNOWN:
            raise QtoolError(
                f"--command has '{{{name}}}', which stands for nothing",
                where=command,
                remedy=f"known: {known}; double the braces that the command itself reads: '{{{{{name}}}}}'",
            )


def command_words(command: str, model: Path) -> list[str]:
    """Split a command into words, with the model's path in place of ``{model}`` or else appended.

    Args:
        command: as a shell parses it; see ``refuse_unknown_names``.
        model: the ONNX file.
    """
    named = False

    def put(found: re.Match[str]) -> str:
        nonlocal named
        if found[1] is not None:
            return f"{{{found[1]}}}"
        named = True
        return str(model)

    words = [_BRACES.sub(put, word) for word in shlex.split(command)]
    return words if named else [*words, str(model)]
