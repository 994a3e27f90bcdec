"""Versions of the tools and fingerprints of code, without importing any of them."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path

from toolkit.files import sha256_file

TOOLS = ("qtool", "onnx", "onnx-graphsurgeon", "onnxruntime", "polygraphy", "numpy", "tensorrt", "tensorrt-rtx")


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
    for package in ("toolkit", "passes"):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        for path in sorted(Path(spec.submodule_search_locations[0]).rglob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def module_fingerprint(name: str) -> str:
    """SHA-256 of a module's source file, or its name where it has none."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return name
    return sha256_file(Path(spec.origin))


def path_fingerprint(path: Path) -> str:
    """SHA-256 of a file's content, or of all files in a folder with their names."""
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(path)}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()
