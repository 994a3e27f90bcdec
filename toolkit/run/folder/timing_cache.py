"""Recognition of timing caches, the files of kernel times that TensorRT and TensorRT-RTX keep between builds."""

from __future__ import annotations

from pathlib import Path

_TAG = b"ptrt"
"""kMAGIC_TAG of StdArchiveReader, which reads timing caches (github.com/NVIDIA/TensorRT/issues/3566); TensorRT 8.6.0
compares files with these bytes, and TensorRT-RTX 1.7.1.116 writes them. NVIDIA does not publish the format."""


def is_timing_cache(path: Path) -> bool:
    """Whether a file begins with the tag of a timing cache."""
    with path.open("rb") as file:
        return file.read(len(_TAG)) == _TAG
