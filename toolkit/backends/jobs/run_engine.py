"""Running a built engine over stored batches, inside the child process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from toolkit.backends.execution.runner import EngineRunner
from toolkit.backends.processes.talk import Talk
from toolkit.base.errors import BackendError
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.base.types import Array


def run_batches(request: dict[str, Any], talk: Talk) -> dict[str, Any]:
    """Run every batch in its profile and store the outputs.

    Args:
        request: ``engine`` (path), ``backend``, ``profiles``, and ``batches``: each with ``profile`` (a name, or None
            where the engine has no profiles), ``names`` of its inputs, ``inputs`` (the file they lie in, in that
            order) and ``outputs`` (the file to write).
        talk: where progress goes.

    Returns:
        ``outputs``: for each batch the names of its outputs, in the order of its file.

    Raises:
        BackendError: the engine cannot be opened, or failed on a batch.
    """
    batches = request["batches"]
    names = []
    with EngineRunner(Path(request["engine"]).read_bytes(), request["backend"], profiles_from_json(request)) as runner:
        for number, batch in enumerate(batches):
            talk.progress("engine on the GPU", number, len(batches))
            feeds = dict(zip(batch["names"], load_arrays(batch["inputs"])))
            try:
                outputs = runner.run(feeds, batch["profile"])
            except BackendError as error:
                shapes = ", ".join(f"'{name}' {list(values.shape)}" for name, values in feeds.items())
                where = f"profile '{batch['profile'] or 'default'}', {shapes}"
                raise BackendError(error.what, where=where, remedy=error.remedy) from error
            store_arrays(batch["outputs"], list(outputs.values()))
            names.append(list(outputs))
    return {"outputs": names}


def profiles_from_json(request: dict[str, Any]) -> Profiles:
    """The profiles that ``rtx.profiles_to_json`` wrote into a request."""
    return Profiles(
        tuple(
            ShapeProfile(
                entry["name"],
                {name: Extent(*(tuple(e[which]) for which in ("min", "opt", "max")))
                 for name, e in entry["shapes"].items()},
            )
            for entry in request["profiles"]
        )
    )  # fmt: skip


def store_arrays(path: str | Path, arrays: list[Array]) -> None:
    """Write arrays in their order; types that .npy files do not know (bfloat16, float8) are widened to float32."""
    np.savez(path, *(a.astype(np.float32) if a.dtype.kind == "V" else a for a in arrays))


def load_arrays(path: str | Path) -> list[Array]:
    """Read what ``store_arrays`` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return [stored[f"arr_{number}"] for number in range(len(stored.files))]
