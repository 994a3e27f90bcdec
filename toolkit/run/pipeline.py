"""A recipe run step by step; each step's result is kept and found again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.base.errors import DataError, QtoolError
from toolkit.base.files import write_json, write_text
from toolkit.base.precision import Precision
from toolkit.base.progress import Progress, silent
from toolkit.base.text import count
from toolkit.base.versions import versions
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan
from toolkit.run.build import build_engine
from toolkit.run.checks import inputs_exist, names_exist, opened
from toolkit.run.compare import comparable, compare, measure_in_turn
from toolkit.run.context import context_for
from toolkit.run.device import check_on_device, not_wanted
from toolkit.run.engine_settings import engine_settings
from toolkit.run.folder import RunFolder, StepInfo
from toolkit.run.guard import FILES
from toolkit.run.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.open import open_opaque
from toolkit.run.recipe import Recipe
from toolkit.run.recipe_passes import passes_of
from toolkit.run.samples import first_samples_fit
from toolkit.run.step_keys import StepKeys

if TYPE_CHECKING:
    from toolkit.backends.base import Extras
    from toolkit.contract.context import Context
    from toolkit.contract.ranges import Ranges
    from toolkit.graph.model import Model
    from toolkit.report.schema import Report

StepListener = Callable[[StepInfo], None]


@dataclass
class Result:
    """What a run left.

    Attributes:
        folder: the run folder.
        report: the joined report.
        steps: what was done and what was found again.
        exit_status: 0; 1 where a target was missed or the result is broken; 3 where the engine failed on its own GPU.
    """

    folder: Path
    report: Report
    steps: list[StepInfo] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        """0 done; 1 done, but the result misses its target or is broken; 3 the engine does not run on its own GPU."""
        if self.report.device is not None and self.report.device.status == "failed":
            return 3
        return 0 if self.report.summary.verdict in ("usable", "unmeasured") else 1

    @property
    def files(self) -> list[Path]:
        """The files of the run folder that are for people and other tools."""
        weights = sorted(self.folder.glob("model.onnx.*.data"))
        return [*(p for name in FILES if (p := self.folder / name).exists()), *weights]


def run(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    allow_code: bool = False,
    progress: Progress | None = None,
    on_step: StepListener | None = None,
    device_check: bool | None = None,
) -> Result:
    """Run a recipe: passes, lowering, engine, evaluation, report.

    Args:
        recipe: a recipe or the path of one.
        out: the run folder; ``runs/<recipe name>`` by default.
        allow_code: whether the recipe may name code (``module:Name``).
        progress: called with what is being done, how much is done, and of how much.
        on_step: called when a step is done or found again.
        device_check: whether the engine is run on this machine's GPU: True demands it, None does it where it can.

    Raises:
        QtoolError: bad input, a failing pass, or a backend that refuses; the message says what to do.
    """
    if not isinstance(recipe, Recipe):
        recipe = Recipe.load(recipe)
    folder = Path(out) if out is not None else Path("runs") / recipe.name
    pipeline = Pipeline(recipe, RunFolder(folder), allow_code, progress, on_step, device_check)
    with opened(pipeline.job):
        return pipeline.run()


class Pipeline(StepKeys):
    """One run of one recipe in one folder."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        allow_code: bool = False,
        progress: Progress | None = None,
        on_step: StepListener | None = None,
        device_check: bool | None = None,
    ) -> None:
        super().__init__(Inputs(Job(recipe, folder, allow_code, progress or silent)))
        self.recipe, self.folder, self.allow_code = recipe, folder, allow_code
        self.progress, self.profiles = self.job.progress, self.job.profiles
        self.device_check = device_check
        self.on_step = on_step or (lambda info: None)
        self.path = folder.path

    # ---------------------------------------------------------------- the whole

    def run(self) -> Result:
        """Do every step whose key changed, reuse the others, and join the report."""
        from toolkit.report.schema import Report

        inputs_exist(self.job)
        names_exist(self.job)
        engine_settings(self.recipe)
        comparable(self.job)
        self.not_on_device = not_wanted(self.recipe, self.device_check)
        first_samples_fit(self.inputs, self.samples_key())
        self.step("passes", self.prepare_key(), self._prepare)
        self.step("lowering", self.lower_key(), self._lower)
        self.step("engine", self.build_key(), lambda: build_engine(self))
        open_opaque(self)
        if self.recipe.engine.compare:
            self.step("compare", self.compare_key(), lambda: compare(self, self._ranges()))
            self.step("latencies", self.latencies_key(), lambda: measure_in_turn(self))
        else:
            self.folder.forget("compare", "latencies")
        self.step("evaluation", self.evaluate_key(), self._evaluate)
        check_on_device(self)
        self.step("report", self.report_key(), self._report)
        return Result(self.path, Report.load(self.path / "report.json"), self.folder.steps)

    def step(self, name: str, key: Mapping[str, Any], work: Callable[[], list[Path]]) -> None:
        """Do the step, or find its result again where its key is the same."""
        start = time.perf_counter()
        found, why = self.folder.find(name, key)
        if not found:
            self.folder.forget(name)
            self.folder.store(name, key, work(), why)
        self.on_step(self.folder.done(name, time.perf_counter() - start, found, why))

    # ---------------------------------------------------------------- steps

    def _prepare(self) -> list[Path]:
        from toolkit.contract.passes import Sequence as PassSequence
        from toolkit.graph.header import model_files

        for name in ("search.json", "faster.json"):
            # of a run that was interrupted: the report would take it for this one's
            (self.path / name).unlink(missing_ok=True)
        steps = passes_of(self.recipe, self.allow_code)
        journal = Journal()
        journal.by = "load"
        model = self.inputs.source(journal).copy()
        context = context_for(self.inputs, model, journal)
        try:
            PassSequence(passes=steps)(model, context)
        except QtoolError as error:
            if not error.where:
                raise type(error)(error.what, where=str(self.recipe.path or ""), remedy=error.remedy) from error
            raise
        ranges = self._observed(model, context)
        if ranges is not None:
            self._diagnose(ranges, journal, model)
        hidden = self.folder.hidden
        model.source = None
        model.save(hidden / "prepared.onnx")
        write_json(hidden / "plan.json", context.plan.to_json())
        write_text(hidden / "passes.jsonl", journal.to_jsonl())
        written = [*model_files(hidden / "prepared.onnx"), hidden / "plan.json", hidden / "passes.jsonl"]
        if ranges is not None:
            ranges.save(self.path / "ranges.json")
            written.append(self.path / "ranges.json")
        written += context.files
        return written

    def _diagnose(self, ranges: Ranges, journal: Journal, model: Model) -> None:
        """Note quantized tensors that no one scale serves in all profiles, and profiles with too few samples."""
        from toolkit.calibration.diagnosis import sparse_profiles, unlike_profiles
        from toolkit.placement.qdq import quantized_tensors

        journal.by = "calibration"
        all_count = self.recipe.engine.quantization == "implicit"
        quantized = quantized_tensors(model)
        for one in unlike_profiles(ranges, self.recipe.calibration.unlike):
            if all_count or one.tensor in quantized:
                journal.noted(
                    f"the range of '{one.tensor}' in profile '{one.high}' is {one.ratio:.1f} times that in '{one.low}'",
                    rule="unlike profiles",
                )
        for profile, number in sparse_profiles(ranges.samples).items():
            journal.noted(f"profile '{profile}' had only {count(number, 'calibration sample')}", rule="few samples")

    def _observed(self, model: Model, context: Context) -> Ranges | None:
        """The ranges that the passes asked for, with what float16's limits need: values seen of every tensor."""
        ranges = context.known_ranges
        if (ranges is None or not ranges.observed) and context.provider is not None:
            ranges = context.ranges(self.inputs.source())
        if ranges is not None:
            ranges.made_from = {
                "model": self.inputs.prints.of(self.job.model_path),
                "data": self.inputs.prints.of_data(self.recipe.calibration.data),
                "settings": self.recipe.calibration.model_dump(mode="json"),
                "versions": versions(),
            }
        return ranges

    def _ranges(self) -> Ranges | None:
        from toolkit.contract.ranges import Ranges

        path = self.path / "ranges.json"
        return Ranges.load(path) if path.exists() else None

    def _lower(self) -> list[Path]:
        from toolkit.backends.choose import choose
        from toolkit.backends.prepare import lower_for, save_for
        from toolkit.graph.header import model_files
        from toolkit.graph.model import Model
        from toolkit.report.findings import sentence

        hidden = self.folder.hidden
        model = Model.load(hidden / "prepared.onnx")
        plan = _read_plan(hidden / "plan.json")
        journal = Journal()
        backend, _ = choose(self.recipe.engine.backend)
        settings, ranges = engine_settings(self.recipe), self._ranges()
        io = {name: Precision(value) for name, value in self.recipe.engine.io.items()}
        observed = ranges.observed if ranges else None
        lowered = lower_for(
            backend, settings, model, plan, rest=self.recipe.rest, observed=observed, io=io, journal=journal
        )
        lowered.say(sentence)
        save_for(backend, settings, lowered.model, self.path / "model.onnx")
        write_json(hidden / "lowered_plan.json", lowered.plan.to_json())
        write_text(hidden / "lowering.jsonl", journal.to_jsonl())
        return [*model_files(self.path / "model.onnx"), hidden / "lowered_plan.json", hidden / "lowering.jsonl"]

    def extras(self, plan: PrecisionPlan) -> Extras:
        """What a build needs besides the model: the plan, ranges and calibration batches."""
        from toolkit.backends.base import Extras

        section = self.recipe.engine
        return Extras(
            plan=plan,
            rest=section.rest,
            ranges=self._ranges(),
            batches=self.inputs.calibrator_batches(),
            calibration_profile=section.calibration_profile or next(iter(self.profiles.names), ""),
            calibration_cache=self.path / "calibration.cache" if section.calibrator != "ranges" else None,
        )

    def _evaluate(self) -> list[Path]:
        from toolkit.evaluation.evaluate import evaluate
        from toolkit.graph.model import Model

        source = self.inputs.reference()
        data, held_out = self.inputs.evaluation_data(source)
        path = self.folder.hidden / "evaluation.json"
        section = self.recipe.evaluation
        if data is None:
            write_json(path, {"measured": False, "held_out": True})
            return [path]
        if len(data) == 0:
            raise DataError(
                "there is no sample to measure on",
                where=self.recipe.locate("evaluation"),
                remedy="add [evaluation] data",
            )
        found = evaluate(
            source,
            Model.load(self.path / "model.onnx"),
            data,
            metric=section.metric,
            output=section.output,
            batch=section.batch,
            samples=section.samples,
            layer_samples=section.layer_samples,
            progress=self.progress,
            allow_code=self.allow_code,
            # float32 with its pairs: onnxruntime has no bfloat16 kernels on the CPU
            prepared=lambda: Model.load(self.folder.hidden / "prepared.onnx"),
        )
        write_json(path, {"measured": True, "held_out": held_out, "random": data.random, **found.to_json()})
        return [path]

    def _report(self) -> list[Path]:
        from toolkit.run.report import make_report

        return make_report(self)


def _read_plan(path: Path) -> PrecisionPlan:
    return PrecisionPlan.from_json(json.loads(path.read_text(encoding="utf-8")))
