"""Measuring engines in turns, in a child process."""

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
    """Latency of several engines at the opt shapes of every profile, with all engines measured in every round.

    Args:
        module: the TensorRT module that built the engines.
        engines: engine files by name.
        profiles: the profiles that they were built with.
        progress: called with the activity, the amount done, and the total.
        rounds: number of measurements per engine.
        host_code: whether engines may contain host code, as version-compatible ones do; true only for engines built by
            this run.

    Raises:
        BackendError: an engine cannot be opened, or this machine cannot measure.
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
