"""Versions of the tools and fingerprints of code, without importing any of it."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from toolkit.base.files import sha256_file

TOOLS = (
    "qtool", "onnx", "onnx-graphsurgeon", "onnxruntime", "polygraphy", "numpy", "tensorrt", "tensorrt-rtx",
    "cuda-bindings",
)  # fmt: skip
OWN_PACKAGES = ("toolkit", "passes")
"""The packages of this distribution: their code is in every key."""
_KINDS = (
    (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
    (importlib.machinery.SourceFileLoader, importlib.machinery.SOURCE_SUFFIXES),
)


def versions() -> dict[str, str]:
    """Version by distribution name; tools that are not installed are missing."""
    found = {}
    for name in TOOLS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def code_fingerprint() -> str:
    """SHA-256 over qtool's own source files and the versions of what it computes with: part of every step's key."""
    digest = hashlib.sha256()
    digest.update(repr(sorted(versions().items())).encode())
    for package in OWN_PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        for path in sorted(Path(spec.submodule_search_locations[0]).rglob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def module_fingerprint(name: str) -> str:
    """SHA-256 over a module's source file and those beside it that it imports, or the name where there is none.

    Files beside it are those of the folder that its top-level module or package is found in, unless that folder is
    where packages are installed: these have versions.
    """
    own = module_file(name)
    if own is None:
        return name
    top = module_file(name.partition(".")[0])
    root = (top.parent.parent if top.name == "__init__.py" else top.parent) if top is not None else own.parent
    installed = root.name in ("site-packages", "dist-packages")
    package = name.partition(".")[0]
    files: dict[str, Path] = {}
    pending = [name]
    while pending:
        module = pending.pop()
        if module in files or (installed and module.partition(".")[0] != package):
            continue
        file = module_file(module)
        if file is None or root not in file.parents:
            continue
        files[module] = file
        pending += _imports(module, file)
    digest = hashlib.sha256()
    for module, file in sorted(files.items()):
        digest.update(f"{module}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def _imports(module: str, file: Path) -> Iterator[str]:
    """The modules that a source file may import, and the packages that it is in, whose code is run before it."""
    parts = module.split(".")
    yield from (".".join(parts[:count]) for count in range(1, len(parts)))
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    package = parts if file.name == "__init__.py" else parts[:-1]
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


def path_fingerprint(path: Path) -> str:
    """SHA-256 of a file's content, or of all files in a folder with their names."""
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(path)}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()
