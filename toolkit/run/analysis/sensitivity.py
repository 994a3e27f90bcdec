"""Sensitivity of a recipe's layers, measured in its run folder."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base.errors import QtoolError
from toolkit.base.places import working_at
from toolkit.base.processes import Processes
from toolkit.base.settings import without_effect
from toolkit.run.analysis.quantizing import Samples, quantizing
from toolkit.run.job import Job
from toolkit.run.steps.analyses import join_analysis

if TYPE_CHECKING:
    from toolkit.search.causes.weak_spots import WeakSpot
    from toolkit.search.sensitivity.measure import Sensitivity


@dataclass(frozen=True)
class MeasuredSensitivity:
    """The measured sensitivity, its file, diagnoses of the worst layers, and the report page that shows it."""

    found: Sensitivity
    file: Path
    weak_spots: list[WeakSpot]
    page: Path | None = None


def measure_sensitivity(job: Job, samples: Samples, fast: bool = False, processes: int = 1) -> MeasuredSensitivity:
    """Measure the accuracy lost by quantizing only one layer, and gained by keeping only it; write sensitivity.json.

    Args:
        samples: the samples to measure on.
        fast: estimate with at most ten float inferences.
        processes: how many local processes share the exact measurement.

    Raises:
        QtoolError: the recipe quantizes nothing, there are no samples, or ``processes`` has no effect: an estimate
            needs none, and a Ray cluster has its own.
    """
    from toolkit.report.sections.analysis import sensitivity_info
    from toolkit.search.causes.weak_spots import weak_spots
    from toolkit.search.sensitivity import measure as measuring

    _share_something(job, fast, processes)
    with quantizing(job, samples) as ready:
        file = job.folder.path / "sensitivity.json"
        _outdate(file)
        log = ready.hidden / ("sensitivity_fast.jsonl" if fast else "sensitivity.jsonl")
        if fast:
            found = measuring.fast(ready.simulation, log=log, progress=job.progress)
        else:
            with working_at(Processes(processes)) if processes > 1 else nullcontext():
                found = measuring.exact(ready.simulation, log=log, progress=job.progress)
        found.notes += ready.notes
        found.save(file)
        spots = weak_spots(ready.simulation, found)
        page = join_analysis(ready.inputs, sensitivity_info(found, spots))
        return MeasuredSensitivity(found, file, spots, page)


def _share_something(job: Job, fast: bool, processes: int) -> None:
    place = job.recipe.run.on
    why = "--fast estimates in this process" if fast else f"the work runs on {place}" if place != "here" else ""
    if processes > 1 and why:
        what, remedy = without_effect(f"--processes {processes}", why, "--processes")
        raise QtoolError(what, remedy=remedy if fast else f"{remedy}, or --on and [run] on")


def _outdate(file: Path) -> None:
    """Mark an earlier measurement's file as out of date; it stays until the new one replaces it."""
    from toolkit.search.sensitivity.measure import Sensitivity

    if not file.is_file():
        return
    try:
        before = Sensitivity.load(file)
    except QtoolError:
        file.unlink()
        return
    before.outdated = True
    before.save(file)
