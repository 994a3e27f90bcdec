"""Writing arrays to .npz files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from toolkit.base.files import atomic_path
from toolkit.base.types import Array


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an .npz file of these arrays by name, atomically.

    Raises:
        WriteError: the disk is full, and the like; see ``atomic_path``.
    """
    size = sum(values.nbytes for values in arrays.values())
    with atomic_path(path, size) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
