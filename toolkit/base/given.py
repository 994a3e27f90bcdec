"""Python objects that a caller passes in where a recipe would name code.

In the recipe, such an object is a ``CallerObject``: the text ``@given:Class`` that also holds the object. It goes
wherever the text goes, including other processes if the object can be pickled, and lives as long as it is referenced.
Since the objects are the caller's own, no permission is needed; no module can have such a name.
"""

from __future__ import annotations

import hashlib
import inspect
import pickle
import re
from typing import Any
from uuid import uuid4

from toolkit.base.errors import RecipeError
from toolkit.base.modules import module_file, module_fingerprint

PREFIX = "@given:"
_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class CallerObject(str):
    """The name of an object that the caller passed in, together with the object.

    Attributes:
        thing: the object.
    """

    thing: Any

    def __new__(cls, thing: Any) -> CallerObject:
        """The name of ``thing``, or of its class if it has none."""
        kind = getattr(thing, "__name__", None) or type(thing).__name__
        made = super().__new__(cls, PREFIX + "".join(c if c.isalnum() else "_" for c in kind))
        made.thing = thing
        return made

    def __reduce__(self) -> tuple[type[CallerObject], tuple[Any]]:
        return CallerObject, (self.thing,)

    def __deepcopy__(self, memo: Any) -> CallerObject:
        return self


def is_given(name: str) -> bool:
    """Whether a name stands for an object passed in by the caller."""
    return name.startswith(PREFIX)


def shown(name: str) -> str:
    """A name for messages: the name of a caller's object without its prefix."""
    return name.removeprefix(PREFIX)


def names_code(name: str) -> bool:
    """Whether a name has the form of code, ``module:Name``; a path with a drive letter and a slash has not."""
    return is_given(name) or _CODE.fullmatch(name) is not None


def taken(name: str) -> Any:
    """The object that a name stands for.

    Raises:
        RecipeError: the name came without its object, for example from a file.
    """
    if not isinstance(name, CallerObject):
        raise RecipeError(
            f"'{name}' stands for a Python object of another process",
            remedy="hand the object over again, by Recipe.build or run(...)",
        )
    return name.thing


def code_print(thing: Any) -> str:
    """A fingerprint of what an object's behaviour depends on, as far as known: its class's code, and its state.

    A class without a source file, a class made in a function, or a state that cannot be pickled gives a new value each
    time, so that no cached result for it is reused.
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
