"""Writing arrays to .npz files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from toolkit.base.files import atomic_path
from toolkit.base.types import Array


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays to an .npz file by name, atomically.

    Raises:
        WriteError: the file cannot be written, for example because the disk is full; see ``atomic_path``.
    """
    size = sum(values.nbytes for values in arrays.values())
    with atomic_path(path, size) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
