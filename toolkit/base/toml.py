"""Parsing TOML of any origin."""

from __future__ import annotations

import re
import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["parse_toml", "tomllib"]
_PARTS = 100
_WORD = re.compile(
    r"""(?: \#[^\n]*                                        # a comment
          | \"{3}(?:[^"\\]|\\[\s\S]|"(?!""))*(?:\"{3})?     # strings of several lines
          | '{3}(?:[^']|'(?!''))*(?:'{3})?
          | "(?:[^"\\\n]|\\.)*"? | '[^'\n]*'?               # strings, which may be parts of a key
          | [^\s.=\[\]{},"'\#]+ )
        [ \t]*(\.?)[ \t]*""",
    re.VERBOSE,
)
"""A word of TOML, and the dot after it if it is a part of a key that goes on."""


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML like ``tomllib.loads``, whose time and memory grow with the square of the parts of a dotted key.

    Raises:
        ValueError: it is not TOML, or has a key of over 100 parts.
        RecursionError: it is nested too deep.
    """
    if text.count(".") > _PARTS:
        parts = 0
        for word in _WORD.finditer(text):
            parts = parts + 1 if word[1] else 0
            if parts > _PARTS:
                raise ValueError(f"a key in it has more than {_PARTS} parts")
    return tomllib.loads(text)
