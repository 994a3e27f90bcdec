"""The step "compare": the original model built in float precisions, for comparison with the quantized engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.backends.layers.layer import Build
from toolkit.base.errors import RecipeError
from toolkit.base.files import write_bytes
from toolkit.base.precision import Precision
from toolkit.contract.journal import Journal
from toolkit.contract.passes import Pass
from toolkit.contract.plan import PrecisionPlan
from toolkit.report.sections.payoff import Timed
from toolkit.run.inputs.engine_settings import engine_settings
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.keys.keys import engine_key, gpu_here, hashes
from toolkit.run.keys.pass_code import pass_code
from toolkit.run.keys.step import Record, Step
from toolkit.run.steps.passes import PassesRecord

if TYPE_CHECKING:
    from toolkit.backends.backend import Backend, EngineSettings
    from toolkit.contract.ranges import Ranges
    from toolkit.graph.model import Model


def comparable(job: Job) -> None:
    """Check that the engines of ``[engine] compare`` can be built and measured here.

    Raises:
        RecipeError: there is no GPU, no backend that can measure, or measuring is disabled.
    """
    from toolkit.backends.choose import choose

    section = job.recipe.engine
    if not section.compare:
        return
    obstacle = "measure is false" if not section.measure else choose(section.backend)[0].cannot_measure()
    if obstacle:
        raise RecipeError(
            f"[engine] compare builds the model in other precisions and compares latencies, but {obstacle}",
            where=job.recipe.locate("engine", "compare"),
            remedy="run on a machine with a GPU, TensorRT and cuda-python, or remove compare",
        )


@dataclass(frozen=True)
class PlainEngine:
    """The engine of the unquantized model in one precision.

    Attributes:
        build: the build, without the engine's bytes and the inspector's output.
        runs: for each node the names of the engine layers that run it.
        lacks: why the latency was not measured, by profile.
    """

    build: Build
    runs: dict[str, list[str]]
    lacks: dict[str, str]

    def timed(self) -> Timed:
        """The engine in the form that the report needs."""
        return Timed(self.build, self.runs)


class CompareRecord(Record):
    """The engines of the unquantized model, by precision."""

    engines: dict[str, PlainEngine]

    def engine_file(self, precision: str) -> Path | None:
        """The file of one engine; None if the backend built none."""
        return self.path(_engine(precision))

    def engines_key(self) -> dict[str, str]:
        """Digests of the engines' files."""
        return hashes(*(self._folder / _engine(name) for name in self.engines))


class CompareStep(Step[CompareRecord]):
    """Builds the unquantized model in the precisions of ``[engine] compare``."""

    name = "compare"
    kind = CompareRecord

    def __init__(self, inputs: Inputs, passes: PassesRecord) -> None:
        super().__init__(inputs)
        self.passes = passes

    def key(self) -> Mapping[str, Any]:
        """The float model, the ranges, the engine's settings, the profiles and the GPU."""
        return {
            **engine_key(self.job),
            "compare": self.recipe.engine.compare,
            "model": self.inputs.prints.of_model(),
            **self.passes.ranges_key(),
            "profiles": repr(self.job.profiles),
            "gpu": gpu_here(),
            "stripping": [pass_code(strip) for strip in _strippers()],
        }

    def run(self) -> CompareRecord:
        """Build each engine and measure its layers and latency.

        Q/DQ pairs already in the model are removed first. Nodes that exceed float16's range stay FP32, as in any run.

        Raises:
            BackendError: TensorRT refuses the model.
        """
        from toolkit.backends.choose import choose

        section, hidden, progress = self.recipe.engine, self.folder.hidden, self.job.progress
        backend, _ = choose(self.job.backend)
        settings = engine_settings(self.recipe, hidden).model_copy(
            update={"quantization": "explicit", "calibrator": "ranges"}
        )
        plain, ranges = self._plain(), self.passes.ranges()
        found: dict[str, PlainEngine] = {}
        files: list[str] = []
        for number, name in enumerate(section.compare):
            progress("compare", number, len(section.compare))
            engine, data = self._built(backend, settings, plain, name, ranges)
            found[name] = engine
            if data is not None:
                files.append(_engine(name))
                write_bytes(self.folder.path / files[-1], data)
        for stale in set(hidden.glob("compare_*.engine")) - {self.folder.path / file for file in files}:
            stale.unlink()
        progress("compare", len(section.compare), len(section.compare))
        return CompareRecord(engines=found, files=files)

    def _plain(self) -> Model:
        from toolkit.contract.context import Context
        from toolkit.placement.ops import DEQUANTIZE, QUANTIZE

        plain = self.inputs.source().copy()
        # weights stored in INT8 have a DequantizeLinear without a QuantizeLinear
        if any(node.op in (QUANTIZE, DEQUANTIZE) for node, _ in plain.walk()):
            for strip in _strippers():
                strip(plain, Context())
        return plain

    def _built(
        self, backend: Backend, settings: EngineSettings, plain: Model, name: str, ranges: Ranges | None
    ) -> tuple[PlainEngine, bytes | None]:
        from toolkit.backends.attribution.nodes import attribute
        from toolkit.backends.backend import Extras
        from toolkit.backends.lowering.prepare import lower_for, save_for

        profiles = self.job.profiles
        made = lower_for(
            backend,
            settings,
            plain,
            PrecisionPlan(),
            rest=Precision(name),
            observed=ranges.observed if ranges is not None else None,
            io={tensor: Precision(value) for tensor, value in self.recipe.engine.io.items()},
            journal=Journal(),
        )
        path = self.folder.hidden / f"compare_{name}.onnx"
        try:
            save_for(backend, settings, made.model, path)
            build = backend.build(path, profiles, settings, extras=Extras(plan=made.plan, rest=name))
        finally:
            for file in self.folder.hidden.glob(f"{path.name}*"):
                file.unlink()
        actuals = attribute(made.model, build, made.plan)
        runs = {node: list(actual.engine_layers) for node, actual in actuals.items() if actual.engine_layers}
        engine = PlainEngine(replace(build, engine=None, raw=None), runs, build.unmeasured(profiles))
        return engine, build.engine


def _strippers() -> list[Pass]:
    """The pass that removes Q/DQ pairs, if one is installed."""
    from toolkit.contract.registry import passes_with_role
    from toolkit.contract.roles import Role

    return [kind() for _, kind in passes_with_role(Role.STRIP)[:1]]


def _engine(precision: str) -> str:
    return f".qtool/compare_{precision}.engine"
