"""The report's suggestions, with recipe fragments to paste."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.base.text import literal_glob, toml_string
from toolkit.contract.findings import Finding
from toolkit.contract.registry import pass_name
from toolkit.contract.roles import Role


@dataclass(frozen=True)
class Advice:
    """A suggestion of what to try next.

    Attributes:
        finding: the advice, with the figures that support it.
        fragment: a recipe fragment to paste; may be empty.
    """

    finding: Finding
    fragment: str = ""


def keep_fragment(nodes: Sequence[str], precision: str, reason: str = "") -> str:
    """A recipe fragment that keeps ``nodes`` in ``precision``; names are TOML strings with escaped glob characters."""
    listed = "".join(f"    {toml_string(literal_glob(node))},\n" for node in nodes)
    text = f'[[pass]]\nuse = "{pass_name(Role.KEEP)}"\nprecision = "{precision}"\nnodes = [\n{listed}]\n'
    return text + (f"reason = {toml_string(reason)}\n" if reason else "")
