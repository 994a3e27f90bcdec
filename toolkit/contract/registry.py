"""How passes are found by name or by role, and created from their settings."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from toolkit.base.code import failure_of, load_object
from toolkit.base.errors import FAILURES, QtoolError, RecipeError, did_you_mean
from toolkit.base.schema import no_number, validation_words
from toolkit.contract.installed import installed_for, installed_passes
from toolkit.contract.passes import Pass
from toolkit.contract.roles import Role

_OWN_PASS = "a pass of your own is named module:Name"


def find_pass(use: str, allow_code: bool = False) -> type[Pass]:
    """The pass class for a recipe's ``use``: an installed name, or ``module:Name`` if code is allowed.

    Raises:
        RecipeError: there is no such pass.
        NotAllowedError: it is ``module:Name`` and code is not allowed.
    """
    if ":" in use:
        found = load_object(use, allow_code, "pass")
    else:
        entries = installed_passes()
        if use not in entries:
            raise RecipeError(f"there is no pass '{use}'", remedy=_meant(use, entries))
        found = entries[use].load()
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise RecipeError(f"'{use}' is not a pass", remedy="a pass is a subclass of toolkit.Pass")
    return found


def passes_with_role(role: Role) -> list[tuple[str, type[Pass]]]:
    """The installed passes with a role, qtool's own first; those that cannot be imported are left out."""
    return [(name, kind) for name, kind in installed_for(role) if issubclass(kind, Pass)]


def pass_name(role: Role) -> str:
    """The name of an installed pass with a role, the first by name; the role's own name if there is none."""
    return next((name for name, _ in passes_with_role(role)), str(role.value))


def configure_pass(kind: type[Pass], settings: Mapping[str, Any]) -> Pass:
    """A pass with its settings.

    Raises:
        RecipeError: an unknown key (the message names the closest known one), a wrong value, or a pass that fails when
            it is created.
    """
    try:
        made = kind(**settings)
    except QtoolError:
        raise
    except FAILURES as error:
        raise RecipeError(
            f"the pass '{kind.__module__}:{kind.__qualname__}' cannot be created: {failure_of(error)}",
            remedy="a pass has no __init__: its annotated fields are its settings, such as count: int = 2",
        ) from error
    fault = no_number(settings, made)
    if fault is not None:
        raise kind._fault(validation_words(fault), next(iter(fault["loc"]), None))
    return made


def _meant(use: str, known: Iterable[str]) -> str:
    """A suggestion for an unknown pass name: an installed pass, or a class in a file of that name here."""
    with suppress(SyntaxError, ValueError, OSError, RecursionError, MemoryError):
        file = Path(f"{use}.py")
        tree = ast.parse(file.read_text(encoding="utf-8") if use.isidentifier() and file.is_file() else "")
        classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef) and node.bases]
        if classes:
            meant = did_you_mean(use, [f"{use}:{one}" for one in classes])
            return f"{_OWN_PASS}: {meant}"
    known = list(known)
    if not known:
        # a package installed without metadata has no entry points
        return "no pass is registered: install qtool itself again; " + _OWN_PASS
    meant = did_you_mean(use, known)
    if meant.endswith("?"):
        return f"{meant} {_OWN_PASS[:1].upper()}{_OWN_PASS[1:]}"
    return f"{meant}; {_OWN_PASS}"
