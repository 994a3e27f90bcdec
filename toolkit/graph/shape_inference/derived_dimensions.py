"""Dimensions with an expression of other names as name: exporters write ``past_length + length`` or ``2*s0``."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass

from toolkit.graph.shape_inference.dimensions import Dims, places

_OPERATORS = re.compile(r"\s*(//|[-+*/()])\s*")
_OTHER_PIECE = re.compile(r"//|[-+*/()]|[0-9]+")
_LONGEST = 200
"""Characters of a name; a longer name is not considered an expression."""


@dataclass(frozen=True)
class DerivedDimension:
    """A dimension whose size is defined by its name.

    Attributes:
        name: the dimension's name.
        parts: the dimensions that it is computed from.
        formula: the name as an expression of ``v0``, ``v1``, ..., one variable for each of ``parts``.
    """

    name: str
    parts: tuple[str, ...]
    formula: ast.expr

    def size(self, sizes: Mapping[str, int]) -> int | None:
        """Its size for given sizes of the others; None if that is not an integer, or negative."""
        known = {f"v{index}": sizes[part] for index, part in enumerate(self.parts)}
        found = _computed(self.formula, known)
        return found if found is not None and found >= 0 else None


def derived_dimensions(shapes: Mapping[str, Dims]) -> dict[str, DerivedDimension]:
    """The dimensions of inputs that can be computed from other dimensions, by name.

    Args:
        shapes: the declared dimensions of each input.
    """
    known = places(shapes)
    found = {name: _derived(name, known) for name in known}
    return {name: one for name, one in found.items() if one is not None}


def _derived(name: str, known: Mapping[str, object]) -> DerivedDimension | None:
    pieces = [piece for piece in _OPERATORS.split(name) if piece] if len(name) <= _LONGEST else []
    parts = tuple(dict.fromkeys(piece for piece in pieces if piece in known))
    complete = all(piece in known or _OTHER_PIECE.fullmatch(piece) for piece in pieces)
    if len(pieces) < 2 or not parts or not complete or name in parts:
        return None
    words = (f"v{parts.index(piece)}" if piece in parts else piece for piece in pieces)
    try:
        formula = ast.parse(" ".join(words), mode="eval").body
    except SyntaxError:
        return None
    return DerivedDimension(name, parts, formula) if _is_formula(formula, len(parts)) else None


def _is_formula(node: ast.expr, parts: int) -> bool:
    if isinstance(node, ast.BinOp):
        operators = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv)
        return isinstance(node.op, operators) and _is_formula(node.left, parts) and _is_formula(node.right, parts)
    if isinstance(node, ast.Name):
        return node.id in {f"v{index}" for index in range(parts)}
    return isinstance(node, ast.Constant) and type(node.value) is int


def _computed(node: ast.expr, known: Mapping[str, int]) -> int | None:
    if isinstance(node, ast.Name):
        return known[node.id]
    if isinstance(node, ast.Constant):
        return int(node.value)  # type: ignore[arg-type]
    assert isinstance(node, ast.BinOp)
    left, right = _computed(node.left, known), _computed(node.right, known)
    if left is None or right is None:
        return None
    if isinstance(node.op, (ast.Div, ast.FloorDiv)):
        whole = right != 0 and (isinstance(node.op, ast.FloorDiv) or left % right == 0)
        return left // right if whole else None
    return {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}[type(node.op)]
