"""A dry run of a recipe: all data is read and every pass is tried, but nothing is calibrated or built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from toolkit.backends.codes import EngineCode
from toolkit.base.precision import Precision
from toolkit.base.progress import Progress, silent
from toolkit.base.text import count, samples_by_profile, text_of
from toolkit.calibration.codes import RangeCode
from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.contract.order import OrderCode
from toolkit.contract.roles import Role
from toolkit.data.codes import DataCode
from toolkit.evaluation.codes import EvaluationCode
from toolkit.report.codes import ReportCode
from toolkit.run.recipe.recipe import Recipe

if TYPE_CHECKING:
    from toolkit.contract.context import Context
    from toolkit.contract.passes import Pass
    from toolkit.data.dataset import CalibrationData
    from toolkit.graph.model import Model
    from toolkit.run.checks.rehearsal import Rehearsal
    from toolkit.run.inputs.inputs import Inputs
    from toolkit.run.task.task import TaskRecord

_QUIET = (Code.COMPLETE, Code.DEAD)
"""Findings about single nodes, or about ranges, which are placeholders in a dry run; they are not shown."""
_LOUD = (
    Code.QUANTIZED_SOURCE, Code.RANGES_MISSING, RangeCode.BY_HAND_UNUSED, RangeCode.BY_HAND_UNLIKE,
    RangeCode.OF_THE_WHOLE, Code.VALUES_NOT_OBSERVED, Code.NOT_RUN,
    Code.DRY_RUN_ENDED,
    EvaluationCode.OUTPUT_SHAPE_UNLIKE_DECLARED, EvaluationCode.LABELS_SHIFTED, EvaluationCode.LABELS_RENAMED,
    EvaluationCode.OTHER_THRESHOLD, EvaluationCode.LABELS_IN_OTHER_UNIT,
    EvaluationCode.FLOAT_MODEL_USELESS, EvaluationCode.SAYS_LITTLE,
    EvaluationCode.LABELS_FIT_NOTHING, EvaluationCode.LABELS_UNUSED,
    EvaluationCode.LABEL_OUT_OF_RANGE, EvaluationCode.LABEL_NOT_FINITE, EvaluationCode.LIMIT_NEVER_MISSED,
    EvaluationCode.LIMIT_WITHOUT_METRIC, DataCode.LABELS_OF_SOME,
    EvaluationCode.SAMPLES_OF_ROWS, DataCode.ROWS_UNDECIDED, Code.UNVARIED_SAMPLES,
    EngineCode.BACKEND_REFUSES_MODEL, Code.RANDOM_SOURCE, ReportCode.NEW_OUTPUT_UNSURE,
    DataCode.OPT_UNLIKE_NAME, DataCode.PREPARED_UNLIKE, DataCode.NORMALIZED_UNLIKE, DataCode.NOT_AS_LOCKED,
    DataCode.CALIBRATOR_LEFT_OUT, Code.FOREIGN_OPERATOR, Code.FEW_SAMPLES, ReportCode.SAMPLES_SHOW_NOTHING,
    Code.SKIPPED, Code.PADDED, Code.CROPPED, Code.CUT,
    OrderCode.AFTER_PAIRS, OrderCode.ALL_PAIRED, OrderCode.REQUESTS_LOST, Code.NO_QUANTIZED_WEIGHTS,
)  # fmt: skip
"""Findings that the user should look into before a run; they are shown as warnings."""


@dataclass
class DryRun:
    """The result of a dry run."""

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
        """A JSON-serializable dictionary."""
        return dict(self.__dict__)

    def to_text(self) -> str:
        """Lines of text for people."""
        lines = [
            f"{self.recipe}: can run",
            f"model: {count(self.nodes, 'node')}",
            "passes: " + (", ".join(self.passes) or "none"),
        ]
        lines.append("requested: " + (", ".join(f"{n} {p}" for p, n in sorted(self.asked.items())) or "nothing"))
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
        return text_of(lines)


def dry_run(recipe: Recipe, allow_code: bool = False, progress: Progress = silent) -> DryRun:
    """Read the model and all data, run one sample, try every pass with placeholder ranges, and report the result.

    ``progress`` is called while samples that come from user code are read.

    Raises:
        QtoolError: any error that a run would raise.
    """
    from toolkit.base.code import import_path
    from toolkit.base.collection import collector_seldom
    from toolkit.base.temporary import temporary_folder
    from toolkit.report.findings import sentence
    from toolkit.run.checks.preflight import preflight
    from toolkit.run.checks.rehearsal import rehearse
    from toolkit.run.folder.run_folder import RunFolder
    from toolkit.run.inputs.inputs import Inputs
    from toolkit.run.job import Job
    from toolkit.run.recipe.passes import passes_of

    with (
        temporary_folder("check") as folder,
        import_path(recipe.folder if allow_code else None),
        collector_seldom(),
    ):
        inputs = Inputs(Job(recipe, RunFolder(folder), allow_code, progress))
        preflight(inputs.job)
        journal = Journal()
        steps = passes_of(recipe, allow_code)
        source = inputs.source(journal)
        calibration, evaluation, task = _samples_read(inputs, source, journal)
        found = rehearse(inputs, steps, journal)
    return DryRun(
        recipe=str(recipe.path or recipe.name),
        nodes=len(source.node_names()),
        asked=dict(Counter(str(ask.precision) for _, ask in found.context.plan.items())),
        declined=[
            {"node": e.node, "rule": e.rule, "reason": sentence(e.why), "by": e.by} for e in journal.of("declined")
        ],
        notes=_notes(found, steps),
        warnings=_warnings(recipe, found, source),
        passes=[step.title() for step in steps],
        calibration=calibration,
        evaluation=evaluation,
        task=_task(task),
        backend=f"{found.backend.name} ({_reason(found.reason)})",
    )


def _samples_read(inputs: Inputs, source: Model, journal: Journal) -> tuple[dict[str, Any], dict[str, Any], TaskRecord]:
    """Read all samples and infer the task; returns the counts of calibration and evaluation samples, and the task.

    Raises:
        QtoolError: there are samples that a run would refuse, or none to calibrate on.
    """
    from toolkit.run.inputs.calibrator import given_count
    from toolkit.run.task.samples import fit, sample_counts
    from toolkit.run.task.task import task_of

    data = inputs.calibration_data(source, journal)
    test, _ = inputs.evaluation_data(source)
    _note_unvaried(source, data, test, journal)
    calibration = sample_counts(data)
    _note_scarce(calibration, inputs, journal)
    if test is not None:
        fit(inputs, test)
        for changed in test.changed():
            journal.noted(changed)
    evaluation = sample_counts(test)
    _note_single_row(source, test, evaluation, journal)
    for left_out in inputs.calibrator_left_out():
        journal.noted(left_out)
    task = task_of(inputs)
    for note in (*task.notes, task.suspicion):
        if note is not None:
            journal.noted(note)
    if given := given_count(inputs.job.recipe, inputs):
        calibration["ranges"] = given
    elif data is not None and not data.counts.samples:
        raise data.no_samples_error()
    return calibration, evaluation, task


def _note_unvaried(
    source: Model, calibration: CalibrationData | None, evaluation: CalibrationData | None, journal: Journal
) -> None:
    """Note inputs that hardly vary between samples."""
    from toolkit.data.unvaried import unvaried
    from toolkit.graph.interface.used_inputs import used_inputs

    used = used_inputs(source)
    for samples, of in ((calibration, "calibration"), (evaluation, "evaluation")):
        for said in unvaried(samples, of, used) if samples is not None else ():
            journal.noted(said)


def _note_scarce(calibration: Mapping[str, Any], inputs: Inputs, journal: Journal) -> None:
    """Note profiles with few calibration samples."""
    counted = {name: number for name, number in calibration.get("profiles", {}).items() if number}
    for scarce in inputs.scarce(counted):
        journal.noted(scarce)


def _note_single_row(source: Model, test: CalibrationData | None, counts: Mapping[str, Any], journal: Journal) -> None:
    """Note that a single evaluation sample with one row says nothing about accuracy."""
    from toolkit.evaluation.observation.fixed_rows import rows_at_once

    only = next(test.samples()).inputs if test is not None and counts.get("samples") == 1 else None
    if only is not None and rows_at_once(source, only) == 1:
        journal.noted(ReportCode.SAMPLES_SHOW_NOTHING(samples=1))


def _notes(found: Rehearsal, steps: Sequence[Pass]) -> list[str]:
    """Findings about the run as a whole, each sentence once, since both data sets may produce the same one."""
    from toolkit.report.findings import sentence

    noted = (event.why for event in found.context.journal.of("noted"))
    said = dict.fromkeys(sentence(why) for why in noted if why.code not in (*_QUIET, *_LOUD))
    return [*said, *map(sentence, _why_nothing(found.context, steps))]


def _warnings(recipe: Recipe, found: Rehearsal, source: Model) -> list[str]:
    """Findings that the user should look into before a run."""
    from toolkit.report.findings import sentence
    from toolkit.run.checks.gpu_types import types_lacking

    loud = [event.why for event in found.context.journal.of("noted") if event.why.code in _LOUD]
    lacking = types_lacking(recipe, _types(found, source), found.backend.name)
    return list(dict.fromkeys(sentence(why) + _remedy(why) for why in (*loud, *lacking)))


def _reason(why: Finding) -> str:
    """Why a backend is used; not in full if it is one of the warnings, which have the remedy too."""
    from toolkit.report.findings import sentence

    return "see the warnings" if why.code in _LOUD else sentence(why)


def _remedy(why: Finding) -> str:
    """The remedy for a model that a backend refuses, which a run lists among its suggestions."""
    remedy = str(why.values.get("remedy", "")) if why.code is EngineCode.BACKEND_REFUSES_MODEL else ""
    return f". {remedy[:1].upper()}{remedy[1:]}." if remedy else ""


def _types(found: Rehearsal, source: Model) -> set[Precision]:
    """The types that the passes request, and those of Q/DQ pairs already in the model."""
    from toolkit.run.checks.gpu_types import types_of_pairs

    return {ask.precision for _, ask in found.context.plan.items()} | types_of_pairs(source)


def _why_nothing(context: Context, steps: Sequence[Pass]) -> list[Finding]:
    """Why no layer is requested to run quantized, unless declined layers already say so."""
    quantizers = [step.title() for step in steps if step.role in (Role.QUANTIZE, Role.SEARCH)]
    if any(ask.precision.quantized for _, ask in context.plan.items()):
        return []
    if not quantizers:
        return [ReportCode.NO_PASS_QUANTIZES()]
    if any(event.by in quantizers for event in context.journal.of("declined")):
        return []
    return [ReportCode.NO_LAYER_TO_QUANTIZE()]


def _task(task: TaskRecord) -> dict[str, Any]:
    """The task that the model is judged by, and why."""
    from toolkit.report.findings import sentence

    if task.why is None:
        return {}
    text = " ".join(map(sentence, task.reading))
    return {"task": task.task, "sure": task.sure, "why": {**task.why.to_json(), "text": text}}
