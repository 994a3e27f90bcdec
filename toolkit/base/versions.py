"""Versions of packages, and fingerprints of files and of qtool's own code, without importing any of them."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path

from toolkit.base.files import sha256_file
from toolkit.base.modules import OWN_PACKAGES

TOOLS = (
    "qtool", "onnx", "onnx-graphsurgeon", "onnxruntime", "onnxruntime-gpu", "polygraphy", "numpy", "numba", "llvmlite",
    "ml_dtypes", "pillow", "protobuf", "pydantic", "typer", "rich", "jinja2", "tomli", "tomli-w", "threadpoolctl",
    "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx", "cuda-python", "cuda-bindings",
)  # fmt: skip
"""The distributions that results depend on."""
_ENDINGS = {".py", ".jinja", ".js", ".css"}


@functools.cache
def _installed() -> tuple[tuple[str, str], ...]:
    found = [("python", platform.python_version())]
    for name in TOOLS:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(found)


def versions() -> dict[str, str]:
    """Versions by distribution name, and Python's; distributions that are not installed are left out."""
    return dict(_installed())


def major(version: str) -> int:
    """The major version of a string such as "10.7.0"; 0 if there is none."""
    first = version.partition(".")[0]
    return int(first) if first.isdecimal() else 0


@functools.cache
def source_fingerprint() -> str:
    """SHA-256 of qtool's own source files."""
    digest = hashlib.sha256()
    for package in OWN_PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        root = Path(spec.submodule_search_locations[0])
        for path in sorted(path for path in root.rglob("*") if path.suffix in _ENDINGS):
            digest.update(f"{package}/{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


@functools.cache
def code_fingerprint() -> str:
    """SHA-256 of qtool's own source files and the versions that results depend on: part of every step's key."""
    return hashlib.sha256(repr([sorted(versions().items()), source_fingerprint()]).encode()).hexdigest()


def path_fingerprint(path: Path) -> str:
    """SHA-256 of a file's content, or of all files in a folder and their names."""
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            # file names need not be text
            digest.update(os.fsencode(f"{file.relative_to(path)}\0{sha256_file(file)}\n"))
    return digest.hexdigest()
