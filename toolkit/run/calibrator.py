"""The recipe's calibration, and the statistics that it begins with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base.errors import RangesError, did_you_mean
from toolkit.base.files import sha256_json
from toolkit.base.settings import byte_size
from toolkit.base.versions import code_fingerprint
from toolkit.contract.journal import Journal
from toolkit.run.inputs import Inputs
from toolkit.run.job import Job

if TYPE_CHECKING:
    from toolkit.calibration.collection import Collection
    from toolkit.calibration.provider import Calibrator
    from toolkit.data.dataset import CalibrationData
    from toolkit.graph.model import Model


def calibrator(inputs: Inputs, data: CalibrationData | None, journal: Journal) -> Calibrator:
    """The recipe's calibration over ``data``; what it collects is kept in the run folder.

    ``data`` may be None where the recipe names a collection.
    """
    from toolkit.calibration.provider import Calibrator
    from toolkit.data.dataset import CalibrationData

    job = inputs.job
    section = job.recipe.calibration
    collected = _collected(job)
    if data is None:
        data = CalibrationData.open([], inputs.source(), job.profiles)

    def keep(model: Model, taps: list[str], scalars: list[str]) -> Path:
        key = [
            model.fingerprint(),
            taps,
            scalars,
            [data.fingerprint(), len(data)] if collected is None else [],
            section.batch,
            section.device,
            section.outside,
            section.mask,
            repr(job.profiles),
            code_fingerprint(),
        ]
        return job.folder.hidden / f"collection-{sha256_json(key)[:20]}.npz"

    given = None
    if section.ranges is not None:
        from toolkit.calibration.interchange import read_ranges

        given = read_ranges(job.recipe.resolve(section.ranges))
    return Calibrator(
        data,
        section.method,
        section.percentile,
        section.methods,
        section.weights,
        section.batch,
        byte_size(section.memory) if section.memory is not None else None,
        section.manual,
        given,
        section.ranges_use,
        journal,
        job.progress,
        keep,
        collected,
        section.device,
        job.recipe.engine.tactic_sources,
    )


def _collected(job: Job) -> Collection | None:
    """The collection that the recipe names.

    Raises:
        RangesError: it is none, parts of it are missing, or it knows other profiles.
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
            remedy="join all parts with qtool merge",
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
