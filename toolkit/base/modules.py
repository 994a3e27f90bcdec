"""Source files of modules and of the modules they import, found without importing them."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

OWN_PACKAGES = ("toolkit", "passes")
"""The packages of this distribution; every cache key covers their code."""
_INSTALLED = ("site-packages", "dist-packages")
_KINDS = (
    (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
    (importlib.machinery.SourceFileLoader, importlib.machinery.SOURCE_SUFFIXES),
)


@dataclass(frozen=True)
class Sources:
    """The source files of a module.

    Attributes:
        files: per module, the module's own file and those of modules beside it that it imports.
        foreign: top-level names that these import from elsewhere, including Python's own.
    """

    files: dict[str, Path] = field(default_factory=dict)
    foreign: frozenset[str] = frozenset()


def installs(folder: str, name: str) -> bool:
    """Whether the file or folder of this name belongs to an installed package, which has a version.

    This covers everything in folders known to hold packages, and what pip has recorded in any other folder: ``pip
    install --target`` can put packages anywhere, even among the user's own modules.
    """
    return Path(folder).name in _INSTALLED or name in _noted(folder)


@functools.lru_cache(maxsize=1024)
def _noted(folder: str) -> frozenset[str]:
    """Files and folders in a folder that belong to packages; a line of RECORD is a path, its hash and its size."""
    try:
        records = [one.read_text("utf-8", "replace") for one in Path(folder).glob("*.dist-info/RECORD")]
    except OSError:
        return frozenset()
    return frozenset(re.split("[/,]", line.lstrip('"'), maxsplit=1)[0] for one in records for line in one.splitlines())


def installed_at(file: str) -> str:
    """The path of a file relative to the folder of installed packages that holds it; empty if there is none.

    Args:
        file: real path of the file.
    """
    for name in _INSTALLED:
        _, place, inside = file.partition(f"{os.sep}{name}{os.sep}")
        if place:
            return inside
    for entry in sys.path:
        folder = os.path.realpath(entry)
        inside = file[len(folder) + 1 :] if file.startswith(folder + os.sep) else ""
        if inside and installs(folder, inside.partition(os.sep)[0]):
            return inside
    return ""


def sources_of(name: str) -> Sources:
    """The source file of a module and of the modules beside it that it imports; empty if there is no source.

    Modules beside it are those in the folder of its top-level module or package, unless packages are installed there.
    qtool's own modules, which every cache key covers, are left out.
    """
    own = module_file(name)
    package = name.partition(".")[0]
    if own is None or package in OWN_PACKAGES:
        return Sources()
    top = module_file(package)
    entry = top.parent if top is not None and top.name == "__init__.py" else top or own
    root, installed = entry.parent, installs(str(entry.parent), entry.name)
    files: dict[str, Path] = {}
    seen: set[str] = set()
    foreign: set[str] = set()
    pending = [name]
    while pending:
        module = pending.pop()
        first = module.partition(".")[0]
        if module in seen or first in OWN_PACKAGES:
            continue
        seen.add(module)
        file = None if installed and first != package else module_file(module)
        if file is None or root not in file.parents:
            # a submodule that is not found is a name defined in a known module
            if first != package:
                foreign.add(first)
            continue
        files[module] = file
        pending += _imports(module, file.name == "__init__.py", _content(file))
    return Sources(files, frozenset(foreign - {module.partition(".")[0] for module in files}))


def module_fingerprint(name: str) -> str:
    """SHA-256 over a module's source file and those of modules beside it that it imports; the name if it has none."""
    files = sources_of(name).files
    if not files:
        return name
    digest = hashlib.sha256()
    for module, file in sorted(files.items()):
        digest.update(f"{module}\0{hashlib.sha256(_content(file)).hexdigest()}\n".encode())
    return digest.hexdigest()


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


@functools.lru_cache(maxsize=4096)
def _imports(module: str, package: bool, content: bytes) -> tuple[str, ...]:
    """The modules that a source file may import, and its parent packages, whose code runs first."""
    parts = module.split(".")
    found = [".".join(parts[:count]) for count in range(1, len(parts))]
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return tuple(found)
    return (*found, *dict.fromkeys(_imported(tree, parts if package else parts[:-1])))


def _imported(tree: ast.Module, package: list[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            if base:
                yield base
            yield from (".".join(filter(None, (base, alias.name))) for alias in node.names)


def module_file(name: str) -> Path | None:
    """The file that a module would be imported from; imports nothing, not even its parent packages."""
    first, *rest = name.split(".")
    try:
        # for a top-level name find_spec imports nothing; for a dotted name it would import the parent packages
        spec = importlib.util.find_spec(first)
    except (ValueError, ImportError):
        return None
    for count, part in enumerate(rest, 2):
        folders = list(spec.submodule_search_locations or ()) if spec is not None else []
        spec = _spec_in(".".join([first, *rest[: count - 1]]), folders) if part else None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    return path.resolve() if path.is_file() else None


def _spec_in(name: str, folders: list[str]) -> importlib.machinery.ModuleSpec | None:
    portions: importlib.machinery.ModuleSpec | None = None
    for folder in folders:
        found = importlib.machinery.FileFinder(folder, *_KINDS).find_spec(name)
        if found is not None and found.loader is not None:
            return found
        if found is not None and portions is None:
            portions = found
        elif found is not None and portions is not None and portions.submodule_search_locations is not None:
            portions.submodule_search_locations.extend(found.submodule_search_locations or ())
    return portions


@functools.lru_cache(maxsize=4096)
def imported_names(source: str) -> tuple[str, ...]:
    """The modules that source text imports by their full names; none if it is not valid Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ()
    return tuple(dict.fromkeys(_imported(tree, [])))


def is_stdlib(name: str) -> bool:
    """Whether a top-level module is part of Python."""
    return name in sys.stdlib_module_names
