"""Objects that a caller hands over in Python where a recipe would name code: each gets a name, ``given:Class_1``.

They are the caller's own, so that no permission is asked for. A name is good in this process alone.
"""

from __future__ import annotations

import hashlib
import inspect
import pickle
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import uuid4

from toolkit.base.versions import module_file, module_fingerprint

MODULE = "given"
_held: dict[str, Any] = {}


def give(thing: Any) -> str:
    """The name under which an object is found again; the same object keeps its name."""
    for name, held in _held.items():
        if held is thing:
            return name
    kind = getattr(thing, "__name__", None) or type(thing).__name__
    plain = "".join(c if c.isalnum() else "_" for c in kind)
    number = 1 + sum(other.startswith(f"{MODULE}:{plain}_") for other in _held)
    name = f"{MODULE}:{plain}_{number}"
    _held[name] = thing
    return name


def is_given(name: str) -> bool:
    """Whether a name stands for an object of the caller's."""
    return name.startswith(f"{MODULE}:")


def taken(name: str) -> Any:
    """The object behind a name.

    Raises:
        KeyError: this process was given no such object.
    """
    return _held[name]


def nameless(value: Any) -> Any:
    """Settings without such names, which differ from process to process; keys hold what stands behind them."""
    if isinstance(value, dict):
        return {key: nameless(one) for key, one in value.items()}
    if isinstance(value, list):
        return [nameless(one) for one in value]
    return MODULE if isinstance(value, str) and is_given(value) else value


def code_print(name: str) -> str:
    """What an object's behaviour depends on, as far as it can be known: its class's code, and its state.

    A class without a file, or a state that cannot be pickled, gives another value each time, so that nothing that was
    made with it is found again.
    """
    thing = taken(name)
    kind = thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)
    if module_file(kind.__module__) is None or kind.__module__ == "__main__":
        return uuid4().hex
    try:
        state = b"" if thing is kind else pickle.dumps(thing)
    except Exception:
        return uuid4().hex
    return f"{module_fingerprint(kind.__module__)} {kind.__qualname__} {hashlib.sha256(state).hexdigest()}"


def samples_print(name: str) -> str:
    """SHA-256 over all samples of a data loader that was given: they are read once for it.

    One that can be read only once, or gives no mappings or pairs of arrays, gives another value each time.
    """
    import numpy as np

    thing = taken(name)
    samples = thing() if callable(thing) else thing
    if not isinstance(samples, Iterable) or (iter(samples) is samples and not callable(thing)):
        return uuid4().hex
    digest = hashlib.sha256()
    for sample in samples:
        for part in sample if isinstance(sample, (tuple, list)) else (sample,):
            for key, values in sorted(part.items()) if isinstance(part, Mapping) else [("", part)]:
                array = np.asarray(values)
                digest.update(f"{key}\0{array.dtype}\0{array.shape}\0".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
