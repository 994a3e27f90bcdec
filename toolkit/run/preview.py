"""Which steps a run would do again and which it would reuse, and why; nothing is computed, built or written."""

from __future__ import annotations

from contextlib import suppress
from copy import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from toolkit.base.errors import QtoolError
from toolkit.base.temporary import temporary_folder
from toolkit.base.text import text_of
from toolkit.contract.findings import Finding
from toolkit.contract.journal import Journal
from toolkit.run.checks.preflight import reachable
from toolkit.run.checks.rehearsal import recalled, rehearse
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.keys.step import Record, Step
from toolkit.run.pipeline import NOT_ASKED, Pipeline
from toolkit.run.recipe.passes import passes_of
from toolkit.run.recipe.recipe import Recipe
from toolkit.run.steps.device import DeviceRecord, DeviceStep, skipped
from toolkit.run.steps.engine import EngineRecord
from toolkit.run.steps.passes import PassesRecord, PassesStep
from toolkit.run.steps.report import ReportStep
from toolkit.run.task.task import TaskRecord

R = TypeVar("R", bound=Record)
StepFate = Literal["anew", "kept", "depends", "dropped"]
_WORDS = {"anew": "will run", "kept": "from the cache", "depends": "it depends", "dropped": "dropped"}


@dataclass(frozen=True)
class StepPreview:
    """What a run would do with one step.

    Attributes:
        step: its name.
        fate: ``anew``; ``kept``: its result is reused; ``depends``: it is reused if the earlier steps that are done
            again give the same results; ``dropped``: the recipe no longer asks for it.
        why: the reason, in words.
        parts: the parts of its work that would be reused although the step is done again.
    """

    step: str
    fate: StepFate
    why: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunPreview:
    """What a run would do.

    Attributes:
        folder: the run folder.
        steps: in their order.
    """

    folder: Path
    steps: tuple[StepPreview, ...]

    def to_json(self) -> dict[str, Any]:
        """The machine form."""
        return {"folder": str(self.folder), "steps": [asdict(step) for step in self.steps]}

    def to_text(self) -> str:
        """For people."""
        lines = [f"{self.folder}: what this run would do; nothing was done"]
        for one in self.steps:
            lines.append(f"{one.step:<12} {_WORDS[one.fate]:<15} {one.why}")
            lines += [f"{'':<12} {'':<15} {part}" for part in one.parts]
        return text_of(lines)


def preview(
    recipe: Recipe, out: str | Path | None = None, *, allow_code: bool = False, device_check: bool | None = None
) -> RunPreview:
    """Preview a run of this recipe.

    Args:
        out: the run folder; ``runs/<recipe name>`` by default.
        allow_code: whether the recipe may name code (``module:Name``).
        device_check: as for a run.

    Raises:
        QtoolError: whatever would keep the run from starting.
    """
    job = Job(recipe, replace(RunFolder.of(recipe.name, out), read_only=True), allow_code)
    with reachable(job):
        return _Preview(Inputs(job), device_check=device_check).look()


class _Unmade:
    """Takes the place of a record that only a run can make; reading it raises an error."""

    def __getattr__(self, name: str) -> Any:
        raise _UnmadeError(name)


class _UnmadeError(Exception):
    """A key depends on the result of a step that is not done yet."""


class _Preview(Pipeline):
    """The steps of a run, each only looked up; for a step that would be done again, the earlier result is used."""

    def __init__(self, inputs: Inputs, device_check: bool | None = None) -> None:
        super().__init__(inputs, device_check=device_check)
        self.found: list[StepPreview] = []
        self._unsure: dict[int, str] = {}
        self._statistics: list[str] = []

    def look(self) -> RunPreview:
        """All steps."""
        self.follow(self.checked())
        return RunPreview(self.folder.path, tuple(self.found))

    def rehearse(self) -> None:
        job = self.inputs.job
        steps = passes_of(job.recipe, job.allow_code)
        if recalled(self.inputs) and self.folder.find(PassesStep.name, PassesStep(self.inputs, TaskRecord()).key())[0]:
            return
        if not all(step.supports_dry_run for step in steps):
            return
        with temporary_folder("preview") as folder:
            twin = Inputs(replace(job, folder=RunFolder(folder)))
            rehearse(twin, steps, Journal(), self._statistics)
            job.fallback = twin.job.fallback

    def recall_refusal(self, passes: PassesRecord) -> dict[str, Any]:
        try:
            return super().recall_refusal(passes)
        except _UnmadeError:
            # a new build may be refused again
            return {}

    def do(self, step: Step[R]) -> R:
        record, before = self._left(step), self._before(step)
        known = self.folder.knows(step.name)
        try:
            kept, why = self.folder.find(step.name, step.key()) if known else (False, "not done before")
        except _UnmadeError:
            kept, why = False, f"it needs the result of '{before[0] if before else 'an earlier step'}'"
        if kept and (record is None or not record.final):
            kept, why = False, "it failed before"
        fate: StepFate = "anew" if not kept else "depends" if before else "kept"
        if fate == "depends":
            names = " and ".join(f"'{name}'" for name in before)
            why = f"reused if {names} {'produces' if len(before) == 1 else 'produce'} the same as before"
        parts = self._parts() if step.name == PassesStep.name and fate == "anew" else ()
        self.found.append(StepPreview(step.name, fate, why, parts))
        taken = record if record is not None else cast(R, _Unmade())
        if fate != "kept":
            self._unsure[id(taken)] = step.name
        return taken

    def drop(self, step: str) -> None:
        self.found.append(StepPreview(step, "dropped", NOT_ASKED))

    def on_device(self, task: TaskRecord, engine: EngineRecord, not_wanted: Finding | None) -> DeviceRecord:
        if id(engine) not in self._unsure:
            return super().on_device(task, engine, not_wanted)
        if not_wanted is None:
            return self.do(DeviceStep(self.inputs, task, engine))
        self.do_if(False, DeviceStep(self.inputs, task, engine))
        return skipped(not_wanted)

    def _left(self, step: Step[R]) -> R | None:
        """The step's earlier result, even if it is out of date; None if it cannot be read."""
        with suppress(OSError, ValueError, QtoolError):
            return step.load()
        return None

    def _before(self, step: Step[Any]) -> list[str]:
        """The steps whose results are part of this step's key and may change."""
        if isinstance(step, ReportStep):
            return [self._unsure[id(value)] for value in vars(step.found).values() if id(value) in self._unsure]
        found = []
        for name, value in vars(step).items():
            if id(value) in self._unsure:
                blind = copy(step)
                setattr(blind, name, _Unmade())
                try:
                    blind.key()
                except _UnmadeError:
                    found.append(self._unsure[id(value)])
        return found

    def _parts(self) -> tuple[str, ...]:
        """What calibration would reuse."""
        kept = [name for name in dict.fromkeys(self._statistics) if (self.folder.hidden / name).is_file()]
        return tuple(f"calibration statistics are reused: .qtool/{name}" for name in kept)
