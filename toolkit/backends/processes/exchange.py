"""Data exchanged between a job's parent and child: profiles as JSON, arrays as files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.base.types import Array


def profiles_to_json(profiles: Profiles) -> list[dict[str, Any]]:
    """Profiles in the form of a job's request."""
    return [
        {
            "name": profile.name,
            "shapes": {
                name: {"min": list(extent.min), "opt": list(extent.opt), "max": list(extent.max)}
                for name, extent in profile.shapes.items()
            },
        }
        for profile in profiles
    ]


def profiles_from_json(found: Iterable[Mapping[str, Any]]) -> Profiles:
    """The profiles that ``profiles_to_json`` wrote."""
    return Profiles(
        tuple(
            ShapeProfile(
                entry["name"],
                {name: Extent(*(tuple(e[which]) for which in ("min", "opt", "max")))
                 for name, e in entry["shapes"].items()},
            )
            for entry in found
        )
    )  # fmt: skip


def store_arrays(path: str | Path, arrays: Sequence[Array]) -> None:
    """Write arrays of any shapes, in order; bfloat16 and float8, which .npy files do not support, become float32."""
    np.savez(path, *(a.astype(np.float32) if a.dtype.kind == "V" else a for a in arrays))


def load_arrays(path: str | Path) -> list[Array]:
    """Read what ``store_arrays`` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return [stored[f"arr_{number}"] for number in range(len(stored.files))]
