"""What a recipe would do: everything is read and every pass is tried, nothing is calibrated or built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from toolkit.backends.codes import EngineCode
from toolkit.base.errors import BackendError, QtoolError
from toolkit.base.precision import Precision
from toolkit.base.text import count, samples_by_profile
from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan
from toolkit.contract.ranges import Range, Ranges
from toolkit.contract.roles import Role
from toolkit.data.codes import DataCode
from toolkit.evaluation.codes import EvaluationCode
from toolkit.report.codes import ReportCode
from toolkit.run.fallback import decided, fall_back, recall, remember
from toolkit.run.recipe import Recipe

if TYPE_CHECKING:
    from toolkit.backends.base import Backend, EngineSettings
    from toolkit.calibration.provider import Calibrator
    from toolkit.contract.context import Context
    from toolkit.contract.passes import Pass
    from toolkit.graph.model import Model
    from toolkit.run.graph_passes import AppliedPasses
    from toolkit.run.inputs import Inputs
    from toolkit.run.job import Job
    from toolkit.run.task import TaskRecord

_DONE = "rehearsal"
_QUIET = (Code.COMPLETE, Code.DEAD)
"""What is noted of single nodes, or of ranges that are placeholders here."""
_LOUD = (
    Code.QUANTIZED_SOURCE, Code.RANGES_MISSING, Code.VALUES_NOT_OBSERVED, Code.NOT_RUN, Code.DRY_RUN_ENDED,
    EvaluationCode.OUTPUT_SHAPE_UNLIKE_DECLARED, EvaluationCode.LABELS_SHIFTED, EvaluationCode.LABELS_RENAMED,
    EvaluationCode.OTHER_THRESHOLD, EvaluationCode.LABELS_IN_OTHER_UNIT,
    EvaluationCode.FLOAT_MODEL_USELESS, EvaluationCode.LABELS_FIT_NOTHING, EvaluationCode.LABELS_UNUSED,
    EvaluationCode.LABEL_OUT_OF_RANGE, EvaluationCode.LABEL_NOT_FINITE, EvaluationCode.LIMIT_NEVER_MISSED,
    EvaluationCode.LIMIT_WITHOUT_METRIC,
    EvaluationCode.SAMPLES_OF_ROWS, DataCode.ROWS_UNDECIDED, Code.UNVARIED_SAMPLES,
    EngineCode.BACKEND_REFUSES_MODEL, Code.RANDOM_SOURCE, ReportCode.NEW_OUTPUT_UNSURE,
    DataCode.OPT_UNLIKE_NAME, Code.FOREIGN_OPERATOR, Code.FEW_SAMPLES, ReportCode.SAMPLES_SHOW_NOTHING,
)  # fmt: skip
"""What is noted that the user should look into before a run."""


@dataclass
class DryRun:
    """What would be done."""

    recipe: str
    nodes: int
    asked: dict[str, int]
    declined: list[dict[str, str]]
    notes: list[str]
    warnings: list[str]
    passes: list[str]
    calibration: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    backend: str = ""

    def to_json(self) -> dict[str, Any]:
        """The machine form."""
        return dict(self.__dict__)

    def to_text(self) -> str:
        """For people."""
        lines = [
            f"{self.recipe}: can run",
            f"model: {self.nodes} nodes",
            "passes: " + (", ".join(self.passes) or "none"),
        ]
        lines.append("asked: " + (", ".join(f"{n} {p}" for p, n in sorted(self.asked.items())) or "nothing"))
        for name, found in (("calibration", self.calibration), ("evaluation", self.evaluation)):
            ranges = f"{count(found['ranges'], 'range')} given" if "ranges" in found else ""
            samples = samples_by_profile(found["samples"], found["profiles"]) if "samples" in found else "no data"
            lines.append(f"{name}: {', '.join(filter(None, (samples, ranges)))}")
        if self.task:
            lines.append(f"task: {self.task['why']['text']}")
        lines.append(f"backend: {self.backend}")
        rules = Counter(entry["rule"] for entry in self.declined)
        for rule, number in rules.most_common():
            example = next(entry for entry in self.declined if entry["rule"] == rule)
            lines.append(f"declined {number} by '{rule}': {example['node']}: {example['reason']}")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines) + "\n"


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
        from toolkit.graph.runnable import not_run

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


def dry_run(recipe: Recipe, allow_code: bool = False) -> DryRun:
    """Read model and all data, run one sample, try every pass with placeholder ranges, and say what would be done.

    Raises:
        QtoolError: whatever a run would fail on.
    """
    from toolkit.base.code import import_path
    from toolkit.base.collection import collector_seldom
    from toolkit.base.temporary import temporary_folder
    from toolkit.calibration.diagnosis import sparse_profiles
    from toolkit.data.unvaried import unvaried
    from toolkit.evaluation.fixed_rows import rows_at_once
    from toolkit.graph.used_inputs import used_inputs
    from toolkit.report.findings import sentence
    from toolkit.run.calibrator import given_count
    from toolkit.run.checks import preflight
    from toolkit.run.folder import RunFolder
    from toolkit.run.gpu_types import types_lacking
    from toolkit.run.inputs import Inputs
    from toolkit.run.job import Job
    from toolkit.run.recipe_passes import passes_of
    from toolkit.run.samples import fit, sample_counts
    from toolkit.run.task import task_of

    with (
        temporary_folder("check") as folder,
        import_path(recipe.folder if allow_code else None),
        collector_seldom(),
    ):
        inputs = Inputs(Job(recipe, RunFolder(folder), allow_code))
        preflight(inputs.job)
        journal = Journal()
        steps = passes_of(recipe, allow_code)
        source = inputs.source(journal)
        data = inputs.calibration_data(source, journal)
        test, _ = inputs.evaluation_data(source)
        used = used_inputs(source)
        for samples, of in ((data, "calibration"), (test, "evaluation")):
            for said in unvaried(samples, of, used) if samples is not None else ():
                journal.noted(said)
        calibration = sample_counts(data)
        for profile, number in sparse_profiles(calibration.get("profiles", {})).items():
            if number:
                journal.noted(Code.FEW_SAMPLES(profile=profile, samples=number))
        if test is not None:
            fit(inputs, test)
        evaluation = sample_counts(test)
        only = next(test.samples()).inputs if test is not None and evaluation.get("samples") == 1 else None
        if only is not None and rows_at_once(source, only) == 1:
            journal.noted(ReportCode.SAMPLES_SHOW_NOTHING(samples=1))
        task = task_of(inputs)
        for note in (*task.notes, task.suspicion):
            if note is not None:
                journal.noted(note)
        if given := given_count(recipe, inputs):
            calibration["ranges"] = given
        elif data is not None and not data.counts.samples:
            raise data.no_samples_error()
        found = rehearse(inputs, steps, journal)
    return DryRun(
        recipe=str(recipe.path or recipe.name),
        nodes=len(source.node_names()),
        asked=dict(Counter(str(ask.precision) for _, ask in found.context.plan.items())),
        declined=[
            {"node": e.node, "rule": e.rule, "reason": sentence(e.why), "by": e.by} for e in journal.of("declined")
        ],
        # calibration and evaluation may report the same about one source
        notes=list(dict.fromkeys(sentence(e.why) for e in journal.of("noted") if e.why.code not in (*_QUIET, *_LOUD)))
        + [sentence(why) for why in _why_nothing(found.context, steps)],
        warnings=[
            *(sentence(e.why) for e in journal.of("noted") if e.why.code in _LOUD),
            *map(sentence, types_lacking(recipe, _types(found, source), found.backend.name)),
        ],
        passes=[step.title() for step in steps],
        calibration=calibration,
        evaluation=evaluation,
        task=_task(task),
        backend=f"{found.backend.name} ({sentence(found.reason)})",
    )


def _types(found: Rehearsal, source: Model) -> set[Precision]:
    """The types that the passes ask for, and those of pairs that the model comes with."""
    from toolkit.run.gpu_types import types_of_pairs

    return {ask.precision for _, ask in found.context.plan.items()} | types_of_pairs(source)


def rehearsed(inputs: Inputs) -> None:
    """Rehearse a run before it calibrates, as far as its passes tell what they would do.

    What has been rehearsed is remembered in the run folder, and not repeated until model, settings or tools change;
    so is the backend that ``auto`` falls back to where the one that it takes refuses the model.

    Raises:
        QtoolError: the run would be refused later.
    """
    from toolkit.backends.choose import choose
    from toolkit.run.engine_settings import engine_settings
    from toolkit.run.recipe_passes import passes_of

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
    from toolkit.run.keys import engine_key
    from toolkit.run.steps.passes import PassesStep
    from toolkit.run.task import TaskRecord

    # nothing is measured here, so the task does not matter
    return {**PassesStep(inputs, TaskRecord()).key(), **engine_key(inputs.job)}


def rehearse(inputs: Inputs, steps: Sequence[Pass], journal: Journal, statistics: list[str] | None = None) -> Rehearsal:
    """Try the passes with placeholder ranges, lower what they make, and let the backend's parser read that.

    ``statistics``, where given, gets the names of the files that calibration would keep its statistics in.

    Raises:
        QtoolError: a pass, lowering or the backend refuses, and ``auto`` has none to fall back to, or a GPU that the
            engine is for lacks a quantized type. What a pass refuses
            after one whose nodes are known only in a run is noted.
    """
    from toolkit.backends.choose import choose
    from toolkit.calibration.provider import Calibrator
    from toolkit.contract.passes import Sequence as PassSequence
    from toolkit.graph.assemble import dismantle
    from toolkit.run.context import context_for
    from toolkit.run.engine_settings import engine_settings
    from toolkit.run.gpu_types import refuse_types_lacking, types_of_pairs
    from toolkit.run.graph_passes import apply_graph_passes
    from toolkit.search.quantizer import Quantizer

    job = inputs.job
    source = inputs.source()
    settings = engine_settings(job.recipe)
    backend, reason = choose(job.backend)
    backend.typing_for(settings)
    context = context_for(inputs, source, journal, dry_run=True)
    # without an engine no parser reads it
    context.unread = backend.name == "none"
    if isinstance(context.provider, Calibrator) and context.can_calibrate:
        # given ranges are known already, and what has none is what a run would name
        context.provider = _Placeholders(context.provider, statistics)
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
    refuse_types_lacking(job.recipe, asked, backend.name)
    passed = model
    model, plan = _settled(applied, passed, steps, context)
    final = decided(job)
    while (refusal := _refused(job, backend, settings, model, plan, final)) is not None:
        if final:
            try:
                raise refusal
            finally:
                # the error has this frame, which is not to have the error
                del refusal
        reason = fall_back(job, backend.name, refusal)
        journal.noted(reason)
        backend, _ = choose(job.backend)
    dismantle(passed.graph)
    dismantle(model.graph)
    return Rehearsal(context, backend, reason)


def _refused(
    job: Job, backend: Backend, settings: EngineSettings, model: Model, plan: PrecisionPlan, own: bool
) -> BackendError | None:
    """Why the backend's parser refuses the model as it is lowered; None where it does not, or no backend is to build.

    The model is changed where it is ``own``.
    """
    from toolkit.backends.prepare import admit_for, lower_for, save_for

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
    from toolkit.search.quantizer import Quantizer

    decided = (Code.DRY_RUN(step="search"), Code.DRY_RUN(step="engines"))
    if not any(event.why in decided for event in context.journal.of("noted")):
        return model, context.plan
    first = next((number for number, step in enumerate(steps) if isinstance(step, Quantizer)), len(steps))
    apart = replace(context.fork(), plan=applied.plan.copy())
    before = applied.model.copy()
    PassSequence(passes=list(steps), begin=applied.count, end=first)(before, apart)
    return before, apart.plan


def _why_nothing(context: Context, steps: Sequence[Pass]) -> list[Finding]:
    """Why no layer is asked to run quantized, where no declined layer tells."""
    quantizers = [step.title() for step in steps if step.role in (Role.QUANTIZE, Role.SEARCH)]
    if any(ask.precision.quantized for _, ask in context.plan.items()):
        return []
    if not quantizers:
        return [ReportCode.NO_PASS_QUANTIZES()]
    if any(event.by in quantizers for event in context.journal.of("declined")):
        return []
    return [ReportCode.NO_LAYER_TO_QUANTIZE()]


def _task(task: TaskRecord) -> dict[str, Any]:
    """What the model is judged by, and why."""
    from toolkit.report.findings import sentence

    if task.why is None:
        return {}
    return {"task": task.task, "sure": task.sure, "why": {**task.why.to_json(), "text": sentence(task.why)}}
