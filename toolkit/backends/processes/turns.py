"""Engines measured in turn, in a child process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from toolkit.backends.processes import process
from toolkit.backends.processes.exchange import profiles_to_json
from toolkit.base.profiles import Profiles
from toolkit.base.progress import Progress, silent
from toolkit.contract.bench import TurnsFound

ROUNDS = 5


def measure_turns(
    module: str,
    engines: Mapping[str, Path],
    profiles: Profiles,
    progress: Progress = silent,
    *,
    rounds: int = ROUNDS,
    host_code: bool = True,
) -> TurnsFound:
    """Latency of several engines at every profile's opt shapes, all of them measured in each round.

    Args:
        module: the TensorRT module that built them.
        engines: their files by name.
        profiles: the profiles that they were built with.
        progress: called with what is being done, how much is done, and of how much.
        rounds: how often each engine is measured.
        host_code: whether an engine may hold host code, as version compatible ones do; for engines that this run
            built.

    Raises:
        BackendError: an engine cannot be opened, or nothing can be measured here.
    """
    request = {
        "backend": module,
        "engines": {name: str(file.resolve()) for name, file in engines.items()},
        "profiles": profiles_to_json(profiles),
        "rounds": rounds,
        "host_code": host_code,
    }
    found = process.run_job("measure_in_turn", request, progress=progress)
    return TurnsFound(found["turns"], found["lacks"])
