"""The members by which a pass tells a run about itself: faults in a user's are told by the pass's name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.base.code import failure_of
from toolkit.base.errors import FAILURES, PassError, QtoolError
from toolkit.base.schema import value_words
from toolkit.contract.roles import Harm, Role


def _is_list_of(kind: type) -> Callable[[Any], bool]:
    return lambda found: (
        isinstance(found, Collection)
        and not isinstance(found, (str, bytes, Mapping))
        and all(isinstance(one, kind) for one in found)
    )


_Rule = tuple[Callable[[Any], bool], str]
_FLAG: _Rule = (lambda found: isinstance(found, (bool, np.bool_)), "True or False")
_TABLE: _Rule = (lambda found: isinstance(found, Mapping), "a dictionary")
_NAMES: _Rule = (_is_list_of(str), "a list of names")
_RESULTS: dict[str, _Rule] = {
    "reads_evaluation": _FLAG,
    "measures_engines": _FLAG,
    "predicts_times": _FLAG,
    "helps": _FLAG,
    "accuracy_limits": _TABLE,
    "unused_settings": _TABLE,
    "measured_with": _TABLE,
    "code_named": _NAMES,
    "applicable_layers": _NAMES,
    "ranges_wanted": (lambda found: found is None or _NAMES[0](found), "None or a list of names"),
    "input_files": (_is_list_of(Path), "a list of pathlib.Path"),
    "title": (lambda found: isinstance(found, str), "text"),
    "place": (lambda found: found is not None, "the Placement that toolkit.place makes"),
}
"""What each member returns: a check, and words for a message."""
_CLASS_ATTRIBUTES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "name": (str, "text"),
    "role": ((Role, type(None)), "a Role, such as Role.HELP"),
    "mends": ((Harm, type(None)), "a Harm, such as Harm.OUTLIER_CHANNELS"),
    "supports_dry_run": ((bool, np.bool_), "True or False"),
    "graph_only": ((bool, np.bool_), "True or False"),
}


def check_attributes(cls: type) -> None:
    """Check the class attributes by which a pass declares what it is.

    Raises:
        TypeError: one is of another type; the message says what it has to be.
    """
    for name, (kinds, words) in _CLASS_ATTRIBUTES.items():
        if not isinstance(value := getattr(cls, name), kinds):
            raise TypeError(f"{name} of the pass {cls.__qualname__} is {value!r}, not {words}")


def guard_members(cls: type) -> None:
    """Make the members that a class defines raise a ``PassError`` for any failure, and for a result of another type."""
    for name in _RESULTS.keys() & vars(cls).keys():
        written = vars(cls)[name]
        if isinstance(written, (classmethod, staticmethod)):
            setattr(cls, name, type(written)(_guarded(cls, name, written.__func__)))
        elif callable(written):
            setattr(cls, name, _guarded(cls, name, written))


def _guarded(cls: type, name: str, written: Callable[..., Any]) -> Callable[..., Any]:
    fits, words = _RESULTS[name]
    whose = f"{name} of the pass '{cls.__module__}:{cls.__qualname__}'"

    @wraps(written)
    def member(*args: Any, **kwargs: Any) -> Any:
        try:
            found = written(*args, **kwargs)
        except QtoolError:
            raise
        except FAILURES as error:
            raise PassError(
                f"{whose} failed: {failure_of(error)}", remedy="fix the pass; --debug shows the traceback"
            ) from error
        if not fits(found):
            raise PassError(f"{whose} returned {value_words(found)}", remedy=f"return {words}")
        # numpy's comparisons return its own type, which JSON has not
        return bool(found) if isinstance(found, np.bool_) else found

    return member
