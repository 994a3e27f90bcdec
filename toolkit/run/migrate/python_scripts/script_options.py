"""A script's arguments, parsed like argparse does."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from toolkit.base.errors import QtoolError
from toolkit.run.migrate.python_scripts.bindings import CALLS

Evaluate = Callable[[ast.expr | None], Any]
"""Evaluates an expression; gives ``unknown`` if the value is known only at run time."""


def script_options(
    tree: ast.Module, arguments: Sequence[str], evaluate: Evaluate, unknown: object
) -> Iterator[tuple[str, Any]]:
    """The attributes of argparse's result with their values, one for each ``add_argument``.

    Args:
        arguments: the arguments that the script is run with; the defaults apply to missing ones.
        evaluate: evaluates expressions in the script.
        unknown: the value of a missing positional argument.

    Raises:
        QtoolError: an argument does not have the type declared in the script.
    """
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        names = [name for one in node.args if isinstance(name := evaluate(one), str)]
        if node.func.attr != "add_argument" or not names:
            continue
        declared = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        long = next((name for name in names if name.startswith("--")), names[0])
        dest = evaluate(declared["dest"]) if "dest" in declared else long.lstrip("-").replace("-", "_")
        yield str(dest), _option(names, declared, arguments, evaluate, unknown)


def _option(
    names: Sequence[str], declared: Mapping[str, ast.expr], arguments: Sequence[str], evaluate: Evaluate,
    unknown: object,
) -> Any:  # fmt: skip
    action = evaluate(declared.get("action"))
    default = evaluate(declared["default"]) if "default" in declared else None
    if action in ("store_true", "store_false"):
        return any(name in arguments for name in names) is (action == "store_true")
    given = [(name, value) for name in names if (value := _given(name, arguments)) is not None]
    if not given:
        return unknown if default is None and not names[0].startswith("-") else default
    name, value = given[0]
    kind = CALLS.get(ast.unparse(declared["type"])) if "type" in declared else None
    try:
        return kind(value) if kind is not None else value
    except ValueError as error:
        raise QtoolError(
            f"the script's argument {name} is '{value}', which is not a valid {ast.unparse(declared['type'])}",
            remedy="give the arguments that the script is run with",
        ) from error


def _given(name: str, arguments: Sequence[str]) -> str | None:
    """The word after ``name``, or the text after ``name=``; None if it is missing."""
    if name in arguments[:-1]:
        return arguments[arguments.index(name) + 1]
    return next((one.partition("=")[2] for one in arguments if one.startswith(f"{name}=")), None)
