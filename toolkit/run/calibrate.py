"""Collecting the calibration statistics of a recipe, all or one shard, outside a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base.code import import_path
from toolkit.base.errors import RecipeError
from toolkit.base.files import sha256_json
from toolkit.contract.journal import Journal
from toolkit.run.checks.preflight import input_files, inputs_exist, names_exist
from toolkit.run.folder.guard import refuse_anothers, refuse_writing_over
from toolkit.run.folder.state import taken_over
from toolkit.run.inputs.batches import batches_run
from toolkit.run.inputs.calibrated_form import Unasked, calibrated_form
from toolkit.run.inputs.calibrator import calibrator
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.recipe.passes import passes_of
from toolkit.run.steps.context import context_for
from toolkit.run.working import working

if TYPE_CHECKING:
    from toolkit.calibration.collection import Collection


def collect_shard(job: Job, shard: tuple[int, int], target: Path) -> Collection:
    """Collect the statistics and save them as ``target``.

    The run folder is not locked: shards of one recipe may be collected in parallel.

    Args:
        job: the recipe and its run folder.
        shard: (i, n): use every n-th sample, starting with the i-th, counted from 1.
        target: the file to write; an unfinished collection is kept beside it and resumed.

    Raises:
        QtoolError: an input is missing, ``target`` is an input, or it is in a folder with the results of another recipe
            of the same name.
        RecipeError: the recipe has no calibration data.
        DataError: there are no samples.
    """
    from toolkit.calibration.collection_file import is_collection
    from toolkit.graph.large_models.memory import memory_limit

    inputs_exist(job)
    refuse_writing_over(input_files(job), target)
    refuse_anothers(target, is_collection)
    limit, own = memory_limit(job.recipe.run.memory_bytes), job.recipe.folder if job.allow_code else None
    with import_path(own), working(job.recipe.run.on), limit:
        names_exist(job)
        if target.parent == job.folder.path:
            taken_over(job.folder.path, job.folder.by_name, job.recipe.path, job.model_path)
        found = _collected(Inputs(job), shard, target)
    found.save(target)
    return found


def _collected(inputs: Inputs, shard: tuple[int, int], target: Path) -> Collection:
    """The statistics that a run of the recipe would collect when a pass first requests ranges.

    The passes before that one are applied, since calibration runs on their result.
    """
    from toolkit.calibration.collect import collect
    from toolkit.graph.sessions.session import session

    job = inputs.job
    if job.recipe.calibration.data is None and job.recipe.calibration.random is None:
        raise RecipeError(
            "there is nothing to calibrate with",
            where=job.recipe.locate("calibration"),
            remedy='add [calibration] data = "..."',
        )
    journal = Journal()
    source = inputs.source(journal)
    model = source.copy()
    data = inputs.calibration_data(model, journal)
    assert data is not None
    batches_run(inputs, data, session(source))
    settings = calibrator(inputs, data, journal)
    context = context_for(inputs, model, journal)
    context.provider = Unasked(data)
    form = calibrated_form(passes_of(job.recipe, job.allow_code), source, model, context, lambda step: True)
    assert form is not None
    subject, tensors = form
    taps, scalars = settings.taps(subject, tensors)
    key = sha256_json([subject.fingerprint(), taps, scalars, data.fingerprint(), settings.memory, shard])
    return collect(
        subject,
        taps,
        data,
        data.profiles,
        scalars=scalars,
        batch=settings.batch,
        memory=settings.memory,
        progress=job.progress,
        checkpoint=target.with_name(f".{target.name}-{key[:12]}.part"),
        shard=shard,
    )
