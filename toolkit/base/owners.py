"""Whose a source file is, or the code of a frame: qtool's, a library's, or the user's."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from functools import lru_cache
from importlib.machinery import ModuleSpec
from types import FrameType
from typing import Any

from toolkit.base.modules import OWN_PACKAGES, installed_at

_COMPUTING = (
    "numpy", "numba", "llvmlite", "ml_dtypes", "onnx", "onnxruntime", "onnx_graphsurgeon", "polygraphy", "google",
    "pydantic", "pydantic_core", "PIL", "typer", "click", "rich", "jinja2", "markupsafe", "tensorrt", "tensorrt_rtx",
    "cuda",
)  # fmt: skip
"""Packages that qtool itself uses: a read from their code is attributed to the caller."""
_COMPILERS = ("numba", "llvmlite")
"""Packages whose reads are of their own caches."""
_namespaces: dict[str, tuple[dict[str, Any], str]] = {}
"""Per module name the module's namespace and the owner of its source, since stacks are walked thousands of times."""


@lru_cache(maxsize=8192)
def owner_of(file: str) -> str:
    """The owner of a source file: ``own`` (qtool), ``library``, ``compiler``, ``installed`` or ``user``."""
    if file.startswith("<") or not file:
        return "library"
    own, python = _places()
    real = os.path.realpath(file)
    if real.startswith(own):
        return "own"
    if inside := installed_at(real):
        package = inside.partition(os.sep)[0].partition(".")[0]
        return "compiler" if package in _COMPILERS else "library" if package in _COMPUTING else "installed"
    return "library" if real.startswith(python) else "user"


@lru_cache(maxsize=1)
def _places() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The folders of qtool's own files, and those of Python's."""
    own: list[str] = []
    for package in OWN_PACKAGES:
        spec = importlib.util.find_spec(package)
        places = spec.submodule_search_locations if spec is not None else None
        own += [os.path.realpath(place) + os.sep for place in places or ()]
    paths = sysconfig.get_paths()
    python = {os.path.realpath(paths[name]) + os.sep for name in ("stdlib", "platstdlib")}
    return tuple(own), tuple(python)


def is_users(path: str) -> bool:
    """Whether a file is the user's own, and not part of a package with a version."""
    return owner_of(path) == "user" and f"{os.sep}__pycache__{os.sep}" not in path


def owner_of_frame(frame: FrameType) -> str:
    """The owner of a frame's code, as ``owner_of`` names it.

    It is that of the module's source, since every look at ``f_code`` is an audit event. The module's ``__file__`` may
    be another one's, as after ``globals().update(vars(other))``.
    """
    names = frame.f_globals
    name = dict.get(names, "__name__")
    if not isinstance(name, str):
        return owner_of(frame.f_code.co_filename)
    known = _namespaces.get(name)
    if known is not None and known[0] is names:
        return known[1]
    spec, module = dict.get(names, "__spec__"), sys.modules.get(name)
    # the code of a module without a file may come from several
    if not isinstance(spec, ModuleSpec) or not spec.has_location or spec.name != name:
        return owner_of(frame.f_code.co_filename)
    if getattr(module, "__dict__", None) is not names:
        return owner_of(frame.f_code.co_filename)
    owner = owner_of(spec.origin or "")
    _namespaces[name] = names, owner
    return owner
