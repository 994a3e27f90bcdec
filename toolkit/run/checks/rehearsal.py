"""A rehearsal: the passes of a run with placeholder ranges, and what the backend's parser says of the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from toolkit.base.errors import BackendError, QtoolError
from toolkit.base.precision import Precision
from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan
from toolkit.contract.ranges import Range, Ranges
from toolkit.run.checks.fallback import decided, fall_back, recall, remember

if TYPE_CHECKING:
    from toolkit.backends.backend import Backend, EngineSettings
    from toolkit.calibration.provider import Calibrator
    from toolkit.contract.context import Context
    from toolkit.contract.passes import Pass
    from toolkit.graph.model import Model
    from toolkit.run.inputs.graph_passes import AppliedPasses
    from toolkit.run.inputs.inputs import Inputs
    from toolkit.run.job import Job

_DONE = "rehearsal"


class _Placeholders:
    """Stands in for calibration: every tensor has amax 1, except those that cannot be computed and are not given.

    It refuses what a calibration refuses from the graph alone.

    Attributes:
        data: the samples, for passes that look at them in a dry run too.
        wanted: gets the name of each file that would hold the statistics; None where not wanted.
    """

    def __init__(self, calibrator: Calibrator, wanted: list[str] | None) -> None:
        self._calibrator, self.data, self.wanted = calibrator, calibrator.data, wanted

    def __call__(self, model: Model, tensors: Sequence[str] | None, dtype: Precision = Precision.INT8) -> Ranges:
        from toolkit.graph.sessions.runnable import not_run

        self._calibrator.refuse(model, tensors)
        if self.wanted is not None and self._calibrator.keep is not None and self._calibrator.calibrates:
            kept = self._calibrator.keep(model, *self._calibrator.taps(model, tensors))
            self.wanted += [kept.name] if kept is not None else []
        names = tensors if tensors is not None else list(model.graph.tensors())
        given = {*self._calibrator.manual, *(self._calibrator.given.tensors if self._calibrator.given else ())}
        left = not_run(model)
        missing = {
            name: Code.BEHIND_PLUGIN(plugin=by, op=left.plugins[by])
            for name in names
            if (by := left.tensors.get(name)) is not None and name not in given
        }
        known = {name: Range(1.0, "placeholder", dtype=str(dtype)) for name in names if name not in missing}
        return Ranges(known, missing=missing)


@dataclass(frozen=True)
class Rehearsal:
    """A run without calibrating, measuring and building.

    Attributes:
        context: what the passes noted, and the plan.
        backend: what would build the engine.
        reason: why that backend.
    """

    context: Context
    backend: Backend
    reason: Finding


def rehearsed(inputs: Inputs) -> None:
    """Rehearse a run before it calibrates, as far as its passes tell what they would do.

    What has been rehearsed is remembered in the run folder, and not repeated until model, settings or tools change;
    so is the backend that ``auto`` falls back to where the one that it takes refuses the model.

    Raises:
        QtoolError: the run would be refused later.
    """
    from toolkit.backends.choose import choose
    from toolkit.run.inputs.engine_settings import engine_settings
    from toolkit.run.recipe.passes import passes_of

    job = inputs.job
    backend, _ = choose(job.backend)
    backend.typing_for(engine_settings(job.recipe))
    steps = passes_of(job.recipe, job.allow_code)
    if not all(step.supports_dry_run for step in steps) or recalled(inputs):
        return
    key = _rehearsal_key(inputs)
    rehearse(inputs, steps, Journal())
    remember(job, _DONE, key)


def recalled(inputs: Inputs) -> bool:
    """Whether exactly this run was rehearsed before; then the backend that it fell back to is taken."""
    return recall(inputs.job, _DONE, _rehearsal_key(inputs))


def _rehearsal_key(inputs: Inputs) -> dict[str, Any]:
    from toolkit.run.keys.keys import engine_key
    from toolkit.run.steps.passes import PassesStep
    from toolkit.run.task.task import TaskRecord

    # nothing is measured here, so the task does not matter
    return {**PassesStep(inputs, TaskRecord()).key(), **engine_key(inputs.job)}


def rehearse(inputs: Inputs, steps: Sequence[Pass], journal: Journal, statistics: list[str] | None = None) -> Rehearsal:
    """Try the passes with placeholder ranges, lower what they make, and let the backend's parser read that.

    ``statistics``, where given, gets the names of the files that calibration would keep its statistics in.

    Raises:
        QtoolError: a pass, lowering or the backend refuses, and ``auto`` has none to fall back to, or a GPU that the
            engine is for lacks a quantized type. What a pass refuses after one whose nodes are known only in a run is
            noted.
    """
    from toolkit.backends.choose import choose
    from toolkit.contract.passes import Sequence as PassSequence
    from toolkit.graph.surgery.assemble import dismantle
    from toolkit.run.checks.gpu_types import refuse_types_lacking, types_of_pairs
    from toolkit.run.inputs.engine_settings import engine_settings
    from toolkit.run.inputs.graph_passes import apply_graph_passes
    from toolkit.search.quantizer.quantizer import Quantizer

    source = inputs.source()
    backend, reason = choose(inputs.job.backend)
    backend.typing_for(engine_settings(inputs.job.recipe))
    context = _context(inputs, source, journal, statistics)
    # without an engine no parser reads it
    context.unread = backend.name == "none"
    model = source.copy()
    applied = inputs.graph_passes = apply_graph_passes(steps, model, context)
    try:
        PassSequence(passes=list(steps), begin=applied.count)(model, context)
    except QtoolError as error:
        # a pass that looks for outlier channels may insert nodes in a run, which later passes may name
        if all(event.why != Code.DRY_RUN(step="channels") for event in journal.of("noted")):
            raise
        journal.noted(Code.DRY_RUN_ENDED(error=error.what))
        return Rehearsal(context, backend, reason)
    asked = {ask.precision for _, ask in context.plan.items()} | types_of_pairs(source)
    asked.update(kind for step in steps if isinstance(step, Quantizer) for kind in step.types())
    refuse_types_lacking(inputs.job.recipe, asked, backend.name)
    settled, plan = _settled(applied, model, steps, context)
    found = _parsed(inputs.job, Rehearsal(context, backend, reason), settled, plan)
    dismantle(model.graph)
    dismantle(settled.graph)
    return found


def _context(inputs: Inputs, source: Model, journal: Journal, statistics: list[str] | None) -> Context:
    """The context of a dry run, in which placeholders stand in for ranges that a calibration would give."""
    from toolkit.calibration.provider import Calibrator
    from toolkit.run.steps.context import context_for

    context = context_for(inputs, source, journal, dry_run=True)
    if isinstance(context.provider, Calibrator) and context.can_calibrate:
        # given ranges are known already, and what has none is what a run would name
        context.provider = _Placeholders(context.provider, statistics)
    return context


def _parsed(job: Job, found: Rehearsal, model: Model, plan: PrecisionPlan) -> Rehearsal:
    """The rehearsal with the backend whose parser reads the model: ``auto`` falls back from one that refuses it.

    Raises:
        BackendError: the last one refuses it too.
    """
    from toolkit.backends.choose import choose
    from toolkit.run.inputs.engine_settings import engine_settings

    backend, reason = found.backend, found.reason
    settings, final = engine_settings(job.recipe), decided(job)
    while (refusal := _refused(job, backend, settings, model, plan, final)) is not None:
        if final:
            try:
                raise refusal
            finally:
                # the error has this frame, which is not to have the error
                del refusal
        reason = fall_back(job, backend.name, refusal)
        found.context.journal.noted(reason)
        backend, _ = choose(job.backend)
    return Rehearsal(found.context, backend, reason)


def _refused(
    job: Job, backend: Backend, settings: EngineSettings, model: Model, plan: PrecisionPlan, own: bool
) -> BackendError | None:
    """Why the backend's parser refuses the model as it is lowered; None where it does not, or no backend is to build.

    The model is changed where it is ``own``.
    """
    from toolkit.backends.lowering.prepare import admit_for, lower_for, save_for

    io = {name: Precision(value) for name, value in job.recipe.engine.io.items()}
    if backend.name == "none":
        # nothing reads what would be lowered
        admit_for(backend, settings, model, plan, rest=job.recipe.rest, io=io)
        return None
    made = lower_for(backend, settings, model, plan, rest=job.recipe.rest, io=io, journal=Journal(), own=own)
    path = job.folder.hidden / "rehearsal.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        backend.parse(save_for(backend, settings, made.model, path), job.profiles, settings)
    except BackendError as error:
        # that file is gone by the time the message is read
        return BackendError(error.what, where=str(job.model_path), remedy=error.remedy).caused_by(error)
    finally:
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
    return None


def _settled(
    applied: AppliedPasses, model: Model, steps: Sequence[Pass], context: Context
) -> tuple[Model, PrecisionPlan]:
    """The graph and plan as far as a run surely makes them: what a search or engines decide on stays float."""
    from toolkit.contract.passes import Sequence as PassSequence
    from toolkit.search.quantizer.quantizer import Quantizer

    decided = (Code.DRY_RUN(step="search"), Code.DRY_RUN(step="engines"))
    if not any(event.why in decided for event in context.journal.of("noted")):
        return model, context.plan
    first = next((number for number, step in enumerate(steps) if isinstance(step, Quantizer)), len(steps))
    apart = replace(context.fork(), plan=applied.plan.copy())
    before = applied.model.copy()
    PassSequence(passes=list(steps), begin=applied.count, end=first)(before, apart)
    return before, apart.plan
