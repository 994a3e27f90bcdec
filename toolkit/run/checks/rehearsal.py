"""Dry run of the passes with placeholder ranges, including the backend's parser on the resulting model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from toolkit.base.errors import BackendError, QtoolError, RangesError
from toolkit.base.modules import OWN_PACKAGES
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
    """Stands in for calibration: every tensor has amax 1, except tensors that cannot be computed and have no range.

    Errors that a calibration raises because of the graph alone are raised here too.

    Attributes:
        data: the samples, for passes that read them even in a dry run.
        wanted: receives the name of each statistics file that calibration would use; None if not needed.
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
    """The result of passes that were tried without calibrating, measuring or building.

    Attributes:
        context: with the passes' findings and the plan.
        backend: the backend that would build the engine.
        reason: why it was chosen.
    """

    context: Context
    backend: Backend
    reason: Finding


def rehearsed(inputs: Inputs) -> None:
    """Try the passes of a run before it calibrates, if every pass supports a dry run.

    A completed rehearsal is stored in the run folder and is not repeated until model, settings or tools change. The
    backend that ``auto`` falls back to, if the chosen one refuses the model, is stored too.

    Raises:
        QtoolError: the run would fail later.
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
    """Whether exactly this run was rehearsed before; if so, the backend that it fell back to is used."""
    return recall(inputs.job, _DONE, _rehearsal_key(inputs))


def _rehearsal_key(inputs: Inputs) -> dict[str, Any]:
    from toolkit.run.keys.keys import engine_key
    from toolkit.run.steps.passes import PassesStep
    from toolkit.run.task.task import TaskRecord

    # nothing is measured in a rehearsal, so the task does not matter
    return {**PassesStep(inputs, TaskRecord()).key(), **engine_key(inputs.job)}


def rehearse(inputs: Inputs, steps: Sequence[Pass], journal: Journal, statistics: list[str] | None = None) -> Rehearsal:
    """Try the passes with placeholder ranges, lower the resulting model, and let the backend's parser read it.

    ``statistics``, if given, receives the names of the files in which calibration would keep its statistics.

    Raises:
        QtoolError: a pass, lowering or the backend refuses the model and ``auto`` has no backend left, or a target GPU
            lacks a quantized type. If an earlier pass inserts nodes only in a real run, a later pass's refusal is only
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
    # without a backend no parser reads the model
    context.unread = backend.name == "none"
    model = source.copy()
    applied = inputs.graph_passes = apply_graph_passes(steps, model, context)
    _refuse_collection(inputs, steps, applied, context)
    try:
        PassSequence(passes=list(steps), begin=applied.count)(model, context)
    except QtoolError as error:
        # in a run, a pass that looks for outlier channels may insert nodes, which later passes may name
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


def _refuse_collection(inputs: Inputs, steps: Sequence[Pass], applied: AppliedPasses, context: Context) -> None:
    """Refuse a collection of another model, which a run would find when a pass first requests ranges.

    Passes before that one are applied as in a run if they run nothing but calibration samples, as for strip_qdq. If
    another pass comes first, which may measure engines or accuracy and change the model by what it measures, the form
    that a run calibrates is not known. Nor is it behind a user's pass, which is promised a dry run here.

    Raises:
        RangesError: the collection belongs to another model, or lacks a tensor.
    """
    from toolkit.run.inputs.calibrated_form import Unasked, calibrated_form
    from toolkit.run.inputs.calibrator import calibrator

    if inputs.job.recipe.calibration.collection is None:
        return
    data = getattr(context.provider, "data", None)
    apart = replace(context.fork(), dry_run=False, bench=None, evaluation=None, folder=None, provider=Unasked(data))
    try:
        form = calibrated_form(
            steps[applied.count :], inputs.source(), applied.model.copy(), apart, _runs_samples_at_most
        )
    except QtoolError:
        # the dry run of the pass reports what it can know; the rest is for the run to say
        return
    if form is None:
        return
    try:
        calibrator(inputs, None, Journal()).refuse_collected(*form)
    except RangesError as error:
        error.at(inputs.job.recipe.locate("calibration", "collection"))
        raise


def _runs_samples_at_most(step: Pass) -> bool:
    own = type(step).__module__.partition(".")[0] in OWN_PACKAGES
    return step.graph_only or (own and not step.runs_models())


def _context(inputs: Inputs, source: Model, journal: Journal, statistics: list[str] | None) -> Context:
    """The context of a dry run, in which placeholder ranges stand in for calibrated ones."""
    from toolkit.calibration.provider import Calibrator
    from toolkit.run.steps.context import context_for

    context = context_for(inputs, source, journal, dry_run=True)
    if isinstance(context.provider, Calibrator) and context.can_calibrate:
        # given ranges are known already, and a run would report tensors without ranges
        context.provider = _Placeholders(context.provider, statistics)
    return context


def _parsed(job: Job, found: Rehearsal, model: Model, plan: PrecisionPlan) -> Rehearsal:
    """The rehearsal with the first backend whose parser accepts the model; ``auto`` falls back from those that do not.

    Raises:
        BackendError: the last backend refuses the model too.
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
                # the error's traceback holds this frame, so the frame must not hold the error
                del refusal
        reason = fall_back(job, backend.name, refusal)
        found.context.journal.noted(reason)
        backend, _ = choose(job.backend)
    return Rehearsal(found.context, backend, reason)


def _refused(
    job: Job, backend: Backend, settings: EngineSettings, model: Model, plan: PrecisionPlan, own: bool
) -> BackendError | None:
    """Why the backend's parser refuses the lowered model; None if it accepts it, or if no backend builds.

    The model is changed if ``own`` is set.
    """
    from toolkit.backends.lowering.prepare import admit_for, lower_for, save_for

    io = {name: Precision(value) for name, value in job.recipe.engine.io.items()}
    if backend.name == "none":
        # no parser would read the lowered model
        admit_for(backend, settings, model, plan, rest=job.recipe.rest, io=io)
        return None
    made = lower_for(backend, settings, model, plan, rest=job.recipe.rest, io=io, journal=Journal(), own=own)
    path = job.folder.hidden / "rehearsal.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        backend.parse(save_for(backend, settings, made.model, path), job.profiles, settings)
    except BackendError as error:
        # the temporary file no longer exists when the message is read
        return BackendError(error.what, where=str(job.model_path), remedy=error.remedy).caused_by(error)
    finally:
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
    return None


def _settled(
    applied: AppliedPasses, model: Model, steps: Sequence[Pass], context: Context
) -> tuple[Model, PrecisionPlan]:
    """The graph and plan that a run surely produces; layers decided by a search or measured engines stay float."""
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
