"""Bindings of the names in a Python script: by assignments, imports, parameters and loops."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef
SAME_PATH = ("resolve", "absolute", "expanduser", "as_posix")
"""Methods of paths (strings here) whose result names the same file."""
_PATHS = ("realpath", "abspath", "expanduser", "expandvars", "normpath")
"""Functions of ``os.path`` whose result names the same file."""
CALLS: dict[str, Callable[..., Any]] = {
    "int": int, "float": float, "str": str, "tuple": tuple, "list": list, "Path": str, "pathlib.Path": str,
    **{f"os.path.{name}": str for name in _PATHS},
    "os.path.join": lambda *parts: "/".join(part.rstrip("/") for part in parts),
}  # fmt: skip
"""The functions whose result is computed if their arguments are known."""


class Bindings:
    """The expressions that each name and attribute of a script is bound to.

    Attributes:
        given: for each name, or attribute such as ``self.path``, every expression that it is bound to. Names changed by
            a loop or augmented assignment get two.
        imported: for each imported name, the module or member that it stands for.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.given: dict[str, list[ast.expr]] = {}
        self.imported: dict[str, str] = {}
        self._functions: dict[str, Function] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    self._assigned(target, node.value)
            elif isinstance(node, ast.AnnAssign) and node.value is not None:
                self._assigned(node.target, node.value)
            elif isinstance(node, ast.AugAssign):
                self._bind(ast.unparse(node.target), node.value, node.value)
            elif isinstance(node, (ast.For, ast.comprehension)):
                self._loops(node.target)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                for alias in node.names:
                    self.imported[alias.asname or alias.name] = alias.name
        self._parameters(tree)

    def called(self, call: ast.Call) -> Function | None:
        """The script's own function that a call refers to; None if the arguments do not match its parameters.

        TensorRT's methods may have the same names as the script's functions.
        """
        function = self._functions.get(ast.unparse(call.func).rpartition(".")[2])
        if function is None:
            return None
        spread = any(isinstance(one, ast.Starred) for one in call.args) or any(not one.arg for one in call.keywords)
        open_ended = function.args.vararg is not None or function.args.kwarg is not None
        wanted = {one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)}
        fits = spread or open_ended or wanted - {"self", "cls"} == set(bound(function, call))
        return function if fits else None

    def _bind(self, name: str, *values: ast.expr) -> None:
        self.given.setdefault(name, []).extend(values)

    def _assigned(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, (ast.Name, ast.Attribute)):
            if self._is_same(ast.unparse(target), value):
                return
            self._bind(ast.unparse(target), value)
        elif isinstance(target, (ast.Tuple, ast.List)):
            several = isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts)
            for index, one in enumerate(target.elts):
                if several:
                    assert isinstance(value, (ast.Tuple, ast.List))
                    self._assigned(one, value.elts[index])
                else:
                    self._loops(one)

    @staticmethod
    def _is_same(name: str, value: ast.expr) -> bool:
        """Whether an assignment only converts a name's own value or path: ``p = os.path.abspath(p)``."""
        if not isinstance(value, ast.Call) or value.keywords:
            return False
        if len(value.args) == 1:
            return ast.unparse(value.func) in CALLS and ast.unparse(value.args[0]) == name
        made = isinstance(value.func, ast.Attribute) and value.func.attr in SAME_PATH and not value.args
        return made and ast.unparse(value.func).rpartition(".")[0] == name

    def _loops(self, target: ast.expr) -> None:
        """Bind names that take several values."""
        nothing = ast.Constant(None)
        for node in ast.walk(target):
            if isinstance(node, ast.Name):
                self._bind(node.id, nothing, ast.Constant(0))

    def _parameters(self, tree: ast.Module) -> None:
        """Bind parameters to the arguments of the script's own calls, or to their default if an argument is missing."""
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self._functions.setdefault(node.name, node)
            elif isinstance(node, ast.ClassDef):
                for one in node.body:
                    if isinstance(one, ast.FunctionDef) and one.name == "__init__":
                        self._functions[node.name] = one
        for call in ast.walk(tree):
            called = self.called(call) if isinstance(call, ast.Call) else None
            if called is not None:
                assert isinstance(call, ast.Call)
                for name, value in bound(called, call).items():
                    if not (isinstance(value, ast.Name) and value.id == name):
                        self._bind(name, value)


def bound(function: Function, call: ast.Call) -> dict[str, ast.expr]:
    """The argument or default of each parameter in a call."""
    plain = [*function.args.posonlyargs, *function.args.args]
    found = {one.arg: value for one, value in zip(plain[len(plain) - len(function.args.defaults) :],
                                                  function.args.defaults)}  # fmt: skip
    for one, default in zip(function.args.kwonlyargs, function.args.kw_defaults):
        if default is not None:
            found[one.arg] = default
    names = [one.arg for one in plain if one.arg not in ("self", "cls")]
    found.update(zip(names, call.args))
    found.update({keyword.arg: keyword.value for keyword in call.keywords if keyword.arg})
    return found
