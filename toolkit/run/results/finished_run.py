"""A run that has ended, opened again: its recipe as it ran, and what its steps left."""

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
    """What a run left. Records are read when first needed.

    Attributes:
        folder: the run folder.
        recipe: as it ran: every setting resolved, relative paths from the recipe's own folder.
        lock: what the run was made from.
        report: the joined report.
        job: the recipe at work; nothing is written into the run folder.
    """

    folder: Path
    recipe: Recipe
    lock: LockInfo
    report: Report
    job: Job

    @classmethod
    def of(cls, folder: Path, allow_code: bool = False, progress: Progress = silent) -> FinishedRun:
        """The run of a folder.

        Raises:
            QtoolError: no run ended here, or a later one began and did not end.
        """
        require_run_folder(folder)
        for name in ("report.json", "recipe.lock.toml"):
            if not (folder / name).is_file():
                raise QtoolError(f"the folder is not a run folder: it has no {name}", where=str(folder), remedy=_AGAIN)
        note = unfinished_note(folder)
        if note is not None:
            raise QtoolError(sentence(note), where=str(folder))
        recipe, lock = read_lock(folder / "recipe.lock.toml", RunState.load(folder).recipe_file(folder))
        job = Job(recipe, replace(RunFolder(folder), read_only=True), allow_code, progress)
        return cls(folder, recipe, lock, Report.load(folder / "report.json"), job)

    @property
    def name(self) -> str:
        """What to call it: its folder's name."""
        return self.folder.resolve().name

    @cached_property
    def inputs(self) -> Inputs:
        """What the recipe reads."""
        return Inputs(self.job)

    @cached_property
    def task(self) -> TaskRecord:
        """How the model is judged."""
        return self._left(TaskStep(self.inputs))

    @cached_property
    def passes(self) -> PassesRecord:
        """The graph after all passes: float32 with its pairs."""
        return self._left(PassesStep(self.inputs, self.task))

    @cached_property
    def lowering(self) -> LoweringRecord:
        """The final graph with its plan."""
        return self._left(LoweringStep(self.inputs, self.passes))

    @cached_property
    def engine(self) -> EngineRecord:
        """What the backend built."""
        return self._left(EngineStep(self.inputs, self.passes, self.lowering))

    @cached_property
    def compare(self) -> CompareRecord | None:
        """The unquantized model's engines; None where the recipe asks for none."""
        return self._left(CompareStep(self.inputs, self.passes)) if self.recipe.engine.compare else None

    def require_same_model(self) -> None:
        """Refuse where the float model, or its weights, have changed since: everything is compared with its outputs.

        Raises:
            DataError: they have, or the folder lies beside another recipe by now, which has another model.
        """
        changed = changed_since(self.inputs, self.lock.fingerprints, ("model", "external_data"))
        if changed:
            raise DataError(
                f"the float model {'was' if 'model' in changed else 'has weights that were'} changed since the run",
                where=str(self.job.model_path),
                remedy="run the recipe again, or restore the model as it was",
            )

    def other_samples(self) -> Finding | None:
        """A finding that the samples to measure on are not the run's own any more; None where they are."""
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
