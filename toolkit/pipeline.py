"""A recipe run step by step; each step's result is kept and found again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import DataError, QtoolError, RecipeError
from toolkit.files import write_bytes, write_json, write_text
from toolkit.journal import Journal
from toolkit.plan import PrecisionPlan
from toolkit.recipe import Recipe
from toolkit.run_inputs import RunInputs, is_code
from toolkit.steps import RunFolder, StepInfo
from toolkit.versions import code_fingerprint, module_fingerprint, path_fingerprint, versions

if TYPE_CHECKING:
    from toolkit.calibration.ranges import Ranges
    from toolkit.graph_pass import Context
    from toolkit.model import Model
    from toolkit.report.schema import Report

Progress = Callable[[str, int, int], None]
StepListener = Callable[[StepInfo], None]


@dataclass
class Result:
    """What a run left.

    Attributes:
        folder: the run folder.
        report: the joined report.
        steps: what was done and what was found again.
        exit_status: 0, or 1 where a target was missed or the result is broken.
    """

    folder: Path
    report: Report
    steps: list[StepInfo] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        """0 done; 1 done, but the result misses its target or is broken."""
        return 0 if self.report.summary.verdict in ("usable", "unmeasured") else 1

    @property
    def files(self) -> list[Path]:
        """The files of the run folder that are for people and other tools."""
        return [p for name in FILES if (p := self.folder / name).exists()]


FILES = (
    "report.html",
    "report.json",
    "model.onnx",
    "model.engine",
    "ranges.json",
    "layers.json",
    "journal.jsonl",
    "recipe.lock.toml",
)


def run(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    allow_code: bool = False,
    progress: Progress | None = None,
    on_step: StepListener | None = None,
) -> Result:
    """Run a recipe: passes, lowering, engine, evaluation, report.

    Args:
        recipe: a recipe or the path of one.
        out: the run folder; ``runs/<recipe name>`` by default.
        allow_code: whether the recipe may name code (``module:Name``).
        progress: called with what is being done, how much is done, and of how much.
        on_step: called when a step is done or found again.

    Raises:
        QtoolError: bad input, a failing pass, or a backend that refuses; the message says what to do.
    """
    if not isinstance(recipe, Recipe):
        recipe = Recipe.load(recipe)
    folder = Path(out) if out is not None else Path("runs") / recipe.name
    with RunFolder(folder) as kept, import_path(recipe.folder if allow_code else None):
        return Pipeline(recipe, kept, allow_code, progress, on_step).run()


@contextmanager
def import_path(folder: Path | None) -> Iterator[None]:
    """Let modules beside the recipe be imported, where the user allows code."""
    if folder is None:
        yield
        return
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


class Pipeline(RunInputs):
    """One run of one recipe in one folder."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        allow_code: bool = False,
        progress: Progress | None = None,
        on_step: StepListener | None = None,
    ) -> None:
        super().__init__(recipe, folder, allow_code, progress)
        self.on_step = on_step or (lambda info: None)
        self.path = folder.path

    # ---------------------------------------------------------------- the whole

    def run(self) -> Result:
        """Do every step whose key changed, reuse the others, and join the report."""
        from toolkit.report.schema import Report

        self.inputs_exist()
        prepare_key = self._prepare_key()
        self._step("passes", prepare_key, self._prepare)
        lower_key = {
            **self._engine_key(),
            "prepared": self._hash(self.path / ".qtool/prepared.onnx"),
            "plan": self._hash(self.path / ".qtool/plan.json"),
            "ranges": self._hash(self.path / "ranges.json"),
        }
        self._step("lowering", lower_key, self._lower)
        model_hash = self._hash(self.path / "model.onnx")
        build_key = {**self._engine_key(), "model": model_hash, "profiles": repr(self.profiles), "gpu": _gpu()}
        self._step("engine", build_key, self._build)
        evaluate_key = {
            "float": self.print_of(self.model_path),
            "model": model_hash,
            "code": code_fingerprint(),
            "settings": self.recipe.evaluation.model_dump(mode="json"),
            **self._evaluation_data_key(),
        }
        self._step("evaluation", evaluate_key, self._evaluate)
        hidden = self.path / ".qtool"
        report_key = {
            "recipe": self.recipe.model_dump(mode="json", by_alias=True),
            "results": [
                self._hash(hidden / n) for n in ("build.json", "evaluation.json", "plan.json", "lowered_plan.json")
            ],
            "model": model_hash,
            "code": code_fingerprint(),
        }
        self._step("report", report_key, self._report)
        return Result(self.path, Report.load(self.path / "report.json"), self.folder.steps)

    def _step(self, name: str, key: Mapping[str, Any], work: Callable[[], list[Path]]) -> None:
        start = time.perf_counter()
        found, why = self.folder.find(name, key)
        if not found:
            self.folder.forget(name)
            self.folder.store(name, key, work())
        self.on_step(self.folder.done(name, time.perf_counter() - start, found, why))

    # ---------------------------------------------------------------- keys

    def _hash(self, path: Path) -> str:
        return path_fingerprint(path) if path.exists() else ""

    def _prepare_key(self) -> dict[str, Any]:
        settings = self.recipe.calibration.model_dump(mode="json")
        method = {k: settings.pop(k) for k in ("method", "percentile", "methods", "manual", "weights", "unlike")}
        return {
            "model": [self.print_of(self.model_path), self._external()],
            "passes": self.recipe.passes,
            "pass code": [
                module_fingerprint(p["use"].partition(":")[0]) for p in self.recipe.passes if is_code(p["use"])
            ]
            if self.allow_code
            else [],
            "profiles": repr(self.profiles),
            "calibration method": method,
            "calibration settings": settings,
            "calibration data": self.data_print(self.recipe.calibration.data),
            "given ranges": self.data_print(self.recipe.calibration.ranges),
            "held out": [self.recipe.evaluation.data is None, self.recipe.evaluation.hold_out],
            "rest": self.recipe.engine.rest,
            "services": self._pass_services_key(),
            "code": code_fingerprint(),
        }

    def _pass_services_key(self) -> list[Any]:
        """What passes that evaluate depend on besides: the evaluation's settings and data."""
        if not any(p["use"] in EVALUATING or is_code(p["use"]) for p in self.recipe.passes):
            return []
        return [self.recipe.evaluation.model_dump(mode="json"), self._evaluation_data_key()]

    def _external(self) -> list[str]:
        """Hashes of the files that hold the model's weights, where they are not in the model file."""
        import onnx

        from toolkit.onnx_file import tensors

        if self.model_path.stat().st_size > 200_000_000:
            return []
        try:
            proto = onnx.load(str(self.model_path), load_external_data=False)
        except Exception:
            return []
        found = {
            entry.value
            for tensor in tensors(proto.graph)
            if tensor.data_location == onnx.TensorProto.EXTERNAL
            for entry in tensor.external_data
            if entry.key == "location"
        }
        return [self._hash(self.model_path.parent / name) for name in sorted(found)]

    def _engine_key(self) -> dict[str, Any]:
        return {
            "engine": self.recipe.engine.model_dump(mode="json"),
            "versions": versions(),
            "code": code_fingerprint(),
        }

    def _evaluation_data_key(self) -> dict[str, Any]:
        return {
            "evaluation data": self.data_print(self.recipe.evaluation.data),
            "calibration data": self.data_print(self.recipe.calibration.data)
            if self.recipe.evaluation.data is None
            else "",
        }

    # ---------------------------------------------------------------- steps

    def _prepare(self) -> list[Path]:
        from toolkit.graph_pass import Sequence as PassSequence

        steps = self.passes()
        journal = Journal()
        journal.by = "load"
        model = self.source(journal).copy()
        context = self.context(model, journal)
        try:
            PassSequence(passes=steps)(model, context)
        except QtoolError as error:
            if not error.where:
                raise type(error)(error.what, where=str(self.recipe.path or ""), remedy=error.remedy) from error
            raise
        ranges = self._observed(model, context)
        hidden = self.folder.hidden
        model.source = None
        model.save(hidden / "prepared.onnx")
        write_json(hidden / "plan.json", context.plan.to_json())
        write_text(hidden / "passes.jsonl", journal.to_jsonl())
        written = [hidden / "prepared.onnx", hidden / "plan.json", hidden / "passes.jsonl"]
        if ranges is not None:
            ranges.save(self.path / "ranges.json")
            written.append(self.path / "ranges.json")
        for name in context.services.get("files", []):
            written.append(Path(name))
        return written

    def _observed(self, model: Model, context: Context) -> Ranges | None:
        """The ranges that the passes asked for, with what float16's limits need: values seen of every tensor."""
        ranges = context.known_ranges
        if (ranges is None or not ranges.observed) and context.provider is not None:
            ranges = context.ranges(self.source())
        if ranges is not None:
            ranges.made_from = {
                "model": self.print_of(self.model_path),
                "data": self.data_print(self.recipe.calibration.data),
                "settings": self.recipe.calibration.model_dump(mode="json"),
                "versions": versions(),
            }
        return ranges

    def _ranges(self) -> Ranges | None:
        from toolkit.calibration.ranges import Ranges

        path = self.path / "ranges.json"
        return Ranges.load(path) if path.exists() else None

    def _lower(self) -> list[Path]:
        from toolkit.backends.choose import choose
        from toolkit.backends.lowering import lower
        from toolkit.model import Model
        from toolkit.precision import Precision

        hidden = self.folder.hidden
        model = Model.load(hidden / "prepared.onnx")
        plan = _read_plan(hidden / "plan.json")
        journal = Journal()
        backend, _ = choose(self.recipe.engine.backend)
        typing = backend.typing_for(self.engine_settings())
        ranges = self._ranges()
        if typing == "weak":
            from toolkit.backends.weak import lower_weak

            final, plan = lower_weak(model, plan, self.engine_settings(), backend, journal)
        else:
            io = {name: Precision(value) for name, value in self.recipe.engine.io.items()}
            lowered = lower(
                model, plan, rest=self.recipe.rest, observed=ranges.observed if ranges else None, io=io, journal=journal
            )
            final, plan = lowered.model, lowered.plan
        final.source = None
        final.save(self.path / "model.onnx", ir_version=8 if typing == "weak" else 10)
        write_json(hidden / "lowered_plan.json", plan.to_json())
        write_text(hidden / "lowering.jsonl", journal.to_jsonl())
        return [self.path / "model.onnx", hidden / "lowered_plan.json", hidden / "lowering.jsonl"]

    def engine_settings(self) -> Any:
        """The recipe's engine settings as backends take them."""
        from toolkit.backends.base import EngineSettings

        section = self.recipe.engine
        keep = (
            "typing",
            "constraints",
            "quantization",
            "optimization_level",
            "refit",
            "version_compatible",
            "hardware_compatible",
            "sparse_weights",
            "calibrator",
            "measure",
        )
        settings = {name: getattr(section, name) for name in keep}
        settings["compute_capabilities"] = tuple(section.compute_capabilities)
        settings["workspace"] = section.workspace_mb << 20 if section.workspace_mb else None
        settings["tactic_sources"] = tuple(section.tactic_sources) if section.tactic_sources is not None else None
        if section.timing_cache is not None:
            settings["timing_cache"] = self.recipe.resolve(section.timing_cache)
        try:
            return EngineSettings(**settings)
        except ValueError as error:
            text = str(error).splitlines()[2].strip() if len(str(error).splitlines()) > 2 else str(error)
            raise RecipeError(text.split(" [type=")[0], where=self.recipe.locate("engine")) from error

    def _build(self) -> list[Path]:
        from toolkit.backends.attribution import attribute
        from toolkit.backends.base import Extras
        from toolkit.backends.choose import choose
        from toolkit.backends.layer import build_to_json
        from toolkit.model import Model

        hidden = self.folder.hidden
        backend, reason = choose(self.recipe.engine.backend)
        plan = _read_plan(hidden / "lowered_plan.json")
        log: list[str] = []
        extras = Extras(plan=plan, rest=self.recipe.engine.rest, ranges=self._ranges())
        try:
            build = backend.build(
                self.path / "model.onnx", self.profiles, self.engine_settings(), log.append, self.progress, extras
            )
        finally:
            if log:
                write_text(self.path / "build.log", "".join(f"{line}\n" for line in log))
        actuals = attribute(Model.load(self.path / "model.onnx"), build, plan)
        content = {
            "build": build_to_json(build),
            "reason": reason,
            "typing": backend.typing_for(self.engine_settings()),
            "engine_bytes": len(build.engine) if build.engine is not None else None,
            "actuals": {name: _actual_json(value) for name, value in actuals.items()},
        }
        write_json(hidden / "build.json", content)
        written = [hidden / "build.json"]
        if build.engine is not None:
            write_bytes(self.path / "model.engine", bytes(build.engine))
            written.append(self.path / "model.engine")
        if build.raw is not None:
            write_text(
                self.path / "layers.json", build.raw if isinstance(build.raw, str) else json.dumps(build.raw, indent=1)
            )
            written.append(self.path / "layers.json")
        return written

    def _evaluate(self) -> list[Path]:
        from toolkit.analysis.evaluate import evaluate
        from toolkit.model import Model

        source = self.source()
        data, held_out = self.evaluation_data(source)
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
        )
        write_json(path, {"measured": True, "held_out": held_out, "random": data.random, **found.to_json()})
        return [path]

    def _report(self) -> list[Path]:
        from toolkit.run_report import make_report

        return make_report(self)


EVALUATING = frozenset({"search_precision", "equalize", "smooth", "correct_bias"})
"""Built-in passes that look at the evaluation's settings and data."""


def _read_plan(path: Path) -> PrecisionPlan:
    return PrecisionPlan.from_json(json.loads(path.read_text(encoding="utf-8")))


def _actual_json(actual: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(actual)


def _gpu() -> str:
    from toolkit.backends.gpu import find_gpu

    gpu = find_gpu()
    return repr(gpu) if gpu is not None else ""
