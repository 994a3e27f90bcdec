"""A finished run, loaded from its folder: its recipe as it was run, and the results of its steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from toolkit.base.errors import DataError, QtoolError
from toolkit.base.progress import Progress, silent
from toolkit.contract.findings import Finding
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence
from toolkit.report.schema.report import Report
from toolkit.run.folder.guard import require_run_folder
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.folder.state import RunState, unfinished_note
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.keys.lock import LockInfo, changed_since, read_lock
from toolkit.run.keys.step import Record, Step
from toolkit.run.recipe.recipe import Recipe
from toolkit.run.steps.compare import CompareRecord, CompareStep
from toolkit.run.steps.engine import EngineRecord, EngineStep
from toolkit.run.steps.lowering import LoweringRecord, LoweringStep
from toolkit.run.steps.passes import PassesRecord, PassesStep
from toolkit.run.steps.task import TaskStep
from toolkit.run.task.task import TaskRecord

R = TypeVar("R", bound=Record)
_AGAIN = "run its recipe again"


@dataclass
class FinishedRun:
    """The results of a run. Records are read when first needed.

    Attributes:
        folder: the run folder.
        recipe: the recipe as it was run: every setting resolved, paths relative to the recipe's own folder.
        lock: the versions and fingerprints of the run's inputs.
        report: the combined report.
        job: the recipe's job; the run folder is read-only.
    """

    folder: Path
    recipe: Recipe
    lock: LockInfo
    report: Report
    job: Job

    @classmethod
    def of(cls, folder: Path, allow_code: bool = False, progress: Progress = silent) -> FinishedRun:
        """Load the run in a folder.

        Raises:
            QtoolError: the folder has no finished run or has lost its state, or a later run has begun but not finished.
        """
        require_run_folder(folder)
        for name in ("report.json", "recipe.lock.toml"):
            if not (folder / name).is_file():
                raise QtoolError(f"the folder is not a run folder: it has no {name}", where=str(folder), remedy=_AGAIN)
        note = unfinished_note(folder)
        if note is not None:
            raise QtoolError(sentence(note), where=str(folder))
        state = RunState.load(folder)
        if not state.known:
            raise QtoolError(
                "the run folder no longer knows its recipe, which its paths are relative to: .qtool/state.json is "
                "missing or damaged",
                where=str(folder),
                remedy=f"{_AGAIN} with this folder as --out: finished steps are reused",
            )
        recipe, lock = read_lock(folder / "recipe.lock.toml", state.recipe_file(folder))
        job = Job(recipe, replace(RunFolder(folder), read_only=True), allow_code, progress)
        return cls(folder, recipe, lock, Report.load(folder / "report.json"), job)

    @property
    def name(self) -> str:
        """The run's name in messages and tables: that of its folder."""
        return self.folder.resolve().name

    @cached_property
    def inputs(self) -> Inputs:
        """The recipe's inputs."""
        return Inputs(self.job)

    @cached_property
    def task(self) -> TaskRecord:
        """The task that the model is judged by."""
        return self._left(TaskStep(self.inputs))

    @cached_property
    def passes(self) -> PassesRecord:
        """The graph after all passes: float32 with Q/DQ pairs."""
        return self._left(PassesStep(self.inputs, self.task))

    @cached_property
    def lowering(self) -> LoweringRecord:
        """The final graph with its plan."""
        return self._left(LoweringStep(self.inputs, self.passes))

    @cached_property
    def engine(self) -> EngineRecord:
        """The backend's build of the engine."""
        return self._left(EngineStep(self.inputs, self.passes, self.lowering))

    @cached_property
    def compare(self) -> CompareRecord | None:
        """The engines of the unquantized model; None if the recipe requests none."""
        return self._left(CompareStep(self.inputs, self.passes)) if self.recipe.engine.compare else None

    def require_same_model(self) -> None:
        """Check that the float model and its weights are unchanged, since results are compared with its outputs.

        Raises:
            DataError: they changed, or the run folder was moved next to a recipe with another model.
        """
        changed = changed_since(self.inputs, self.lock.fingerprints, ("model", "external_data"))
        if changed:
            raise DataError(
                f"the float model {'was' if 'model' in changed else 'has weights that were'} changed since the run",
                where=str(self.job.model_path),
                remedy="run the recipe again, or restore the model as it was",
            )

    def other_samples(self) -> Finding | None:
        """A finding if the samples to measure on have changed since the run; None if they have not."""
        name = "evaluation_data" if self.recipe.evaluation.data is not None else "calibration_data"
        if not changed_since(self.inputs, self.lock.fingerprints, (name,)):
            return None
        return ReportCode.OTHER_SAMPLES_BY_NOW(data=self.recipe.evaluation.data or str(self.recipe.calibration.data))

    def _left(self, step: Step[R]) -> R:
        """The record of a step.

        Raises:
            QtoolError: it cannot be read, or a file that it names has changed since.
        """
        broken = self.job.folder.damage(step.name)
        if broken:
            raise QtoolError(f"step '{step.name}': {broken}", where=str(self.folder), remedy=_AGAIN)
        try:
            return step.load()
        except (OSError, ValueError) as error:
            raise QtoolError(
                f"the result of step '{step.name}' cannot be read", where=str(self.folder), remedy=_AGAIN
            ) from error
