"""The conditions under which a script calls its own functions."""

from __future__ import annotations

import ast

from toolkit.run.migrate.python_scripts.bindings import Function
from toolkit.run.migrate.python_scripts.static_values import StaticValues

Test = tuple[ast.expr, bool]
"""A condition, and whether it holds at that place."""


class CallSites(ast.NodeVisitor):
    """The calls of a script's own functions, each with its enclosing conditions.

    Args:
        static: determines which function is called.
    """

    def __init__(self, tree: ast.Module, static: StaticValues) -> None:
        self._static = static
        self._inside: Function | None = None
        self._tests: list[Test] = []
        self._calls: dict[Function, list[tuple[Function | None, list[Test]]]] = {}
        self.visit(tree)

    def conditions(self, function: Function) -> list[Test]:
        """The conditions for a call of a function, the outermost first; empty if it is called in several places."""
        found: list[Test] = []
        seen: set[Function] = set()
        at: Function | None = function
        while at is not None and at not in seen and len(self._calls.get(at, ())) == 1:
            seen.add(at)
            at, tests = self._calls[at][0]
            found = [*tests, *found]
        return found

    def visit_FunctionDef(self, node: Function) -> None:
        """Visit a function's body, which runs when it is called."""
        outer = self._inside, self._tests
        self._inside, self._tests = node, []
        self.generic_visit(node)
        self._inside, self._tests = outer

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        """Visit both branches, each under its condition."""
        self.visit(node.test)
        for branch, holds in ((node.body, True), (node.orelse, False)):
            self._tests.append((node.test, holds))
            for one in branch:
                self.visit(one)
            self._tests.pop()

    def visit_Call(self, node: ast.Call) -> None:
        """Record a call of one of the script's own functions."""
        called = self._static.names.called(node)
        if called is not None:
            self._calls.setdefault(called, []).append((self._inside, list(self._tests)))
        self.generic_visit(node)
