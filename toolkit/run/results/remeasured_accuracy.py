"""New measurements of a finished run's accuracy: of its engine or model, on its own or other samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toolkit.base.errors import BackendError, DataError, QtoolError
from toolkit.contract.findings import Finding
from toolkit.evaluation.metrics.table import task_of
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.verdict import verdict
from toolkit.report.findings import sentence
from toolkit.report.schema.accuracy import Accuracy
from toolkit.report.schema.report import DeviceInfo, Verdict
from toolkit.run.checks.device import refusal
from toolkit.run.checks.preflight import preflight, reachable
from toolkit.run.folder.guard import refuse_missing
from toolkit.run.recipe.recipe import Recipe
from toolkit.run.recipe.sections import BudgetSection
from toolkit.run.result import no_engine, status_of
from toolkit.run.results.finished_run import FinishedRun
from toolkit.run.steps.accuracy import accuracy_of, device_of
from toolkit.run.steps.device import DeviceStep
from toolkit.run.steps.evaluation import EvaluationStep
from toolkit.run.steps.task import TaskStep

On = Literal["auto", "engine", "onnxruntime"]


@dataclass(frozen=True)
class MeasuredAgain:
    """The result of measuring a run's accuracy again.

    Attributes:
        run: the run folder.
        data: the data that it was measured on.
        accuracy: accuracy of model.onnx in onnxruntime; None if the engine was run.
        device: results of the engine on the GPU; None if it was not run.
        why: why the engine was not run, with ``on="auto"``.
        changed: a finding if the run's samples have changed since; None if they have not, or other samples were given.
    """

    run: Path
    data: str
    accuracy: Accuracy | None = None
    device: DeviceInfo | None = None
    why: Finding | None = None
    changed: Finding | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict, as in a run."""
        return verdict(self.accuracy, self.device)

    @property
    def exit_status(self) -> int:
        """The exit status, as in a run."""
        on_device = self.device.accuracy if self.device is not None else None
        return status_of(self.verdict, self.accuracy or on_device, self.device)

    def to_json(self) -> dict[str, Any]:
        """A JSON-serializable dictionary."""
        accuracy, device = (part.model_dump(mode="json", by_alias=True) if part else None
                            for part in (self.accuracy, self.device))  # fmt: skip
        return {
            "run": str(self.run), "data": self.data, "verdict": self.verdict, "accuracy": accuracy, "device": device,
            "exit_status": self.exit_status,
            "warnings": [sentence(self.changed)] if self.changed is not None else [],
        }  # fmt: skip


def remeasure_accuracy(
    run: FinishedRun, data: str | None = None, metric: str | None = None, samples: int | None = None, on: On = "auto"
) -> MeasuredAgain:
    """Measure a run's engine on the GPU, or its model.onnx in onnxruntime, and judge the result as in a run.

    Args:
        data: other samples than the recipe's: a file, a folder, or code as a recipe names it.
        metric: another metric, judged by its own default limit, since the recipe's budget is meant for the recipe's
            metric.
        samples: use at most this many.
        on: what to run; ``auto`` chooses the engine if it exists and can run here.

    Raises:
        BackendError: the engine is requested but does not exist, or cannot run here.
        DataError: there are no samples, or the float model has changed since the run.
    """
    section, job = run.recipe.evaluation, run.job
    if data is not None:
        if not job.names_code(data):
            refuse_missing(Path(data).expanduser(), "--data names something that does not exist")
            data = str(Path(data).expanduser().absolute())
        run.recipe.override("--data", "evaluation", "data", data)
    if metric is not None:
        judge_by(run.recipe, metric, run.task.task)
    if samples is not None:
        run.recipe.override("--samples", "evaluation", "samples", samples)
    # errors of single layers are not needed
    section.layer_samples = 1
    with reachable(job):
        preflight(job)
        run.require_same_model()
        changed = run.other_samples() if data is None else None
        why = _not_on_engine(run, on)
        task = run.task if data is None and metric is None else TaskStep(run.inputs).run()
        source = str(section.data or run.recipe.calibration.data or "the recipe's samples")
        if why is None:
            record = DeviceStep(run.inputs, task, run.engine).run()
            return MeasuredAgain(run.folder, source, device=device_of(record, section.budget, task), changed=changed)
        found = EvaluationStep(run.inputs, task, run.passes, run.lowering).run()
        if found.found is None:
            raise DataError("there is no sample to measure on", where=str(run.folder), remedy="give --data")
        judged = accuracy_of(found.found, section.budget, held_out=found.held_out, random=found.random, task=task)
        return MeasuredAgain(run.folder, source, judged, why=why if on == "auto" else None, changed=changed)


def judge_by(recipe: Recipe, metric: str, task: str) -> None:
    """Judge by another metric, as ``--metric`` requests.

    Args:
        recipe: the recipe, which is changed.
        metric: the metric; a user-defined one belongs to no task, so the run's task stays.
        task: the run's task.
    """
    section = recipe.evaluation
    if task_of(metric) not in ("", task):
        # these settings belong to the task of the recipe's metric
        section.blank = section.space = section.threshold = None
    recipe.override("--metric", "evaluation", "metric", metric)
    section.budget = BudgetSection()


def _not_on_engine(run: FinishedRun, on: On) -> Finding | None:
    """Why model.onnx is run in onnxruntime instead of the engine; None if the engine is run.

    Raises:
        QtoolError: the engine is requested and cannot be run.
    """
    if on == "onnxruntime":
        return ReportCode.DEVICE_CHECK_OFF()
    fault: QtoolError | None = no_engine(run.folder, run.report, ", or use --on onnxruntime")
    if run.engine.engine_file is not None:
        recipe = run.recipe.model_copy(deep=True)
        recipe.engine.backend = run.engine.build.backend  # type: ignore[assignment]
        try:
            fault = refusal(recipe)
        except BackendError as error:
            fault = error
    if fault is not None and on == "engine":
        raise fault
    return ReportCode.DEVICE_NOT_USABLE(error=fault.what) if fault is not None else None
