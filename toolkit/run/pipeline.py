"""Running a recipe step by step; each step's result is kept and reused."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from toolkit.backends.choose import choose
from toolkit.backends.processes.process import ProcessDiedError
from toolkit.backends.trials.engine_cache import EngineCache
from toolkit.base.collection import return_free_blocks
from toolkit.base.errors import BackendError
from toolkit.base.progress import Progress, silent
from toolkit.base.reads import aside
from toolkit.contract.findings import Finding
from toolkit.contract.passes import Pass
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence
from toolkit.report.schema.report import StepInfo
from toolkit.run.checks.device import device_run_declined
from toolkit.run.checks.fallback import decided, fall_back, recall, remember
from toolkit.run.checks.preflight import opened, preflight
from toolkit.run.checks.rehearsal import rehearsed
from toolkit.run.folder.run_folder import BUILD_LOG, RunFolder
from toolkit.run.folder.state import Unfinished, mark_report
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.keys.keys import gpu_here
from toolkit.run.keys.step import Record, Step
from toolkit.run.recipe.recipe import Recipe
from toolkit.run.result import Result
from toolkit.run.steps.compare import CompareRecord, CompareStep
from toolkit.run.steps.device import DeviceRecord, DeviceStep, skipped
from toolkit.run.steps.engine import EngineRecord, EngineStep
from toolkit.run.steps.evaluation import EvaluationStep
from toolkit.run.steps.latencies import LatenciesStep
from toolkit.run.steps.lowering import LoweringRecord, LoweringStep
from toolkit.run.steps.open import OpenStep
from toolkit.run.steps.passes import PassesRecord, PassesStep
from toolkit.run.steps.report import ReportRecord, ReportStep, RunRecords
from toolkit.run.steps.task import TaskStep
from toolkit.run.task.samples import first_samples_fit
from toolkit.run.task.task import TaskRecord

StepListener = Callable[[StepInfo], None]
R = TypeVar("R", bound=Record)
_REFUSAL = "refusal"
NOT_ASKED = "the recipe does not ask for it any more"


def run(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    allow_code: bool = False,
    progress: Progress | None = None,
    on_step: StepListener | None = None,
    device_check: bool | None = None,
    passes: Pass | Sequence[Pass] | None = None,
    calibration: Any = None,
    evaluation: Any = None,
    metric: Any = None,
) -> Result:
    """Run a recipe: passes, lowering, engine, evaluation, report.

    Args:
        recipe: a recipe or the path of one.
        out: the run folder; ``runs/<recipe name>`` by default.
        allow_code: whether the recipe may name code (``module:Name``).
        progress: called with the current task, the amount done, and the total.
        on_step: called when a step is done or reused.
        device_check: whether to run the engine on this machine's GPU: True requires it, None does it if possible.
        passes: one or more passes that replace the recipe's.
        calibration: calibration samples that replace the recipe's: a path, or an object that can be iterated repeatedly
            and yields dictionaries of arrays with a batch axis, such as a torch DataLoader.
        evaluation: labelled test samples, likewise.
        metric: a metric that replaces the recipe's: its name, its class, or an object with ``update`` and ``value``.

    Raises:
        QtoolError: invalid input, a failing pass, or a backend that refuses the model; the message says what to do.
    """
    if not isinstance(recipe, Recipe):
        recipe = Recipe.load(recipe)
    recipe = recipe.with_objects(passes=passes, calibration=calibration, evaluation=evaluation, metric=metric)
    job = Job(recipe, RunFolder.of(recipe.name, out), allow_code, progress or silent)
    with opened(job):
        return Pipeline(Inputs(job), on_step, device_check).run()


class Pipeline:
    """The steps of one run, in order. The caller opens the run folder."""

    def __init__(self, inputs: Inputs, on_step: StepListener | None = None, device_check: bool | None = None) -> None:
        self.inputs, self.folder, self.device_check = inputs, inputs.job.folder, device_check
        self.on_step = on_step or (lambda info: None)
        self.steps: list[StepInfo] = []
        self._unfinished: Unfinished | None = None

    def run(self) -> Result:
        """Run every step whose key changed, reuse the results of the others, and write the report."""
        joined = self.follow(self.checked())
        self.folder.update(unfinished=None, before="", samples=self.inputs.prints.from_code())
        return Result(self.folder.path, joined.report(), self.steps)

    def follow(self, not_on_device: Finding | None) -> ReportRecord:
        """Run the steps in order; ``not_on_device`` is the reason if the engine will not be run on a GPU."""
        inputs, engine = self.inputs, self.inputs.job.recipe.engine
        task = self.do(TaskStep(inputs))
        passes = self.do(PassesStep(inputs, task))
        lowering, built = self.build(passes)
        # the run has its engine by now, which may be one that a pass built and measured
        EngineCache(self.folder.hidden).drop()
        blocks = self.do_if(engine.open, OpenStep(inputs, passes, lowering, built, not_on_device))
        plain = self.do_if(bool(engine.compare), CompareStep(inputs, passes))
        latencies = self.do_if(plain is not None, LatenciesStep(inputs, built, plain or CompareRecord(engines={})))
        evaluation = self.do(EvaluationStep(inputs, task, passes, lowering))
        device = self.on_device(task, built, not_on_device)
        found = RunRecords(task, passes, lowering, built, blocks, plain, latencies, evaluation, device)
        return self.do(ReportStep(inputs, found, list(self.steps)))

    def build(self, passes: PassesRecord) -> tuple[LoweringRecord, EngineRecord]:
        """The lowered model and its engine, from the next backend if the one chosen by ``auto`` cannot build it.

        A refusal is remembered, but not a crash: its cause may be gone by the next run.

        Raises:
            BackendError: the engine cannot be built, and there is no other backend.
        """
        inputs, job = self.inputs, self.inputs.job
        key, crashed = self.recall_refusal(passes), False
        while True:
            lowering = self.do(LoweringStep(inputs, passes))
            try:
                built = self.do(EngineStep(inputs, passes, lowering))
            except BackendError as error:
                if decided(job) or job.backend == "none":
                    raise
                fall_back(job, choose(job.backend)[0].name, error)
                job.refusal_logged = (self.folder.path / BUILD_LOG).is_file()
                crashed = crashed or isinstance(error, ProcessDiedError)
                if not crashed:
                    remember(job, _REFUSAL, key)
                # lower again for that backend
                self.steps = [info for info in self.steps if info.name != LoweringStep.name]
            else:
                return lowering, built

    def recall_refusal(self, passes: PassesRecord) -> dict[str, Any]:
        """Fall back as an earlier run with the same content had to; returns what step keys must contain of that."""
        inputs, job = self.inputs, self.inputs.job
        key = {**LoweringStep(inputs, passes).key(), "profiles": repr(job.profiles), "gpu": gpu_here()}
        recall(job, _REFUSAL, key)
        return key

    def checked(self) -> Finding | None:
        """Check the inputs before anything is computed; returns why the engine will not be run on a GPU, or None."""
        job = self.inputs.job
        preflight(job)
        why = device_run_declined(job.recipe, self.device_check)
        first_samples_fit(self.inputs)
        self.rehearse()
        return why

    def rehearse(self) -> None:
        """Try the passes and the backend's parser, without calibrating or building."""
        rehearsed(self.inputs)

    def do(self, step: Step[R]) -> R:
        """The step's record: reused if it is final and has the same key, otherwise computed."""
        start, key, first = time.perf_counter(), step.key(), not self.folder.knows(step.name)
        found, why = self.folder.find(step.name, key)
        record = step.load() if found else None
        if record is not None and not record.final:
            record, why = None, "it failed before"
        status: Literal["done", "reused"] = "reused" if record is not None else "done"
        if record is None:
            self._begin(step.name, why)
            self.inputs.job.progress(step.name, 0, 1)
            # with a large graph a third of the process's memory is free blocks that earlier steps left
            return_free_blocks()
            record = step.keep(step.run(), key, why)
        seconds = round(time.perf_counter() - start, 3)
        said = [sentence(one) for one in record.said]
        self.steps.append(StepInfo(name=step.name, status=status, seconds=seconds, why=why, first=first, said=said))
        with aside():
            self.on_step(self.steps[-1])
        if self._unfinished is not None:
            self._unfinished.current.append(step.name)
            self.folder.update(unfinished=self._unfinished)
        return record

    def _begin(self, step: str, why: str) -> None:
        """Mark earlier results as out of date before anything of this run is written."""
        if self._unfinished is None:
            self._unfinished = Unfinished(step=step, why=why, current=[info.name for info in self.steps])
            self.folder.update(unfinished=self._unfinished)
            mark_report(self.folder.path, self._unfinished)

    def do_if(self, wanted: bool, step: Step[R]) -> R | None:
        """The step's record; None, with any earlier result dropped, if the recipe does not ask for it."""
        if wanted:
            return self.do(step)
        if self.folder.knows(step.name):
            self.drop(step.name)
        return None

    def drop(self, step: str) -> None:
        """Drop the result of an earlier run."""
        self._begin(step, NOT_ASKED)
        self.folder.forget(step)

    def on_device(self, task: TaskRecord, engine: EngineRecord, not_wanted: Finding | None) -> DeviceRecord:
        """Run the engine on the GPU, if that is wanted and one was built.

        Raises:
            BackendError: ``--device-check`` requires it, but no engine was built or no sample could be run.
        """
        why = not_wanted or (ReportCode.BACKEND_BUILT_NOTHING() if engine.engine_file is None else None)
        done = self.do_if(why is None, DeviceStep(self.inputs, task, engine))
        record = done if done is not None else skipped(why or ReportCode.BACKEND_BUILT_NOTHING())
        if self.device_check and record.status == "skipped" and record.why is not None:
            raise BackendError(
                f"the engine was not run on the GPU: {sentence(record.why)}",
                where="--device-check",
                remedy="use a backend that builds an engine here, or leave out --device-check"
                if why is not None
                else "give samples that fill a batch of some profile, or leave out --device-check",
            )
        return record
