"""The words of a command that judges a model, with the model's path in the place of ``{model}``."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from toolkit.base.errors import QtoolError

_KNOWN = {"model": "the path of the ONNX model"}
"""The names that a command may have in braces, and what they stand for."""
_BRACES = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|(?<!\$)\{([A-Za-z_]\w*)\}")
"""A name in doubled braces, which stand for single ones, and a name in braces that is no variable of a shell's."""


def refuse_unknown_names(command: str) -> None:
    """Refuse a command with a name in braces that stands for nothing.

    Raises:
        QtoolError: there is one; the message names those that there are.
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
    """The words to run, with the model's path where the command has it, else behind them.

    Args:
        command: as a shell would read it; see ``refuse_unknown_names``.
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
