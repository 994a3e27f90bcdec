"""Commands that a Python script puts together bit by bit: ``command += [...]``, ``command.append(...)``."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

from toolkit.contract.findings import Finding
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.migrate.static import UNKNOWN, Static

Test = tuple[ast.expr, bool]
"""A condition, and whether it holds."""
_MORE = frozenset({"append", "extend", "insert"})
_SAME = frozenset({"list", "tuple", "shlex.split", "shlex.join"})
"""Functions that give the words of their argument in another form."""


@dataclass(frozen=True)
class Piece:
    """A part of a command.

    Attributes:
        value: its words, or a text; what is not known of it stands there as it is written, in braces.
        tests: under which conditions it is added.
        node: what adds it.
    """

    value: list[str] | str
    tests: tuple[Test, ...]
    node: ast.AST


@dataclass
class PutTogether:
    """A whole command.

    Attributes:
        value: its words, or a text.
        only: by word under which condition alone it is there, where that is not known.
        left_out: the pieces that are not added, with the condition that does not hold.
    """

    value: list[str] | str
    only: dict[str, Finding] = field(default_factory=dict)
    left_out: list[tuple[Piece, ast.expr]] = field(default_factory=list)


class Pieces:
    """What a script's variables hold at the place that a reader is at, as far as it is a list of words or a text.

    Args:
        static: what the script's names are worth.
    """

    def __init__(self, static: Static) -> None:
        self._static = static
        self.held: dict[str, list[Piece]] = {}

    def assigned(self, target: ast.expr, value: ast.expr, tests: Sequence[Test]) -> None:
        """Take in ``target = value``; one of several values that a condition decides on is not known."""
        name = ast.unparse(target)
        if any(self._holds(test) is False for test in tests):
            return
        made = self.of(value, tests)
        undecided = name in self.held and any(self._holds(test) is None for test in tests)
        if made is None or undecided:
            self.held.pop(name, None)
        else:
            self.held[name] = made

    def added(self, target: ast.expr, value: ast.expr, tests: Sequence[Test]) -> None:
        """Take in ``target += value``."""
        name = ast.unparse(target)
        if name not in self.held:
            return
        more = self.of(value, tests)
        if more is None:
            del self.held[name]
        else:
            self.held[name] = [*self.held[name], *more]

    def called(self, call: ast.Call, tests: Sequence[Test]) -> None:
        """Take in ``command.append(word)`` and its like."""
        if isinstance(call.func, ast.Attribute) and call.func.attr in _MORE and call.args:
            value = call.args[-1]
            one = value if call.func.attr == "extend" else ast.copy_location(ast.List([value], ast.Load()), value)
            self.added(call.func.value, one, tests)

    def of(self, node: ast.expr, tests: Sequence[Test] = ()) -> list[Piece] | None:
        """The pieces of an expression; None where it is neither a text nor a list."""
        known = self.held.get(ast.unparse(node))
        if known is not None:
            return known
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            parts = [self.of(one, tests) for one in (node.left, node.right)]
            if None not in parts:
                return [piece for part in parts for piece in part or ()]
        if isinstance(node, ast.Call) and ast.unparse(node.func) in _SAME:
            return self.of(node.args[0], tests) if len(node.args) == 1 else None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("copy", "split") and not node.args:
                return self.of(node.func.value, tests)
            if node.func.attr == "join" and len(node.args) == 1 and self._static.value(node.func.value) == " ":
                return self.of(node.args[0], tests)
        if isinstance(node, (ast.List, ast.Tuple)) and any(isinstance(one, ast.Starred) for one in node.elts):
            parts = [self.of(one, tests) for one in _grouped(node)]
            return None if None in parts else [piece for part in parts for piece in part or ()]
        if isinstance(node, ast.JoinedStr) and any(self._is_held(one) for one in node.values):
            parts = [self.of(one.value if self._is_held(one) else ast.JoinedStr([one]), tests) for one in node.values]
            return None if None in parts else [piece for part in parts for piece in part or ()]
        value = self._static.spelled(node)
        if isinstance(value, list):
            return [Piece([str(one) for one in value], tuple(tests), node)]
        return [Piece(str(value), tuple(tests), node)] if type(value) is str else None

    def command(self, node: ast.expr, tests: Sequence[Test]) -> PutTogether | None:
        """What an expression is at a place that is reached under some conditions; None where that is not known."""
        pieces = self.of(node)
        if not pieces or len({type(piece.value) for piece in pieces}) > 1:
            return None
        made = PutTogether(type(pieces[0].value)())
        for piece in pieces:
            own = [test for test in piece.tests if test not in tests]
            refused = next((test for test, holds in own if self._holds((test, holds)) is False), None)
            if refused is not None:
                made.left_out.append((piece, refused))
                continue
            open_ones = [test for test in own if self._holds(test) is None]
            made.value += piece.value  # type: ignore[operator]
            if open_ones:
                test, holds = open_ones[0]
                text, line = ast.unparse(test), getattr(piece.node, "lineno", 0)
                why = MigrateCode.ONLY_WHERE(line=line, test=text if holds else f"not ({text})")
                words = piece.value if isinstance(piece.value, list) else piece.value.split()
                made.only |= dict.fromkeys(words, why)
        return made

    def _is_held(self, node: ast.expr) -> TypeGuard[ast.FormattedValue]:
        """Whether it is a part of an f-string that writes a variable out."""
        return isinstance(node, ast.FormattedValue) and ast.unparse(node.value) in self.held

    def _holds(self, test: Test) -> bool | None:
        """Whether a condition is fulfilled; None where only a run tells it."""
        known = self._static.value(test[0])
        return None if known is UNKNOWN else bool(known) is test[1]


def _grouped(node: ast.List | ast.Tuple) -> Iterator[ast.expr]:
    """The parts of ``[a, b, *more, c]``: lists of what stands there, and what is spread."""
    plain: list[ast.expr] = []
    for one in node.elts:
        if isinstance(one, ast.Starred):
            yield ast.copy_location(ast.List(plain, ast.Load()), node)
            yield one.value
            plain = []
        else:
            plain.append(one)
    yield ast.copy_location(ast.List(plain, ast.Load()), node)
