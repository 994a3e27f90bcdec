"""The context of a recipe's passes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from toolkit.base.precision import Precision
from toolkit.contract.context import Context
from toolkit.contract.evaluation import Evaluation, Limits
from toolkit.contract.journal import Journal
from toolkit.run.inputs.calibrator import calibrator, gives_ranges
from toolkit.run.inputs.engine_settings import engine_settings
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.task.task import TaskRecord, metric_options

if TYPE_CHECKING:
    from toolkit.backends.trials.bench import EngineBench
    from toolkit.data.dataset import CalibrationData
    from toolkit.graph.model import Model


def context_for(
    inputs: Inputs, model: Model, journal: Journal, dry_run: bool = False, task: TaskRecord | None = None
) -> Context:
    """Create a context for the recipe's passes on this model.

    Args:
        model: the graph that the passes change.
        journal: receives the passes' events.
        dry_run: whether nothing is calibrated, measured or built.
        task: the task that the model is judged by; None if unknown.
    """
    job = inputs.job
    data = inputs.calibration_data(model, journal)
    context = Context(
        journal=journal,
        profiles=job.profiles,
        rest=job.recipe.rest,
        progress=job.progress,
        provider=calibrator(inputs, data, journal)
        if data is not None or job.recipe.calibration.collection is not None or gives_ranges(job.recipe)
        else None,
        dry_run=dry_run,
    )
    context.folder, context.logs, context.base = job.folder.path, job.folder.hidden, job.recipe.folder
    context.source = inputs.source()
    context.evaluation = _evaluation(inputs, task)
    context.bench = engine_bench(inputs)
    context.lacks_int8 = partial(_lacks_int8, job.backend)
    return context


def _lacks_int8(backend: str, op: str) -> str:
    from toolkit.backends.choose import lacks_int8

    return lacks_int8(backend, op)


def _evaluation(inputs: Inputs, task: TaskRecord | None) -> Evaluation:
    """The metric, limits and samples of ``[evaluation]``; the samples are opened when a pass requests them."""
    section = inputs.job.recipe.evaluation
    budget = section.budget
    limits = Limits(
        budget.max_drop, budget.min_value, budget.min_sqnr_db, budget.min_agreement, budget.max_relative_drop,
        budget.min_unchanged,
    )  # fmt: skip

    def samples(model: Model) -> CalibrationData | None:
        return inputs.evaluation_data(model)[0]

    answers = task.answers if task is not None else None
    options = metric_options(section, task) if task is not None else None
    return Evaluation(section.metric, section.output, limits, samples, inputs.job.allow_code, answers, options)


def engine_bench(inputs: Inputs) -> EngineBench:
    """A bench that builds and measures engines, with the settings of the recipe's own engine."""
    from toolkit.backends.trials.bench import EngineBench

    job = inputs.job
    section = job.recipe.engine
    return EngineBench(
        backend=job.backend,
        settings=engine_settings(job.recipe, job.folder.hidden),
        shapes=job.profiles,
        rest=job.recipe.rest,
        io={name: Precision(value) for name, value in section.io.items()},
        calibration_profile=section.calibration_profile or next(iter(job.profiles.names), ""),
        batches=inputs.calibrator_batches,
        batches_print=inputs.calibrator_print(),
        folder=job.folder.hidden,
        progress=job.progress,
    )
