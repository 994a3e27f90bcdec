"""Source files of modules and of what they import, found without importing any of it."""

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
"""The packages of this distribution: their code is in every key."""
_INSTALLED = ("site-packages", "dist-packages")
_KINDS = (
    (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
    (importlib.machinery.SourceFileLoader, importlib.machinery.SOURCE_SUFFIXES),
)


@dataclass(frozen=True)
class Sources:
    """What a module consists of.

    Attributes:
        files: its file and those beside it that it imports, by module.
        foreign: the top-level names that these import from elsewhere, Python's own among them.
    """

    files: dict[str, Path] = field(default_factory=dict)
    foreign: frozenset[str] = frozenset()


def installs(folder: str, name: str) -> bool:
    """Whether the file or folder of that name belongs to an installed package, which has a version.

    True of everything in a folder known as one of packages, and of what pip has noted beside it: ``pip install
    --target`` puts packages anywhere, among the user's own modules too.
    """
    return Path(folder).name in _INSTALLED or name in _noted(folder)


@functools.lru_cache(maxsize=1024)
def _noted(folder: str) -> frozenset[str]:
    """The files and folders in a folder that belong to packages (a RECORD holds a path, its hash and size a line)."""
    try:
        records = [one.read_text("utf-8", "replace") for one in Path(folder).glob("*.dist-info/RECORD")]
    except OSError:
        return frozenset()
    return frozenset(re.split("[/,]", line.lstrip('"'), maxsplit=1)[0] for one in records for line in one.splitlines())


def installed_at(file: str) -> str:
    """The place of a file within the folder that packages are installed in; empty where it is in none.

    Args:
        file: its real path.
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
    """The source file of a module and those beside it that it imports; empty where there is none.

    Files beside it are those of the folder that its top-level module or package is found in, unless that folder is
    where packages are installed. qtool's own, which are in every key, are not among them.
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
            # a name within a module that is known is no module
            if first != package:
                foreign.add(first)
            continue
        files[module] = file
        pending += _imports(module, file.name == "__init__.py", _content(file))
    return Sources(files, frozenset(foreign - {module.partition(".")[0] for module in files}))


def module_fingerprint(name: str) -> str:
    """SHA-256 over a module's source file and those beside it that it imports, or the name where there is none."""
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
    """The modules that a source file may import, and the packages that it is in, whose code is run before it."""
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
    """The file that a module would be imported from; nothing is imported, not even the packages that it is in."""
    first, *rest = name.split(".")
    try:
        # of a top-level name, find_spec only looks; of a dotted one it would import the packages before the last dot
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
    """The modules that a source text imports by their full names; none where it is no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ()
    return tuple(dict.fromkeys(_imported(tree, [])))


def is_stdlib(name: str) -> bool:
    """Whether a top-level module comes with Python."""
    return name in sys.stdlib_module_names
