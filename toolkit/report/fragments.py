"""Pieces of recipe that the report suggests."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.base.text import literal_glob, toml_string


def keep_fragment(nodes: Sequence[str], precision: str) -> str:
    """A piece of recipe that keeps ``nodes`` in ``precision``; names are TOML strings, their globs made literal."""
    listed = "".join(f"    {toml_string(literal_glob(node))},\n" for node in nodes)
    return f'[[pass]]\nuse = "keep_precision"\nprecision = "{precision}"\nnodes = [\n{listed}]\n'
