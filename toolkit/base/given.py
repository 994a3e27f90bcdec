"""Objects that a caller hands over in Python where a recipe would name code: each gets a name, ``@given:Class_1``.

They are the caller's own, so that no permission is asked for. A name is good in this process alone, and no module can
be called so.
"""

from __future__ import annotations

import hashlib
import inspect
import pickle
from typing import Any
from uuid import uuid4

from toolkit.base.errors import RecipeError
from toolkit.base.versions import module_file, module_fingerprint

PREFIX = "@given:"
_held: dict[str, Any] = {}


def give(thing: Any) -> str:
    """The name under which an object is found again; the same object keeps its name."""
    for name, held in _held.items():
        if held is thing:
            return name
    kind = getattr(thing, "__name__", None) or type(thing).__name__
    plain = PREFIX + "".join(c if c.isalnum() else "_" for c in kind)
    number = 1 + sum(other.startswith(f"{plain}_") for other in _held)
    _held[f"{plain}_{number}"] = thing
    return f"{plain}_{number}"


def is_given(name: str) -> bool:
    """Whether a name stands for an object of the caller's."""
    return name.startswith(PREFIX)


def taken(name: str) -> Any:
    """The object behind a name.

    Raises:
        RecipeError: this process was given no such object.
    """
    if name not in _held:
        raise RecipeError(
            f"'{name}' stands for a Python object of another process",
            remedy="hand the object over again, by Recipe.build or run(...)",
        )
    return _held[name]


def nameless(value: Any) -> Any:
    """Settings without such names, which differ from process to process; keys hold what stands behind them."""
    if isinstance(value, dict):
        return {key: nameless(one) for key, one in value.items()}
    if isinstance(value, list):
        return [nameless(one) for one in value]
    return PREFIX if isinstance(value, str) and is_given(value) else value


def code_print(thing: Any) -> str:
    """What an object's behaviour depends on, as far as it can be known: its class's code, and its state.

    A class without a file, one made in a function, or a state that cannot be pickled gives another value each time, so
    that nothing that was made with it is found again.
    """
    kind = thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)
    hidden = "<locals>" in kind.__qualname__ or getattr(kind, "__closure__", None)
    if hidden or kind.__module__ == "__main__" or module_file(kind.__module__) is None:
        return uuid4().hex
    try:
        state = b"" if thing is kind else pickle.dumps(thing)
    except Exception:
        return uuid4().hex
    return f"{module_fingerprint(kind.__module__)} {kind.__qualname__} {hashlib.sha256(state).hexdigest()}"
