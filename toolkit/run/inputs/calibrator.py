"""The recipe's calibration, with ranges and statistics that it is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base.errors import RangesError, did_you_mean
from toolkit.base.files import sha256_json
from toolkit.base.settings import byte_size
from toolkit.base.versions import code_fingerprint
from toolkit.contract.journal import Journal
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.recipe.recipe import Recipe

if TYPE_CHECKING:
    from toolkit.calibration.collection import Collection
    from toolkit.calibration.provider import Calibrator
    from toolkit.contract.ranges import Ranges
    from toolkit.data.dataset import CalibrationData
    from toolkit.graph.model import Model


def calibrator(inputs: Inputs, data: CalibrationData | None, journal: Journal) -> Calibrator:
    """The recipe's calibration on ``data``; statistics that it collects are kept in the run folder.

    ``data`` may be None if the recipe names a collection or ranges.
    """
    from toolkit.calibration.provider import Calibrator

    job = inputs.job
    section = job.recipe.calibration
    collected = _collected(job)

    def keep(model: Model, taps: list[str], scalars: list[str]) -> Path:
        key = [
            model.fingerprint(),
            taps,
            scalars,
            [data.fingerprint(), len(data)] if collected is None and data is not None else [],
            section.batch,
            section.device,
            section.outside,
            section.mask,
            repr(job.profiles),
            code_fingerprint(),
        ]
        return job.folder.hidden / f"collection-{sha256_json(key)[:20]}.npz"

    return Calibrator(
        data=data,
        method=section.method,
        percentile=section.percentile,
        methods=section.methods,
        weights=section.weights,
        batch=section.batch,
        memory=byte_size(section.memory) if section.memory is not None else None,
        manual=section.manual,
        given=_given(job.recipe),
        given_use=section.ranges_use,
        journal=journal,
        progress=job.progress,
        keep=keep,
        collected=collected,
        device=section.device,
        tactic_sources=job.recipe.engine.tactic_sources,
        profiles=job.profiles,
    )


def gives_ranges(recipe: Recipe) -> bool:
    """Whether the recipe gives ranges, in a file or manually."""
    return recipe.calibration.ranges is not None or bool(recipe.calibration.manual)


def given_count(recipe: Recipe, inputs: Inputs) -> int:
    """Number of the model's tensors for which the recipe gives a range."""
    given = _given(recipe)
    named = {*(given.tensors if given is not None else ()), *recipe.calibration.manual}
    return len(named & inputs.source().graph.tensors().keys()) if named else 0


def _given(recipe: Recipe) -> Ranges | None:
    from toolkit.calibration.interchange import read_ranges

    name = recipe.calibration.ranges
    return read_ranges(recipe.resolve(name)) if name is not None else None


def _collected(job: Job) -> Collection | None:
    """The collection file that the recipe names; None if it names none.

    Raises:
        RangesError: it is not a collection, lacks parts, or has profiles that the recipe does not have.
    """
    from toolkit.calibration.collection import Collection
    from toolkit.data.sample import EVERYTHING

    name = job.recipe.calibration.collection
    if name is None:
        return None
    path = job.recipe.resolve(name)
    found = Collection.load(path)
    if found.missing_parts:
        raise RangesError(
            f"the collection lacks the parts {', '.join(found.missing_parts)}",
            where=str(path),
            remedy="merge all parts with qtool merge",
        )
    known = job.profiles.names or [EVERYTHING]
    odd = sorted(set(found.profiles) - set(known))
    if odd:
        raise RangesError(
            f"the collection has samples of profile '{odd[0]}', which the recipe does not have",
            where=str(path),
            remedy=did_you_mean(odd[0], known),
        )
    return found
