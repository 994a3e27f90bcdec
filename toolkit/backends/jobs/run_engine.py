"""Running a built engine over stored batches, inside the child process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.backends.execution.runner import EngineRunner
from toolkit.backends.processes.channel import Channel
from toolkit.backends.processes.exchange import load_arrays, profiles_from_json, store_arrays
from toolkit.base.errors import BackendError


def run_batches(request: dict[str, Any], talk: Channel) -> dict[str, Any]:
    """Run every batch in its profile and store the outputs.

    Args:
        request: ``engine`` (path), ``backend``, ``profiles``, and ``batches``: each with ``profile`` (a name, or None
            if the engine has no profiles), ``names`` of its inputs, ``inputs`` (the file that holds them, in this
            order) and ``outputs`` (the file to write).
        talk: receives progress.

    Returns:
        ``outputs``: per batch, the names of its outputs in the order of its file.

    Raises:
        BackendError: the engine cannot be opened, or failed on a batch.
    """
    batches = request["batches"]
    names = []
    profiles = profiles_from_json(request["profiles"])
    with EngineRunner(Path(request["engine"]).read_bytes(), request["backend"], profiles) as runner:
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
